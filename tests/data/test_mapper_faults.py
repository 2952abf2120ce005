"""What a mapper refuses: the message names the picture, the annotation and the option."""
import copy

import pytest
from PIL import Image

from freqdino.data import build_mapper
from freqdino.data.mapper import MAPPERS

SQUARE = [2, 1, 6, 1, 6, 5, 2, 5]


def test_masks_or_boxes_that_the_mapper_needs(instance_set, mapped):
    name, path = instance_set([{"segmentation": [SQUARE]}, {"bbox": [2, 1, 4, 4]}])
    with pytest.raises(ValueError, match=r"0\.png \(image_id 10\), annotation 101: .*no segmentation, but masks .* on "
                                         r"boxes alone, set .* coco_boxes_detr and .*MASK_WEIGHT, DICE_WEIGHT"):
        mapped(name, "coco_instance_lsj")
    with pytest.raises(ValueError, match=r"0\.png \(image_id 10\), annotation 100: there is no bbox .*\*_instance\*"):
        mapped(name, "coco_boxes_detr")


def test_malformed_annotations_name_picture_and_annotation(instance_set, mapped):
    name, _ = instance_set([{"segmentation": [SQUARE]}])
    mapped(name, "coco_instance_lsj")
    for changes, message in (
            ({"segmentation": [[1, 2, 3, 4, 5]]}, "even count of at least 6 numbers; got 5"),
            ({"segmentation": {"size": [6, 8], "counts": "04"}}, "cover 4 pixels, the image has 6x8 = 48"),
            ({"category_id": 2}, "class index 2 is beyond the dataset's 2 classes")):
        record = copy.deepcopy(mapped.record)
        record["annotations"][0].update(changes)
        with pytest.raises(ValueError, match=rf"0\.png \(image_id 10\), annotation 100: .*{message}"):
            mapped.mapper(record)


def test_size_in_the_file_and_in_the_annotations(instance_set, mapped):
    name, _ = instance_set([], edit=lambda document: document["images"][0].update(width=9))
    with pytest.raises(ValueError, match=r"0\.png is 8x6 \(width x height\), its annotations say 9x6"):
        mapped(name, "coco_instance_lsj")


@pytest.mark.parametrize("segment, only_png, only_json", [
    ({"id": 301}, "[300]", "[301]"), (None, "[300, 70000]", "[]")])
def test_panoptic_png_and_json_that_differ(panoptic_set, mapped, segment, only_png, only_json):
    def edit(document):
        segments = document["annotations"][0]["segments_info"]
        segments[0].update(segment) if segment else segments.clear()
    with pytest.raises(ValueError, match=r"a\.png and its segments_info differ") as error:
        mapped(panoptic_set(edit), "coco_panoptic_lsj")
    assert f"only in the PNG {only_png}, only in the JSON {only_json}" in str(error.value)


def test_semantic_value_beyond_the_classes(semantic_set, mapped):
    with pytest.raises(ValueError, match=r"label map .*a\.png has the value 3, but the dataset has 3 classes \(0\.\.2"):
        mapped(semantic_set([[0, 3]]), "mask_former_semantic")


def test_label_map_of_another_size(semantic_set, mapped, tmp_path):
    name = semantic_set([[0, 1]])
    Image.new("L", (5, 4)).save(tmp_path / "labels" / "a.png")
    with pytest.raises(ValueError, match=r"label file .*a\.png is 5x4 \(width x height\), its picture is 2x1"):
        mapped(name, "mask_former_semantic")


@pytest.mark.parametrize("key", ["annotations", "sem_seg_file_name"])
def test_separated_needs_both_kinds_of_labels(separated_set, mapped, key):
    mapped(separated_set, "coco_panoptic_separated")
    del mapped.record[key]
    with pytest.raises(ValueError, match=rf"has no '{key}', which the mappers .*\*_separated"):
        mapped.mapper(mapped.record)


def test_mapper_that_does_not_fit_the_dataset(semantic_set, instance_set, config, mapped):
    name = semantic_set([[0]])
    with pytest.raises(ValueError, match="has no thing_classes"):
        mapped(name, "coco_instance_lsj")
    with pytest.raises(ValueError, match="has no 'pan_seg_file_name', which the mappers .* INPUT.DATASET_MAPPER_NAME"):
        mapped(name, "coco_panoptic_lsj")
    with pytest.raises(ValueError, match=r"DATASETS.TRAIN\[0\] = 'never_registered' has no stuff_classes"):
        build_mapper(config("never_registered", "mask_former_semantic"), is_train=True)


def test_unknown_mapper_lists_the_known_ones(config):
    with pytest.raises(ValueError, match="INPUT.DATASET_MAPPER_NAME is 'lsj'; known are ") as error:
        build_mapper(config("any", "lsj"), is_train=True)
    assert all(name in str(error.value) for name in MAPPERS)
    cfg = config("any", "coco_instance_lsj")
    cfg.DATASETS.TRAIN = ()
    with pytest.raises(ValueError, match="DATASETS.TRAIN is empty"):
        build_mapper(cfg, is_train=True)


def test_missing_picture_is_named(instance_set, mapped, tmp_path):
    name, _ = instance_set([])
    mapped(name, "coco_instance_lsj")
    (tmp_path / "images" / "0.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"images/0\.png does not exist"):
        mapped.mapper(mapped.record)

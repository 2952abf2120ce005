"""Records to model input: masks, boxes and classes worked out by hand, every reader, the faults that must be named."""
import copy

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from PIL import Image

from freqdino.data import build_mapper, register_custom_datasets
from freqdino.data.mapper import MAPPERS

SQUARE = [2, 1, 6, 1, 6, 5, 2, 5]


@pytest.fixture
def mapped(config):
    """Maps the first record of a dataset with the pictures left as they are, unless settings say otherwise."""
    def run(name, mapper, **settings):
        register_custom_datasets([name])
        cfg = config(name, mapper, **settings)
        run.mapper = build_mapper(cfg, is_train=True)
        if not settings:
            run.mapper.augmentations = T.AugmentationList([])
        run.record = DatasetCatalog.get(name)[0]
        return run.mapper(run.record)
    return run


def masks_of(sample):
    return sample["instances"].gt_masks.tensor


def test_polygons_and_rle_together(instance_set, mapped):
    column = np.zeros((6, 8), dtype=bool)
    column[2:4, 7] = True  # in column order 7 * 6 + 2 = 44 zeros, 2 ones, 2 zeros
    name, _ = instance_set([{"segmentation": [SQUARE, [0, 0, 1, 0, 1, 1, 0, 1]]},
                            {"category_id": 7, "segmentation": {"size": [6, 8], "counts": [44, 2, 2]}},
                            {"segmentation": {"size": [6, 8], "counts": [0, 48]}, "iscrowd": 1}])
    sample = mapped(name, "coco_instance_lsj")
    instances = sample["instances"]
    square = np.zeros((6, 8), dtype=bool)
    square[1:5, 2:6] = square[0, 0] = True
    assert masks_of(sample).dtype == torch.bool
    assert masks_of(sample).tolist() == [square.tolist(), column.tolist()]
    assert instances.gt_classes.tolist() == [0, 1] and instances.gt_classes.dtype == torch.int64
    assert instances.gt_boxes.tensor.tolist() == [[0, 0, 6, 5], [7, 2, 8, 4]]
    assert instances.image_size == (6, 8)
    assert sample["image"].shape == (3, 6, 8) and sample["image"].dtype == torch.uint8
    assert (sample["image_id"], sample["height"], sample["width"]) == (10, 6, 8)


def test_the_record_is_not_changed(instance_set, mapped):
    name, _ = instance_set([{"segmentation": [SQUARE]}])
    mapped(name, "coco_instance_lsj", IMAGE_SIZE=32)
    before = copy.deepcopy(mapped.record)
    mapped.mapper(mapped.record)
    assert mapped.record == before


def test_geometry_follows_the_picture(instance_set, mapped):
    """Bright object on black, given as polygon and as RLE: after any jitter both masks lie on the bright pixels."""
    counts = [20 * 60 + 10] + [30, 30] * 39 + [30, 20 + 20 * 60]
    box = [20, 10, 60, 10, 60, 40, 20, 40]
    name, path = instance_set([{"segmentation": [box]}, {"segmentation": {"size": [60, 80], "counts": counts}}],
                              size=(80, 60))
    pixels = np.zeros((60, 80, 3), np.uint8)
    pixels[10:40, 20:60] = 255
    Image.fromarray(pixels).save(path.parent / "images" / "0.png")
    np.random.seed(0)
    sample = mapped(name, "coco_instance_lsj", IMAGE_SIZE=64, MIN_SCALE=0.5, MAX_SCALE=2.0, RANDOM_FLIP="horizontal")
    for _ in range(8):
        bright = (sample["image"] > 140).all(dim=0)  # padding is 128
        assert bright.sum() > 30
        for mask in masks_of(sample):
            overlap = (mask & bright).sum() / (mask | bright).sum()
            assert overlap > 0.85  # they differ along the outline
        sample = mapped.mapper(mapped.record)


def test_boxes_are_those_of_the_cropped_masks(instance_set, mapped):
    name, _ = instance_set([{"segmentation": [SQUARE]}, {"segmentation": [[7, 0, 8, 0, 8, 1, 7, 1]]}])
    mapped(name, "coco_instance_lsj")
    mapped.mapper.augmentations = T.AugmentationList([T.CropTransform(4, 2, 3, 4)])  # x 4..7, y 2..6
    instances = mapped.mapper(mapped.record)["instances"]
    assert instances.gt_boxes.tensor.tolist() == [[0, 0, 2, 3]]  # the object at (7, 0) is cropped away
    assert instances.gt_masks.tensor.shape == (1, 4, 3)


@pytest.mark.parametrize("mapper", ["coco_instance_lsj", "coco_instance_detr", "mask_former_instance",
                                    "coco_boxes_lsj", "coco_boxes_detr"])
def test_pictures_without_objects(instance_set, mapped, mapper):
    name, _ = instance_set([])
    instances = mapped(name, mapper, IMAGE_SIZE=16, MIN_SIZE_TRAIN=(12,))["instances"]
    if "boxes" not in mapper:
        assert instances.gt_masks.tensor.shape == (0, *instances.image_size)
    assert instances.gt_boxes.tensor.shape == (0, 4) and instances.gt_classes.shape == (0,)
    assert instances.gt_classes.dtype == torch.int64


def test_objects_without_a_pixel_are_left_out(instance_set, mapped, caplog):
    name, _ = instance_set([
        {"segmentation": {"size": [6, 8], "counts": [48]}},  # no pixel
        {"segmentation": [[3.1, 3.1, 3.2, 3.1, 3.2, 3.2]]},  # smaller than one
        {"segmentation": [[20, 1, 30, 1, 30, 5]]},  # outside
        {"segmentation": [[6, 4, 20, 4, 20, 30, 6, 30]]}])  # partly outside: clipped
    sample = mapped(name, "coco_instance_lsj")
    assert sample["instances"].gt_boxes.tensor.tolist() == [[6, 4, 8, 6]]
    mapped.mapper(mapped.record)
    outside = [record.getMessage() for record in caplog.records if "outside" in record.getMessage()]
    assert len(outside) == 1
    assert "0.png (image_id 10), annotation 102 lies wholly outside the picture of 8x6 pixels" in outside[0]


def test_boxes_alone_follow_the_picture(instance_set, mapped, caplog):
    name, _ = instance_set([
        {"bbox": [2, 1, 4, 4]}, {"bbox": [7, 0, 1, 1], "segmentation": [SQUARE]},  # the segmentation is not looked at
        {"bbox": [5.5, 3, 20, 20], "category_id": 7}, {"bbox": [3, 3, 0, 2]}, {"bbox": [20, 1, 5, 5]},
        {"bbox": [0, 0, 8, 6], "iscrowd": 1}])
    sample = mapped(name, "coco_boxes_lsj")
    instances = sample["instances"]
    assert instances.gt_boxes.tensor.tolist() == [[2, 1, 6, 5], [7, 0, 8, 1], [5.5, 3, 8, 6]]
    assert instances.gt_boxes.tensor.dtype == torch.float32
    assert instances.gt_classes.tolist() == [0, 0, 1] and instances.gt_classes.dtype == torch.int64
    assert set(instances.get_fields()) == {"gt_classes", "gt_boxes"} and instances.image_size == (6, 8)
    # Twice as large, mirrored, then x 4..14 and y 4..12 of 16x12: [11, 6, 16, 12] becomes [0, 6, 5, 12] in the mirror.
    mapped.mapper.augmentations = T.AugmentationList([
        T.ResizeTransform(6, 8, 12, 16), T.HFlipTransform(16), T.CropTransform(4, 4, 10, 8)])
    instances = mapped.mapper(mapped.record)["instances"]
    assert instances.gt_boxes.tensor.tolist() == [[0, 0, 8, 6], [0, 2, 1, 8]]
    assert instances.gt_classes.tolist() == [0, 1] and instances.image_size == (8, 10)
    outside = [record.getMessage() for record in caplog.records if "outside" in record.getMessage()]
    assert len(outside) == 1 and "annotation 104 lies wholly outside the picture of 8x6 pixels" in outside[0]


def test_boxes_do_not_reach_into_the_padding(instance_set, mapped):
    name, _ = instance_set([{"bbox": [4, 3, 9, 9]}])
    sample = mapped(name, "coco_boxes_lsj", IMAGE_SIZE=16, MIN_SCALE=0.5, MAX_SCALE=0.5)  # 8x6 again, padded to 16x16
    assert sample["instances"].gt_boxes.tensor.tolist() == [[4, 3, 8, 6]]


def test_masks_or_boxes_that_the_mapper_needs(instance_set, mapped):
    name, path = instance_set([{"segmentation": [SQUARE]}, {"bbox": [2, 1, 4, 4]}])
    with pytest.raises(ValueError, match=r"0\.png \(image_id 10\), annotation 101: .*no segmentation, but masks .* on "
                                         r"boxes alone, set .* coco_boxes_detr and .*MASK_WEIGHT, DICE_WEIGHT"):
        mapped(name, "coco_instance_lsj")
    with pytest.raises(ValueError, match=r"0\.png \(image_id 10\), annotation 100: there is no bbox .*\*_instance\*"):
        mapped(name, "coco_boxes_detr")


def test_one_pixel_wide_picture(instance_set, mapped):
    name, _ = instance_set([{"segmentation": [[0, 1, 1, 1, 1, 9, 0, 9]]}], size=(1, 12))
    assert mapped(name, "coco_instance_lsj")["instances"].gt_boxes.tensor.tolist() == [[0, 1, 1, 9]]
    for mapper in ("coco_instance_lsj", "coco_instance_detr", "mask_former_instance"):
        sample = mapped(name, mapper, IMAGE_SIZE=24, MIN_SIZE_TRAIN=(8,), MAX_SIZE_TRAIN=40)
        assert sample["image"].shape[1:] == sample["instances"].image_size


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


def test_exif_rotated_picture_agrees_with_upright_annotations(instance_set, mapped, tmp_path):
    name, _ = instance_set([{"segmentation": [SQUARE]}])
    pixels = np.zeros((6, 8, 3), np.uint8)
    pixels[1:5, 2:6] = 255  # upright
    exif = Image.Exif()
    exif[0x0112] = 6  # stored rotated: to be turned clockwise
    Image.fromarray(np.rot90(pixels).copy()).save(tmp_path / "images" / "0.png", exif=exif)
    sample = mapped(name, "coco_instance_lsj")
    assert (masks_of(sample)[0] == (sample["image"][0] == 255)).all()


def test_panoptic(panoptic_set, mapped):
    sample = mapped(panoptic_set(), "coco_panoptic_lsj")
    left, right = torch.zeros(4, 6, dtype=torch.bool), torch.zeros(4, 6, dtype=torch.bool)
    left[:, :2], right[:, 4:] = True, True
    assert sample["instances"].gt_classes.tolist() == [1, 0]  # dog is id 20, sky is id 9
    assert (masks_of(sample) == torch.stack([left, right])).all()
    assert sample["instances"].gt_boxes.tensor.tolist() == [[0, 0, 2, 4], [4, 0, 6, 4]]
    assert "sem_seg" not in sample


def test_panoptic_padding_is_unlabelled_and_crowds_are_dropped(panoptic_set, mapped):
    def crowd(document):
        document["annotations"][0]["segments_info"][1]["iscrowd"] = 1
    sample = mapped(panoptic_set(crowd), "coco_panoptic_lsj", IMAGE_SIZE=12, MIN_SCALE=1.0, MAX_SCALE=1.0)
    assert sample["instances"].gt_classes.tolist() == [1]
    assert sample["instances"].gt_boxes.tensor.tolist() == [[0, 0, 4, 8]]  # twice as large, padded below
    assert sample["image"].shape == (3, 12, 12)


def test_panoptic_category_map_has_classes_and_ignored_pixels(panoptic_set, mapped):
    mapped(panoptic_set(), "mask_former_panoptic")
    reader = mapped.mapper.reader
    category_map = reader.category_map(reader.load(mapped.record, (4, 6)))
    assert category_map.tolist() == [[1, 1, 255, 255, 0, 0]] * 4


@pytest.mark.parametrize("segment, only_png, only_json", [
    ({"id": 301}, "[300]", "[301]"), (None, "[300, 70000]", "[]")])
def test_panoptic_png_and_json_that_differ(panoptic_set, mapped, segment, only_png, only_json):
    def edit(document):
        segments = document["annotations"][0]["segments_info"]
        segments[0].update(segment) if segment else segments.clear()
    with pytest.raises(ValueError, match=r"a\.png and its segments_info differ") as error:
        mapped(panoptic_set(edit), "coco_panoptic_lsj")
    assert f"only in the PNG {only_png}, only in the JSON {only_json}" in str(error.value)


@pytest.mark.parametrize("mapper", ["mask_former_semantic", "MaskDINO_semantic"])
def test_semantic(semantic_set, mapped, mapper):
    labels = [[0, 2, 2], [255, 2, 255]]
    sample = mapped(semantic_set(labels), mapper)
    assert sample["sem_seg"].tolist() == labels and sample["sem_seg"].dtype == torch.int64
    assert sample["instances"].gt_classes.tolist() == [0, 2]
    assert masks_of(sample).int().tolist() == [[[1, 0, 0], [0, 0, 0]], [[0, 1, 1], [0, 1, 0]]]
    assert sample["instances"].gt_boxes.tensor.tolist() == [[0, 0, 1, 1], [1, 0, 3, 2]]


def test_semantic_padding_is_ignored(semantic_set, mapped):
    name = semantic_set(np.zeros((10, 20)))
    sample = mapped(name, "mask_former_semantic", MIN_SIZE_TRAIN=(10,), SIZE_DIVISIBILITY=16)
    assert sample["image"].shape == (3, 16, 32)
    assert (sample["sem_seg"][:10, :20] == 0).all() and (sample["sem_seg"] == 255).sum() == 16 * 32 - 10 * 20
    assert masks_of(sample).sum() == 200


def test_semantic_value_beyond_the_classes(semantic_set, mapped):
    with pytest.raises(ValueError, match=r"label map .*a\.png has the value 3, but the dataset has 3 classes \(0\.\.2"):
        mapped(semantic_set([[0, 3]]), "mask_former_semantic")


def test_label_map_of_another_size(semantic_set, mapped, tmp_path):
    name = semantic_set([[0, 1]])
    Image.new("L", (5, 4)).save(tmp_path / "labels" / "a.png")
    with pytest.raises(ValueError, match=r"label file .*a\.png is 5x4 \(width x height\), its picture is 2x1"):
        mapped(name, "mask_former_semantic")


@pytest.fixture
def separated_set(tmp_path):
    """Registers a 8x6 picture with a square and a crowd among the things, and a label map; returns the name."""
    labels = np.full((6, 8), 2, np.uint8)
    labels[1:5, 2:6], labels[:, 7] = 0, 255
    Image.fromarray(labels).save(tmp_path / "labels.png")
    Image.new("RGB", (8, 6)).save(tmp_path / "picture.png")
    annotations = [{"category_id": 1, "segmentation": [SQUARE], "iscrowd": 0},
                   {"category_id": 0, "segmentation": {"size": [6, 8], "counts": [0, 48]}, "iscrowd": 1}]
    name = "mapper_test_separated"
    DatasetCatalog.register(name, lambda: [{
        "file_name": str(tmp_path / "picture.png"), "image_id": 1, "height": 6, "width": 8, "annotations": annotations,
        "sem_seg_file_name": str(tmp_path / "labels.png")}])
    MetadataCatalog.get(name).set(thing_classes=["cat", "dog"], stuff_classes=["things", "sky", "road"])
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.pop(name)


def test_separated(separated_set, mapped):
    sample = mapped(separated_set, "coco_panoptic_separated")
    assert sample["instances"].gt_classes.tolist() == [1]
    assert sample["instances"].gt_boxes.tensor.tolist() == [[2, 1, 6, 5]]
    expected = np.full((6, 8), 2)
    expected[1:5, 2:6], expected[:, 7] = 0, 255
    assert sample["sem_seg"].dtype == torch.int64 and sample["sem_seg"].tolist() == expected.tolist()


def test_separated_targets_follow_the_picture(separated_set, mapped):
    sample = mapped(separated_set, "coco_panoptic_separated", MIN_SIZE_TRAIN=(12,), RANDOM_FLIP="horizontal")
    for _ in range(4):
        things = sample["sem_seg"] == 0
        assert sample["image"].shape == (3, 12, 16) and things.sum() == 64
        assert torch.equal(masks_of(sample)[0], things)
        sample = mapped.mapper(mapped.record)


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


def test_test_mapper_resizes_and_has_no_targets(instance_set, config):
    name, _ = instance_set([{"segmentation": [SQUARE]}])
    register_custom_datasets([name])
    sample = build_mapper(config(name, "coco_instance_lsj", MIN_SIZE_TEST=12, MAX_SIZE_TEST=14), is_train=False)(
        DatasetCatalog.get(name)[0])
    assert sample["image"].shape == (3, 11, 14)  # 8x6 to 16x12, then down to 14 wide: 10.5 rounds up
    assert set(sample) == {"image", "file_name", "image_id", "height", "width"}
    assert (sample["height"], sample["width"]) == (6, 8)


def test_missing_picture_is_named(instance_set, mapped, tmp_path):
    name, _ = instance_set([])
    mapped(name, "coco_instance_lsj")
    (tmp_path / "images" / "0.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"images/0\.png does not exist"):
        mapped.mapper(mapped.record)

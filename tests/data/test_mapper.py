"""Records to model input: masks, boxes and classes worked out by hand, every reader."""
import copy

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T
from PIL import Image

from freqdino.data import build_mapper, register_custom_datasets

SQUARE = [2, 1, 6, 1, 6, 5, 2, 5]


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


def test_one_pixel_wide_picture(instance_set, mapped):
    name, _ = instance_set([{"segmentation": [[0, 1, 1, 1, 1, 9, 0, 9]]}], size=(1, 12))
    assert mapped(name, "coco_instance_lsj")["instances"].gt_boxes.tensor.tolist() == [[0, 1, 1, 9]]
    for mapper in ("coco_instance_lsj", "coco_instance_detr", "mask_former_instance"):
        sample = mapped(name, mapper, IMAGE_SIZE=24, MIN_SIZE_TRAIN=(8,), MAX_SIZE_TRAIN=40)
        assert sample["image"].shape[1:] == sample["instances"].image_size


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


def test_test_mapper_resizes_and_has_no_targets(instance_set, config):
    name, _ = instance_set([{"segmentation": [SQUARE]}])
    register_custom_datasets([name])
    sample = build_mapper(config(name, "coco_instance_lsj", MIN_SIZE_TEST=12, MAX_SIZE_TEST=14), is_train=False)(
        DatasetCatalog.get(name)[0])
    assert sample["image"].shape == (3, 11, 14)  # 8x6 to 16x12, then down to 14 wide: 10.5 rounds up
    assert set(sample) == {"image", "file_name", "image_id", "height", "width"}
    assert (sample["height"], sample["width"]) == (6, 8)

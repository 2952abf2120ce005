"""The recipes: sizes, padding and label values on pictures small enough to work out, thin pictures, bad settings."""
import numpy as np
import pytest
from detectron2.data import transforms as T

from freqdino.data.augmentation import (
    CategoryLimitedCrop,
    PadToMultiple,
    RandomCrop,
    crop_recipe,
    detr_recipe,
    inference_recipe,
    large_scale_jitter,
)


def augment(recipe, image, labels=None):
    augmented = T.AugInput(image, sem_seg=labels)
    T.AugmentationList(recipe)(augmented)
    return augmented.image, augmented.sem_seg


def test_jitter_at_scale_one_fits_and_pads(config):
    cfg = config("any", "coco_instance_lsj", IMAGE_SIZE=8, MIN_SCALE=1.0, MAX_SCALE=1.0)
    image, labels = augment(large_scale_jitter(cfg, label_padding=9),
                            np.full((4, 8, 3), 50, np.uint8), np.ones((4, 8), np.uint8))
    assert image.shape == (8, 8, 3)
    assert (image[:4] == 50).all() and (image[4:] == 128).all()
    assert (labels[:4] == 1).all() and (labels[4:] == 9).all()


@pytest.mark.parametrize("shape", [(1, 400), (400, 1), (1, 1)])
def test_thin_pictures_keep_a_pixel(config, shape):
    cfg = config("any", "coco_instance_lsj", IMAGE_SIZE=16, MIN_SCALE=0.1, MAX_SCALE=0.5, MIN_SIZE_TRAIN=(32,),
                 MAX_SIZE_TRAIN=64, MIN_SIZE_TEST=32, MAX_SIZE_TEST=64, crop=("relative", [0.1, 0.1]))
    image = np.full((*shape, 3), 7, np.uint8)
    for recipe in (large_scale_jitter, crop_recipe, detr_recipe):
        result, _ = augment(recipe(cfg, label_padding=0), image)
        assert min(result.shape[:2]) >= 1 and (result == 7).any()
    assert min(augment(inference_recipe(cfg), image)[0].shape[:2]) >= 1


@pytest.mark.parametrize("size, padded", [((5, 7), (8, 8)), ((8, 8), (8, 8)), ((9, 3), (16, 8))])
def test_padding_never_crops(size, padded):
    image, labels = augment([PadToMultiple(divisor=8, label_padding=255)],
                            np.zeros((*size, 3), np.uint8), np.zeros(size, np.uint8))
    assert image.shape[:2] == labels.shape == padded
    assert (image[:size[0], :size[1]] == 0).all() and (image == 0).all(axis=2).sum() == size[0] * size[1]
    assert (labels == 255).sum() == padded[0] * padded[1] - size[0] * size[1]


def test_crop_recipe_sizes(config):
    cfg = config("any", "mask_former_semantic", MIN_SIZE_TRAIN=(10, 20), MIN_SIZE_TRAIN_SAMPLING="choice",
                 MAX_SIZE_TRAIN=100, SIZE_DIVISIBILITY=16, COLOR_AUG_SSD=True,
                 crop=("absolute", [12, 12]))
    recipe = crop_recipe(cfg, label_padding=255)
    rng = np.random.default_rng(0)
    for _ in range(5):
        image, labels = augment(recipe, rng.integers(0, 256, (30, 40, 3), dtype=np.uint8), np.zeros((30, 40), np.uint8))
        assert image.shape == (16, 16, 3) and image.dtype == np.uint8
        assert (labels == 0).sum() in (12 * 12, 10 * 12)  # the 13-pixel edge of 10x13 is cropped to 12


def test_category_limited_crop_avoids_one_class():
    labels = np.zeros((20, 40), np.uint8)
    labels[:, 20:] = 1
    crop = CategoryLimitedCrop(crop=RandomCrop("absolute", (20, 20)), single_category_max_area=0.75)
    np.random.seed(0)
    shares = [(crop.get_transform(np.zeros((20, 40, 3), np.uint8), labels).apply_segmentation(labels)).mean()
              for _ in range(50)]
    assert np.mean([0.25 < share < 0.75 for share in shares]) > 0.95  # without the limit it is a half
    assert crop.get_transform(np.zeros((20, 40, 3), np.uint8), None).w == 20


def test_detr_recipe_has_both_branches(config):
    cfg = config("any", "coco_instance_detr", MIN_SIZE_TRAIN=(30,), MAX_SIZE_TRAIN=60, crop=("absolute", [300, 200]))
    np.random.seed(0)
    shapes = {augment(detr_recipe(cfg, label_padding=0), np.zeros((20, 30, 3), np.uint8))[0].shape[:2]
              for _ in range(12)}
    assert shapes == {(30, 45), (45, 30)}  # the whole picture, and the crop of 300 by 200


@pytest.mark.parametrize("settings, message", [
    ({"IMAGE_SIZE": 0}, "INPUT.IMAGE_SIZE is 0"),
    ({"MIN_SCALE": 0.0}, "INPUT.MIN_SCALE 0.0 and INPUT.MAX_SCALE 2.0"),
    ({"MIN_SCALE": 3.0}, "expected 0 < MIN_SCALE <= MAX_SCALE"),
    ({"RANDOM_FLIP": "diagonal"}, "INPUT.RANDOM_FLIP is 'diagonal'; known are horizontal, vertical, none"),
])
def test_settings_out_of_range_name_the_key(config, settings, message):
    with pytest.raises(ValueError, match=message):
        large_scale_jitter(config("any", "coco_instance_lsj", **settings), label_padding=0)


@pytest.mark.parametrize("crop, message", [
    (("square", [8, 8]), "INPUT.CROP.TYPE is 'square'; known are relative, relative_range, absolute, absolute_range"),
    (("relative", [0.5, 1.5]), r"INPUT.CROP.SIZE is \[0.5, 1.5\]; relative wants two numbers above 0, at most 1.0"),
    (("absolute", [0.5, 0.5]), r"INPUT.CROP.SIZE is \[0.5, 0.5\]; absolute wants whole numbers of pixels"),
    (("absolute", [0, 8]), r"INPUT.CROP.SIZE is \[0, 8\]")])
def test_crop_settings_out_of_range_name_the_key(config, crop, message):
    with pytest.raises(ValueError, match=message):
        crop_recipe(config("any", "mask_former_semantic", crop=crop), label_padding=0)

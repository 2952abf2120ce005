"""INPUT.EXTRA_AUGMENTATIONS: pictures and targets move together, beyond the picture nothing is labelled."""
import numpy as np
import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog
from PIL import Image

from freqdino.config import load_config
from freqdino.data import build_mapper, register_custom_datasets
from freqdino.data.segmentation import encode_rle

KEY = "INPUT.EXTRA_AUGMENTATIONS"
BLOCK = [10, 6, 30, 6, 30, 16, 10, 16]      # x 10..30, y 6..16 of 40x24
GEOMETRY = {"flip": ["RandomFlip", {"prob": 1.0}], "quarter": ["RandomRotation", [90, 90]],
            "rotation": ["RandomRotation", [20, 20], {"expand": False}], "crop": ["RandomCrop", "absolute", [15, 20]],
            "extent": ["RandomExtent", [0.6, 0.6], [0.2, 0.2]], "resize": ["Resize", [48, 80]]}


def sample_of(config, name, mapper, *entries, seed=0, **settings):
    """The first record's sample, of pictures that the recipe leaves as they are, padded to a square of 64 pixels."""
    register_custom_datasets([name])
    if not settings:
        settings = {"IMAGE_SIZE": 64, "MIN_SCALE": 1.0, "MAX_SCALE": 1.0}
    cfg = config(name, mapper, EXTRA_AUGMENTATIONS=list(entries), **settings)
    np.random.seed(seed)
    return build_mapper(cfg, is_train=True)(DatasetCatalog.get(name)[0])


def white_block(path):
    """A picture that is white where `BLOCK` is and grey, as padding is not, elsewhere."""
    pixels = np.full((24, 40, 3), 40, np.uint8)
    pixels[6:16, 10:30] = 255
    Image.fromarray(pixels).save(path)


@pytest.mark.parametrize("entry", GEOMETRY.values(), ids=GEOMETRY)
@pytest.mark.parametrize("shape", ["polygon", "rle"])
def test_masks_follow_the_picture(instance_set, config, tmp_path, entry, shape):
    mask = np.zeros((24, 40), bool)
    mask[6:16, 10:30] = True
    name, _ = instance_set([{"segmentation": [BLOCK] if shape == "polygon" else encode_rle(mask)}], size=(40, 24))
    white_block(tmp_path / "images" / "0.png")
    sample = sample_of(config, name, "coco_instance_lsj", entry)
    white, mask = sample["image"][0] > 150, sample["instances"].gt_masks.tensor[0]
    # An outline differs by half a pixel around it at most, a mask, resized to the nearest, by one of half their size.
    around = 2 * (np.ptp(torch.where(mask)[0]) + np.ptp(torch.where(mask)[1]))
    assert mask.sum() > 300 and (white != mask).sum() <= around * (0.5 if shape == "polygon" else 1.4)
    columns, rows = torch.where(mask.any(0))[0], torch.where(mask.any(1))[0]
    assert sample["instances"].gt_boxes.tensor.tolist() == [[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]]


def test_a_quarter_turn_by_hand(instance_set, config, tmp_path):
    """90 degrees to the left: pixel (x, y) of 40x24 goes to (y, 39 - x); then 24x40 is enlarged by 1.6."""
    name, _ = instance_set([{"segmentation": [BLOCK]}], size=(40, 24))
    white_block(tmp_path / "images" / "0.png")
    sample = sample_of(config, name, "coco_instance_lsj", GEOMETRY["quarter"])
    left, top, right, bottom = sample["instances"].gt_boxes.tensor[0].tolist()
    assert (left, top, right, bottom) == pytest.approx((6 * 1.6, 10 * 1.6, 16 * 1.6, 30 * 1.6), abs=1.6)


def test_label_maps_are_ignored_beyond_the_picture(semantic_set, config):
    """Turned by 45 degrees without a larger canvas, the corners of a map that is 0 everywhere are no class."""
    name = semantic_set(np.zeros((32, 32)))
    sample = sample_of(config, name, "mask_former_semantic", ["RandomRotation", [45, 45], {"expand": False}],
                       MIN_SIZE_TRAIN=(32,), MAX_SIZE_TRAIN=32)
    labels = sample["sem_seg"]
    assert (labels[[0, 0, 31, 31], [0, 31, 0, 31]] == 255).all() and (labels[8:24, 8:24] == 0).all()
    # What is left of the square: an octagon of 2 (sqrt(2) - 1) of its area, 83 %.
    assert (labels == 0).float().mean() == pytest.approx(2 * (2 ** 0.5 - 1), abs=0.03)
    assert sample["instances"].gt_masks.tensor.sum() == (labels == 0).sum()


def test_panoptic_segments_follow(panoptic_set, config):
    """Mirrored: stuff, x 4..6 of 6, is at x 0..2, the thing at 4..6."""
    sample = sample_of(config, panoptic_set(), "coco_panoptic_lsj", ["RandomFlip", 1.0],
                       IMAGE_SIZE=6, MIN_SCALE=1.0, MAX_SCALE=1.0)
    assert sample["instances"].gt_boxes.tensor.tolist() == [[4, 0, 6, 4], [0, 0, 2, 4]]


@pytest.mark.parametrize("mapper", ["coco_instance_lsj", "coco_boxes_lsj"])
def test_what_is_cut_off_does_not_come_back_in_the_padding(instance_set, config, mapper):
    """Crops of 4x6 of an object that fills 8x6, then padding to 12x12: the object is 4x6. A second one, in the last
    column, is there in those that reach it, and nowhere else."""
    name, _ = instance_set([{"segmentation": [[0, 0, 8, 0, 8, 6, 0, 6]], "bbox": [0, 0, 8, 6]},
                            {"segmentation": [[7, 0, 8, 0, 8, 6, 7, 6]], "bbox": [7, 0, 1, 6], "category_id": 7}])
    found = set()
    for seed in range(8):
        sample = sample_of(config, name, mapper, ["RandomCrop", "absolute", [6, 4]], seed=seed,
                           IMAGE_SIZE=12, MIN_SCALE=0.5, MAX_SCALE=0.5)
        assert (sample["image"][:, 6:] == 128).all() and (sample["image"][:, :, 4:] == 128).all()
        boxes = sample["instances"].gt_boxes.tensor.tolist()
        assert boxes in ([[0, 0, 4, 6]], [[0, 0, 4, 6], [3, 0, 4, 6]])
        found.add(len(boxes))
        if mapper == "coco_instance_lsj":
            assert sample["instances"].gt_masks.tensor.sum(dim=(1, 2)).tolist() == [24, 6][:len(boxes)]
    assert found == {1, 2}


def test_brightness_changes_the_picture_alone(instance_set, config, tmp_path):
    name, _ = instance_set([{"segmentation": [BLOCK]}], size=(40, 24))
    white_block(tmp_path / "images" / "0.png")
    settings = {"IMAGE_SIZE": 40, "MIN_SCALE": 1.0, "MAX_SCALE": 1.0}
    sample = sample_of(config, name, "coco_instance_lsj", ["RandomBrightness", 0.5, 0.5], **settings)
    assert sample["image"][0, 10, 20] == 127 and sample["image"][0, 0, 0] == 20
    assert sample["image"][0, 30, 0] == 128             # padding comes after it
    assert sample["instances"].gt_boxes.tensor.tolist() == [[10, 6, 30, 16]]


def test_random_apply_holds_an_entry(instance_set, config, tmp_path):
    name, _ = instance_set([{"segmentation": [BLOCK]}], size=(40, 24))
    white_block(tmp_path / "images" / "0.png")
    register_custom_datasets([name])
    cfg = config(name, "coco_instance_lsj", IMAGE_SIZE=40, MIN_SCALE=1.0, MAX_SCALE=1.0,
                 EXTRA_AUGMENTATIONS=[["RandomApply", ["RandomBrightness", 0.5, 0.5], {"prob": 0.3}]])
    mapper, record = build_mapper(cfg, is_train=True), DatasetCatalog.get(name)[0]
    np.random.seed(0)
    values = [int(mapper(record)["image"][0, 0, 0]) for _ in range(40)]
    assert set(values) == {20, 40} and 4 <= values.count(20) <= 20


def test_building_draws_nothing(instance_set, config):
    name, _ = instance_set([{"segmentation": [[0, 0, 8, 0, 8, 6]]}])
    register_custom_datasets([name])
    cfg = config(name, "coco_instance_lsj", EXTRA_AUGMENTATIONS=[["RandomBrightness", 0.8, 1.2], "RandomFlip"])
    np.random.seed(3)
    build_mapper(cfg, is_train=True)
    drawn = np.random.rand()
    np.random.seed(3)
    assert drawn == np.random.rand()


@pytest.mark.parametrize("entry, message", [
    (["RandomBrigthness", 0.8, 1.2], r"there is no augmentation 'RandomBrigthness' .*; the nearest are RandomBri"),
    (["HFlipTransform", 8], "there is no augmentation 'HFlipTransform' of a picture alone"),
    (["MinIoURandomCrop"], "there is no augmentation 'MinIoURandomCrop' of a picture alone"),
    (0.8, r"entry 1, 0.8: expected \[name, argument, ..., .*\], such as \['RandomBrightness', 0.8, 1.2\]"),
    ([], r"entry 1, \[\]: expected \[name"),
    (["RandomBrightness", 0.8], r"RandomBrightness takes \(intensity_min, intensity_max\) and refuses these: missing"),
    (["RandomBrightness", 0.8, 1.2, {"prob": 1}], "refuses these: got an unexpected keyword argument 'prob'"),
    (["RandomBrightness", "dark", "light"], r"entry 1, .* RandomBrightness takes .* and refuses these: "),
    (["RandomFlip", {"vertical": True}], "RandomFlip takes .* and refuses these: Cannot do both horiz and vert"),
    (["RandomApply", ["RandomFlop"]], "entry 1, .*RandomApply.*: there is no augmentation 'RandomFlop'"),
    (["RandomApply", ["RandomContrast", "a", "b"], 0.1], "RandomContrast takes"),
    (["RandomApply"], "RandomApply takes .tfm_or_aug, prob=0.5. and refuses these: missing"),
])
def test_bad_entries_name_the_key(instance_set, config, entry, message):
    name, _ = instance_set([])
    register_custom_datasets([name])
    with pytest.raises(ValueError, match=message) as error:
        build_mapper(config(name, "coco_instance_lsj", EXTRA_AUGMENTATIONS=[entry]), is_train=True)
    assert str(error.value).startswith(f"{KEY}, entry 1, ")


def test_weights_of_colours_need_their_order(instance_set, config):
    name, _ = instance_set([])
    register_custom_datasets([name])
    cfg = config(name, "coco_instance_lsj", EXTRA_AUGMENTATIONS=[["RandomSaturation", 0.8, 1.2]])
    build_mapper(cfg, is_train=True)
    cfg.INPUT.FORMAT = "BGR"
    with pytest.raises(ValueError, match="RandomSaturation reads red, green and blue .* but INPUT.FORMAT is BGR"):
        build_mapper(cfg, is_train=True)


ENTRIES = [["RandomBrightness", 0.8, 1.2], ["RandomRotation", [-10, 10], {"expand": False}], "RandomFlip"]


@pytest.mark.parametrize("written", [
    "[[RandomBrightness, 0.8, 1.2], [RandomRotation, [-10, 10], {expand: false}], RandomFlip]", str(ENTRIES)])
def test_yaml_writes_it(tmp_path, written):
    (tmp_path / "a.yaml").write_text(f"INPUT:\n  EXTRA_AUGMENTATIONS: {written}\n")
    cfg = load_config(str(tmp_path / "a.yaml"))
    assert cfg.INPUT.EXTRA_AUGMENTATIONS == ENTRIES
    assert yaml.safe_load(cfg.dump())["INPUT"]["EXTRA_AUGMENTATIONS"] == ENTRIES


def test_the_command_line_writes_it(tmp_path):
    (tmp_path / "a.yaml").write_text("{}")
    for written, expected in ((str(ENTRIES), ENTRIES), ("RandomFlip", ["RandomFlip"]), ("[]", [])):
        assert load_config(str(tmp_path / "a.yaml"), [KEY, written]).INPUT.EXTRA_AUGMENTATIONS == expected

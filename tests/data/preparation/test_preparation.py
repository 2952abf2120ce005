"""The preparation scripts on datasets of a few pixels: files, values and records as the loaders want them."""
import json
import subprocess
import sys

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image

import freqdino.data  # noqa: F401  (registers the names)
from freqdino.commands.prepare import prepare
from helpers.paths import ROOT

SCRIPTS = ROOT / "datasets"


@pytest.fixture
def ade20k(tmp_path, monkeypatch):
    """One 6x4 picture: wall (1) on the left, bed (8) in the middle, unlabelled on the right; two beds and one lamp."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    root = tmp_path / "ADEChallengeData2016"
    for folder in ("images", "annotations", "annotations_instance"):
        (root / folder / "validation").mkdir(parents=True)
    semantic = np.zeros((4, 6), np.uint8)
    semantic[:, :2], semantic[:, 2:5] = 1, 8
    instance = np.zeros((4, 6, 3), np.uint8)
    instance[:2, 2:4] = (1, 1, 0)  # class 1 of 100: bed
    instance[2:, 2:4] = (1, 2, 0)
    instance[0, 0] = (12, 3, 0)  # class 12: over the wall
    name = "ADE_val_00000007"
    Image.new("RGB", (6, 4)).save(root / "images" / "validation" / f"{name}.jpg")
    Image.fromarray(semantic).save(root / "annotations" / "validation" / f"{name}.png")
    Image.fromarray(instance).save(root / "annotations_instance" / "validation" / f"{name}.png")
    return root


def error_of(capsys, name, words):
    """The sentence with which a preparation ends."""
    assert prepare(name, words) == 1
    return capsys.readouterr().err


def arguments(root):
    return ["--root", str(root), "--processes", "1"]


def test_ade20k_semantic(ade20k):
    prepare("ade20k_sem_seg", [*arguments(ade20k.parent), "--splits", "val"])
    labels = np.asarray(Image.open(ade20k / "annotations_detectron2" / "validation" / "ADE_val_00000007.png"))
    assert labels.dtype == np.uint8 and labels.tolist() == [[0, 0, 7, 7, 7, 255]] * 4


def test_ade20k_instance(ade20k):
    prepare("ade20k_instance", [*arguments(ade20k.parent), "--splits", "val"])
    document = json.loads((ade20k / "ade20k_instance_val.json").read_text())
    assert document["images"] == [{"id": 7, "file_name": "ADE_val_00000007.jpg", "height": 4, "width": 6}]
    assert len(document["categories"]) == 100 and document["categories"][0] == {"id": 7, "name": "bed"}
    beds = [annotation for annotation in document["annotations"] if annotation["category_id"] == 7]
    assert [bed["bbox"] for bed in beds] == [[2, 0, 2, 2], [2, 2, 2, 2]]
    assert mask_util.decode(beds[0]["segmentation"]).tolist() == [[0, 0, 1, 1, 0, 0]] * 2 + [[0] * 6] * 2
    assert sorted(annotation["id"] for annotation in document["annotations"]) == [1, 2, 3]
    record, = DatasetCatalog.get("ade20k_instance_val")
    assert sorted(annotation["category_id"] for annotation in record["annotations"])[:2] == [0, 0]


def test_ade20k_panoptic(ade20k):
    prepare("ade20k_sem_seg", [*arguments(ade20k.parent), "--splits", "val"])
    prepare("ade20k_panoptic", [*arguments(ade20k.parent), "--splits", "val"])
    prepare("ade20k_instance", [*arguments(ade20k.parent), "--splits", "val"])
    record, = DatasetCatalog.get("ade20k_panoptic_val")
    colors = np.asarray(Image.open(record["pan_seg_file_name"])).astype(int)
    ids = colors @ [1, 256, 65536]
    areas = {}
    for segment in record["segments_info"]:
        assert segment["area"] == (ids == segment["id"]).sum()
        areas.setdefault(segment["category_id"], []).append(segment["area"])
    lamp, = set(areas) - {0, 7}
    assert areas == {0: [7], 7: [4, 4], lamp: [1]}  # the bed pixels in column 4 belong to no object
    assert (ids == 0).sum() == 8
    assert record["image_id"] == 7 and record["sem_seg_file_name"].endswith("validation/ADE_val_00000007.png")


def test_ade20k_values_out_of_range(ade20k, capsys):
    path = ade20k / "annotations" / "validation" / "ADE_val_00000007.png"
    Image.fromarray(np.full((4, 6), 151, np.uint8)).save(path)
    error = error_of(capsys, "ade20k_sem_seg", [*arguments(ade20k.parent), "--splits", "val"])
    assert "ADE_val_00000007.png has the value 151; expected 0..150" in error
    path = ade20k / "annotations_instance" / "validation" / "ADE_val_00000007.png"
    Image.new("RGB", (6, 4), (101, 1, 0)).save(path)
    error = error_of(capsys, "ade20k_instance", [*arguments(ade20k.parent), "--splits", "val"])
    assert "ADE_val_00000007.png: an object has the class 101 in its R channel; expected 1..100" in error


def test_missing_folder_is_named(ade20k, capsys):
    error = error_of(capsys, "ade20k_sem_seg", [*arguments(ade20k.parent), "--splits", "train"])
    assert "there is no *.png in" in error and "annotations/training; datasets/README.md describes" in error


@pytest.mark.parametrize(("script_name", "folder", "expected"), [
    ("prepare_coco_semantic", "panoptic_semseg_val2017", [[2, 255, 1], [255, 0, 3]]),
    ("prepare_coco_stuff", "panoptic_stuff_val2017", [[1, 255, 0], [255, 0, 2]]),
])
def test_coco_label_maps_from_the_command_line(tmp_path, script_name, folder, expected):
    coco = tmp_path / "coco"
    for source in ("annotations", "panoptic_val2017"):
        (coco / source).mkdir(parents=True)
    colors = np.zeros((2, 3, 3), np.uint8)
    colors[0, 0], colors[0, 2], colors[1, 1], colors[1, 2] = (5, 0, 0), (0, 1, 0), (6, 0, 0), (7, 0, 0)
    categories = [{"id": 95, "name": "bridge", "isthing": 0}, {"id": 92, "name": "banner", "isthing": 0},
                  {"id": 2, "name": "bicycle", "isthing": 1}, {"id": 1, "name": "person", "isthing": 1}]
    segments = [{"id": 5, "category_id": 92}, {"id": 256, "category_id": 2}, {"id": 6, "category_id": 1},
                {"id": 7, "category_id": 95}]
    document = {"categories": categories, "annotations": []}
    for name in ("a.png", "b.png"):
        Image.fromarray(colors).save(coco / "panoptic_val2017" / name)
        document["annotations"].append({"file_name": name, "segments_info": segments})
    (coco / "annotations" / "panoptic_val2017.json").write_text(json.dumps(document))
    output = subprocess.run([sys.executable, SCRIPTS / f"{script_name}.py", "--root", tmp_path, "--splits", "val2017",
                             "--processes", "2"], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert f"wrote {coco / folder}" in output.stdout and "2/2" in output.stderr
    for name in ("a.png", "b.png"):
        assert np.asarray(Image.open(coco / folder / name)).tolist() == expected

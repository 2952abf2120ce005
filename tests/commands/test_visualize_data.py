"""tools/visualize_data.py: both sides for every mapper, the lot, and errors."""
import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.visualizer import Visualizer
from PIL import Image

from freqdino.commands import visualize_data
from freqdino.data.mapper import MAPPERS
from freqdino.data.panoptic_png import id_to_rgb
from freqdino.visualization.drawing import Drawing

HEIGHT, WIDTH, IMAGES = 40, 60, 3


@pytest.fixture
def data(tmp_path):
    """Own data of every kind: three pictures whose left half, of class "cat", is white and whose right half is grey."""
    halves = np.tile(np.arange(WIDTH) // (WIDTH // 2), (HEIGHT, 1))
    for folder in ("images", "segments", "labels"):
        (tmp_path / folder).mkdir()
    images, annotations, segments = [], [], []
    for number in range(1, IMAGES + 1):
        name = f"{number}.png"
        Image.fromarray(np.where(halves == 0, 250, 100).astype(np.uint8)).save(tmp_path / "images" / name)
        Image.fromarray(id_to_rgb(halves * 8 + (1 - halves) * 7)).save(tmp_path / "segments" / name)
        Image.fromarray(np.where(halves == 0, 0, 255).astype(np.uint8)).save(tmp_path / "labels" / name)
        images.append({"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH})
        annotations.append({"id": number, "image_id": number, "category_id": 1, "bbox": [0, 0, WIDTH // 2, HEIGHT],
                            "segmentation": [[0, 0, WIDTH // 2, 0, WIDTH // 2, HEIGHT, 0, HEIGHT]]})
        segments.append({"image_id": number, "file_name": name, "segments_info": [
            {"id": 7, "category_id": 1}, {"id": 8, "category_id": 2, "iscrowd": 1}]})
    categories = [{"id": 1, "name": "cat", "isthing": 1}, {"id": 2, "name": "crowd", "isthing": 1}]
    (tmp_path / "instances.json").write_text(json.dumps(
        {"images": images, "annotations": annotations, "categories": categories}))
    (tmp_path / "panoptic.json").write_text(json.dumps(
        {"images": images, "annotations": segments, "categories": categories}))
    (tmp_path / "classes.txt").write_text("cat\n")
    (tmp_path / "config.yaml").write_text(
        "INPUT: {IMAGE_SIZE: 80, MIN_SCALE: 1.0, MAX_SCALE: 1.0, MIN_SIZE_TRAIN: [40], FORMAT: RGB}\n"
        "DATALOADER: {NUM_WORKERS: 0}\nMODEL: {DEVICE: cpu}\n")
    name = names(tmp_path)["separated"]
    DatasetCatalog.register(name, lambda: [
        {"file_name": str(tmp_path / "images" / image["file_name"]), "image_id": image["id"],
         "sem_seg_file_name": str(tmp_path / "labels" / image["file_name"]),
         "annotations": [{"category_id": 0, "segmentation": annotation["segmentation"]}]}
        for image, annotation in zip(images, annotations)])
    MetadataCatalog.get(name).set(thing_classes=["cat"], stuff_classes=["things"], ignore_label=255)
    return tmp_path


def names(folder):
    """Own data by kind; "separated" is the panoptic set registered as Detectron2 does, with both other labels."""
    return {"separated": "visualize_data_separated",
            "semantic": f"{folder}/classes.txt@{folder}/images@{folder}/labels",
            "panoptic": f"{folder}/panoptic.json@{folder}/images@{folder}/segments",
            "instance": f"{folder}/instances.json@{folder}/images"}


def run(data, mapper, *arguments):
    kind = next((kind for kind in ("separated", "semantic", "panoptic") if kind in mapper), "instance")
    options = ["DATASETS.TRAIN", str((names(data)[kind],)), "INPUT.DATASET_MAPPER_NAME", mapper, *arguments]
    return visualize_data.main(["--config-file", str(data / "config.yaml"), "--output", str(data / "out"),
                                *map(str, options)])


def colored(picture):
    return np.ptp(picture.astype(int), axis=-1) > 15


@pytest.mark.parametrize("mapper", MAPPERS)
def test_both_sides(data, capsys, mapper, monkeypatch):
    monkeypatch.setattr(Visualizer, "draw_text", lambda *_, **__: None)
    assert run(data, mapper) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"3 of 3 images drawn into {data / 'out'}"
    height, width = (80, 80) if "lsj" in mapper else (HEIGHT, WIDTH)
    for number, line in enumerate(lines[:-1], start=1):
        path = data / "out" / f"{number}.png"
        assert line == f"{data}/images/{number}.png: 60x40 -> {width}x{height}, 1 targets -> {path}"
        picture = np.asarray(Image.open(path))
        assert picture.shape == (height, WIDTH + width, 3)
        left, right = picture[:HEIGHT, :WIDTH], picture[:, WIDTH:]
        assert (picture[HEIGHT:, :WIDTH] == 255).all()          # white below the lower side
        if "boxes" in mapper:                                   # outlines alone
            assert colored(left[:, :3]).any() and not colored(left[22:34, 5:25]).any()
            assert colored(right).any() and not colored(right).mean() > 0.3
            continue
        assert colored(left[:, :28]).all()
        assert colored(left[:, 33:]).any() == ("panoptic" in mapper and "separated" not in mapper)  # its crowd
        # Wherever the augmentation has put the white half, the targets lie on it; what is grey is still grey.
        cat = colored(right)
        assert np.median(right[cat].min(axis=-1)) > 90         # drawn over grey it would be 82 at most
        assert np.isin(right[~cat].min(axis=-1) // 30, (3, 4)).mean() > 0.9     # the grey of the picture or the padding


def test_extra_augmentations_are_drawn(data, capsys):
    """In the mirror the left half is on the right, where its target lies."""
    assert run(data, "coco_instance_lsj", "INPUT.RANDOM_FLIP", "none", "INPUT.IMAGE_SIZE", WIDTH,
               "INPUT.EXTRA_AUGMENTATIONS", "[['RandomFlip', 1.0]]") == 0
    picture = np.asarray(Image.open(data / "out" / "1.png"))
    left, right = colored(picture[:HEIGHT, :WIDTH]), colored(picture[:HEIGHT, WIDTH:])
    assert left[:, :25].mean() > 0.9 and left[:, 35:].mean() < 0.1
    assert right[:, 35:].mean() > 0.9 and right[:, :25].mean() < 0.1
    capsys.readouterr()
    assert run(data, "coco_instance_lsj", "INPUT.EXTRA_AUGMENTATIONS", "RandomFlop") == 1
    assert "INPUT.EXTRA_AUGMENTATIONS, entry 1, 'RandomFlop': there is no augmentation" in capsys.readouterr().err


def test_seed(data, capsys):
    pictures = []
    for seed in (3, 3, 4):
        assert visualize_data.main([
            "--config-file", str(data / "config.yaml"), "--output", str(data / str(len(pictures))), "--max-images", "2",
            "--seed", str(seed), "DATASETS.TRAIN", str((names(data)["instance"],)), "INPUT.DATASET_MAPPER_NAME",
            "coco_instance_lsj", "INPUT.MIN_SCALE", "0.3"]) == 0
        files = sorted((data / str(len(pictures))).iterdir())
        assert len(files) == 2
        pictures.append([(file.name, file.read_bytes()) for file in files])
    assert pictures[0] == pictures[1] != pictures[2]


def test_damaged_files_are_skipped(data, capsys):
    (data / "images" / "2.png").write_bytes(b"no picture")
    assert run(data, "coco_instance_lsj") == 1
    out, err = capsys.readouterr()
    assert "2 of 3 images drawn" in out and "skipped" in err and "2.png" in err


@pytest.mark.parametrize(("options", "message"), [
    (["INPUT.DATASET_MAPPER_NAME", "nothing"], "INPUT.DATASET_MAPPER_NAME is 'nothing'; known are"),
    (["DATASETS.TRAIN", "()"], "DATASETS.TRAIN is empty"),
    (["DATASETS.TRAIN", "('no_such_set',)"], "no_such_set"),
    (["DATASETS.TRAIN", "('none.json@images',)"], "none.json does not exist"),
    (["NO.KEY", "1"], "NO.KEY")])
def test_errors_that_end_the_run(data, capsys, options, message):
    assert run(data, "coco_instance_lsj", *options) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error


def test_blue_first_pictures_are_shown_in_their_colours(data):
    Image.new("RGB", (WIDTH, HEIGHT), (200, 0, 0)).save(data / "images" / "1.png")
    assert run(data, "coco_instance_detr", "INPUT.FORMAT", "BGR") == 0
    picture = np.asarray(Image.open(data / "out" / "1.png")).astype(int)
    assert (picture[5:35, 35:55, 0] > 150).all() and (picture[5:35, 35:55, 2] < 50).all()
    right = picture[5:35, WIDTH + 5:WIDTH + 55]
    assert (right[..., 0].mean(axis=0) > 100).any()
    assert (np.abs(right - [200, 0, 0]).max(axis=-1) < 20).any()


def test_drawing_gives_what_it_was_given():
    image = np.full((30, 40, 3), 90, np.uint8)
    assert (Drawing(image, MetadataCatalog.get("nothing_is_known_of_this")).image == image).all()

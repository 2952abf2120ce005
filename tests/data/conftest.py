"""Small datasets on disk, made per test, and a configuration and a mapper to go with them."""
import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from PIL import Image

from freqdino.config.keys import default_config
from freqdino.data import build_mapper, register_custom_datasets

SQUARE = [2, 1, 6, 1, 6, 5, 2, 5]  # x 2..6, y 1..5


@pytest.fixture
def config():
    """Makes a configuration; ``crop`` is INPUT.CROP's (TYPE, SIZE), the other settings are keys of INPUT."""
    def make(train, mapper, *, crop=None, **settings):
        cfg = default_config()
        cfg.DATASETS.TRAIN = (train,)
        cfg.INPUT.DATASET_MAPPER_NAME = mapper
        cfg.INPUT.FORMAT = "RGB"
        cfg.INPUT.RANDOM_FLIP = "none"
        cfg.DATALOADER.NUM_WORKERS = 0
        cfg.SOLVER.IMS_PER_BATCH = 2
        cfg.INPUT.update(settings)
        if crop is not None:
            cfg.INPUT.CROP.ENABLED, (cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE) = True, crop
        return cfg
    return make


@pytest.fixture
def instance_set(tmp_path):
    """Makes a COCO instance dataset of 8x6 pictures; returns (name, JSON path). ``edit`` changes the document."""
    def make(annotations, *, images=1, edit=lambda document: None, size=(8, 6), categories=((3, "nut"), (7, "fig"))):
        folder = tmp_path / "images"
        folder.mkdir()
        rng = np.random.default_rng(0)
        for index in range(images):
            pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}.png")
        document = {
            "images": [{"id": 10 + index, "file_name": f"{index}.png", "width": size[0], "height": size[1]}
                       for index in range(images)],
            "annotations": [{"id": 100 + index, "image_id": 10, "category_id": 3, "iscrowd": 0, **annotation}
                            for index, annotation in enumerate(annotations)],
            "categories": [{"id": category_id, "name": name} for category_id, name in categories]}
        edit(document)
        path = tmp_path / "instances.json"
        path.write_text(json.dumps(document))
        return f"{path}@{folder}", path
    return make


@pytest.fixture
def panoptic_set(tmp_path):
    """Makes a COCO panoptic dataset of one 6x4 picture: thing 300 for x < 2, stuff 70000 for x >= 4, void between."""
    def make(edit=lambda document: None):
        for folder in ("images", "pngs"):
            (tmp_path / folder).mkdir()
        Image.new("RGB", (6, 4)).save(tmp_path / "images" / "a.jpg")
        colors = np.zeros((4, 6, 3), dtype=np.uint8)
        colors[:, :2] = (300 % 256, 300 // 256, 0)
        colors[:, 4:] = (70000 % 256, 70000 // 256 % 256, 70000 // 65536)
        Image.fromarray(colors).save(tmp_path / "pngs" / "a.png")
        document = {"images": [{"id": 5, "file_name": "a.jpg", "width": 6, "height": 4}],
                    "annotations": [{"image_id": 5, "file_name": "a.png", "segments_info": [
                        {"id": 300, "category_id": 20, "iscrowd": 0}, {"id": 70000, "category_id": 9, "iscrowd": 0}]}],
                    "categories": [{"id": 20, "name": "dog", "isthing": 1}, {"id": 9, "name": "sky", "isthing": 0}]}
        edit(document)
        path = tmp_path / "panoptic.json"
        path.write_text(json.dumps(document))
        return f"{path}@{tmp_path / 'images'}@{tmp_path / 'pngs'}"
    return make


@pytest.fixture
def semantic_set(tmp_path):
    """Makes a semantic dataset of one picture from its label map (H, W) uint8; three classes."""
    def make(labels, classes="road\ncar\nsky\n"):
        for folder in ("images", "labels"):
            (tmp_path / folder).mkdir()
        labels = np.asarray(labels, dtype=np.uint8)
        Image.new("RGB", labels.shape[::-1], (10, 20, 30)).save(tmp_path / "images" / "a.png")
        Image.fromarray(labels).save(tmp_path / "labels" / "a.png")
        (tmp_path / "classes.txt").write_text(classes)
        return f"{tmp_path / 'classes.txt'}@{tmp_path / 'images'}@{tmp_path / 'labels'}"
    return make


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
    return name


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

"""One set of pictures and objects, written in every format."""
import json

import numpy as np
import pytest
from detectron2.structures.masks import polygons_to_bitmask
from PIL import Image

HEIGHT, WIDTH = 48, 64
CLASSES = ("cat", "dog")
SQUARE = (4, 5, 24, 5, 24, 25, 4, 25)
BAND = (30.4, 2.2, 60.3, 4.1, 58.7, 12.6, 31.9, 11.3)
TRIANGLE = (32.5, 20, 60.1, 30.7, 35.2, 44.4)
SMALL = (8, 30, 16, 30, 16, 36, 8, 36)
PICTURES = {"a": (("cat", SQUARE), ("dog", BAND), ("cat", SMALL)), "b": (("dog", TRIANGLE), ("cat", SQUARE)), "c": ()}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Where converted files lie."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "freqdino" / "annotations"


def points(polygon):
    return list(zip(polygon[::2], polygon[1::2]))


def mask(polygon):
    return polygons_to_bitmask([np.array(polygon, float)], HEIGHT, WIDTH)


def save(labels, path):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(labels).save(path)


def write_coco(folder):
    images = [{"id": number, "file_name": f"{name}.png", "height": HEIGHT, "width": WIDTH}
              for number, name in enumerate(PICTURES, start=1)]
    objects = [(number, *found) for number, name in enumerate(PICTURES, start=1) for found in PICTURES[name]]
    annotations = [{"id": number, "image_id": image, "category_id": CLASSES.index(label) + 1, "iscrowd": 0,
                    "segmentation": [list(polygon)], "area": int(mask(polygon).sum()),
                    "bbox": [min(polygon[::2]), min(polygon[1::2]), max(polygon[::2]) - min(polygon[::2]),
                             max(polygon[1::2]) - min(polygon[1::2])]}
                   for number, (image, label, polygon) in enumerate(objects, start=1)]
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)]
    (folder / "coco.json").write_text(json.dumps(
        {"images": images, "annotations": annotations, "categories": categories}))
    return f"{folder}/coco.json@{folder}/images"


def write_yolo(folder):
    (folder / "labels").mkdir()
    for name, objects in PICTURES.items():
        lines = [f"{CLASSES.index(label)} " + " ".join(f"{x / WIDTH:.6f} {y / HEIGHT:.6f}" for x, y in points(polygon))
                 for label, polygon in objects]
        if lines:
            (folder / "labels" / f"{name}.txt").write_text("\n".join(lines) + "\n")
    (folder / "data.yaml").write_text("train: images\nnc: 2\nnames: [cat, dog]\n")
    return f"yolo:{folder}/data.yaml"


def write_labelme(folder):
    (folder / "labelme").mkdir()
    for name, objects in PICTURES.items():
        shapes = [{"label": label, "points": points(polygon), "group_id": None, "shape_type": "polygon", "flags": {}}
                  for label, polygon in objects]
        (folder / "labelme" / f"{name}.json").write_text(json.dumps(
            {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": f"..\\images\\{name}.png",
             "imageData": None, "imageHeight": HEIGHT, "imageWidth": WIDTH}))
    return f"labelme:{folder}/labelme"


def write_voc_xml(folder):
    (folder / "xml").mkdir()
    for name, objects in PICTURES.items():
        text = ""
        for label, polygon in objects:
            (left, right), (top, bottom) = ((min(polygon[axis::2]), max(polygon[axis::2])) for axis in (0, 1))
            outline = "".join(f"<x{number}>{x + 1:.1f}</x{number}><y{number}>{y + 1:.1f}</y{number}>"
                              for number, (x, y) in enumerate(points(polygon), start=1))
            text += (f"<object><name>{label}</name><bndbox><xmin>{left + 1}</xmin><ymin>{top + 1}</ymin><xmax>{right}"
                     f"</xmax><ymax>{bottom}</ymax></bndbox><polygon>{outline}</polygon></object>")
        (folder / "xml" / f"{name}.xml").write_text(
            f"<annotation><filename>{name}.png</filename><size><width>{WIDTH}</width><height>{HEIGHT}</height>"
            f"<depth>3</depth></size>{text}</annotation>")
    return f"voc:{folder}/xml@{folder}/images"


def write_voc_png(folder):
    (folder / "SegmentationObject").mkdir()
    for name, objects in PICTURES.items():
        numbers, labels = np.zeros((2, HEIGHT, WIDTH), np.uint8)
        for number, (label, polygon) in enumerate(objects, start=1):
            numbers[mask(polygon)], labels[mask(polygon)] = number, CLASSES.index(label) + 1
        save(numbers, folder / "SegmentationObject" / f"{name}.png")
        save(labels, folder / "SegmentationClass" / f"{name}.png")
    (folder / "SegmentationObject" / "classes.txt").write_text("cat\ndog\n")
    return f"voc:{folder}/SegmentationObject@{folder}/images"


def write_indices(folder):
    for name, objects in PICTURES.items():
        values = np.zeros((HEIGHT, WIDTH), np.uint8)
        for label, polygon in objects:
            values[mask(polygon)] = CLASSES.index(label) + 1
        save(values, folder / "indices" / f"{name}.png")
    (folder / "indices" / "classes.txt").write_text("background\ncat\ndog\n")
    return f"indices:{folder}/indices@{folder}/images"


def write_numbered_indices(folder):
    for name, objects in PICTURES.items():
        values = np.zeros((HEIGHT, WIDTH), np.uint16)
        for number, (label, polygon) in enumerate(objects):
            values[mask(polygon)] = 1000 * (CLASSES.index(label) + 1) + number
        save(values, folder / "numbered" / f"{name}.png")
    (folder / "numbered" / "classes.txt").write_text("background\ncat\ndog\n")
    return f"indices:{folder}/numbered@{folder}/images"


WRITERS = {"yolo": write_yolo, "labelme": write_labelme, "voc_xml": write_voc_xml, "voc_png": write_voc_png,
           "indices": write_indices, "numbered_indices": write_numbered_indices}


@pytest.fixture
def images(tmp_path):
    """The folder of the set, with its pictures in images/."""
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for name in PICTURES:
        save(pixels, tmp_path / "images" / f"{name}.png")
    return tmp_path


@pytest.fixture
def coco(images):
    """The name of the set as COCO instances."""
    return write_coco(images)


@pytest.fixture
def written(images):
    """Writes the set in a format of WRITERS; returns its name."""
    return lambda form: WRITERS[form](images)

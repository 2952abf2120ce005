"""YOLO: a data.yaml and beside each picture's folder "images" a folder "labels" with a text file for each picture.

A line of a label file is an object: the class's index, then x, y of the centre, width and height of its box, or the
x, y of an outline's points; all of them parts of the picture, 0 to 1. A picture without label file has no object.

Source: the dataset format of Ultralytics YOLO (detection and segmentation).
Shape key: H: height, W: width.
"""
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from freqdino.data.categories import check_class_names
from freqdino.data.formats.objects import Picture, box_fields, label_files, number_of, outline_fields
from freqdino.data.image_reading import read_image_size
from freqdino.data.records import IMAGE_SUFFIXES, files_under
from freqdino.data.values import Faults, read_text, shown
from freqdino.errors import DataError, MissingDataError

SPLITS = ("train", "val", "test")
_MARGIN = 0.01      # that a coordinate may lie beyond 0..1, as rounding and annotation tools leave it

logger = logging.getLogger(__name__)


def read_yolo(location: str, faults: Faults) -> tuple[list[Picture], list[str]]:
    """The pictures of ``<data.yaml>`` or ``<data.yaml>@<split>`` and the classes; the split is train unless named.

    Raises MissingDataError, DataError: the file is not there or not in order, or no picture has a label file; what is
    wrong with single label files goes to ``faults``.
    """
    name, at, split = location.rpartition("@")
    if not at or split not in SPLITS:
        name, split = location, SPLITS[0]
    path = Path(name).expanduser()
    if not path.is_file():
        raise MissingDataError(f"{name} does not exist or is no file (that is {path.absolute()}); expected a data.yaml "
                               f"and after it nothing or @ and one of {', '.join(SPLITS)}")
    content = _read_yaml(path)
    classes = _class_names(content, path)
    images = _images(content, path, split)
    labels = {image: _label_path(image) for image in images}
    for folder in dict.fromkeys(label.parent for label in labels.values() if label.is_file()):
        label_files(folder, ".txt", (".json", ".xml"))
    with_labels = sum(label.is_file() for label in labels.values())
    if not with_labels:
        raise MissingDataError(f"{path}: none of the {len(images)} pictures of {split} has a label file; that of the "
                               f"first would be {labels[images[0]]}")
    logger.info("%s: the split %s has %d pictures, %d of them with a label file", path, split, len(images), with_labels)
    pictures = []
    for image, label in labels.items():
        with faults:
            size = read_image_size(str(image))
            objects = _objects(label, size, classes, path, faults) if label.is_file() else []
            pictures.append(Picture(str(image), size, objects))
    return pictures, classes


def _read_yaml(path: Path) -> dict:
    try:
        content = yaml.safe_load(read_text(str(path), "data.yaml"))
    except yaml.YAMLError as error:
        raise DataError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path} has no keys; expected names, and the pictures under {', '.join(SPLITS)}")
    if "kpt_shape" in content:
        raise DataError(f"{path} has kpt_shape: its labels are keypoints, which nothing here reads")
    return content


def _class_names(content: dict, path: Path) -> list[str]:
    names = content.get("names")
    if isinstance(names, dict):
        by_index = {str(index): name for index, name in names.items()}
        if set(by_index) != {str(index) for index in range(len(names))}:
            raise DataError(f"{path}: the indices of names are {list(names)}; expected 0 to {len(names) - 1}")
        names = [by_index[str(index)] for index in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DataError(f"{path}: names is {shown(names)}; expected the classes, as a list or by their index")
    names = [str(name) for name in names]
    if content.get("nc", len(names)) != len(names):
        raise DataError(f"{path}: nc is {shown(content['nc'])}, but there are {len(names)} names")
    check_class_names(names, str(path))
    return names


def _images(content: dict, path: Path, split: str) -> list[Path]:
    """The pictures of a split: its entries are folders, or text files with a path a line."""
    entries = content.get(split)
    entries = entries if isinstance(entries, list) else [entries]
    if not entries or not all(isinstance(entry, str) and entry for entry in entries):
        raise DataError(f"{path}: {split} is {shown(content.get(split))}; expected a folder of pictures, a text file "
                        f"that lists some, or a list of these (the splits that there are: "
                        f"{', '.join(split for split in SPLITS if content.get(split)) or 'none'})")
    images = []
    for entry in entries:
        place = _place(entry, content.get("path"), path)
        if place.is_dir():
            images += files_under(place, IMAGE_SUFFIXES)
        else:
            lines = filter(None, map(str.strip, read_text(str(place), "list of pictures").splitlines()))
            images += [place.parent / line for line in lines]
    if not images:
        raise MissingDataError(f"{path}: there is no picture in {', '.join(entries)}")
    return list(dict.fromkeys(images))


def _place(entry: str, root: Any, path: Path) -> Path:
    """Where an entry lies: under ``path:`` of the file or, without it, under the file's folder.

    Ultralytics reads "../train/images" as "train/images" where the former is not there, which Roboflow's files rely on.
    """
    base = path.parent / Path(str(root or "")).expanduser()
    tried = [base / Path(entry).expanduser()]
    if entry.startswith("../"):
        tried.append(base / entry.removeprefix("../"))
    for place in tried:
        if place.exists():
            return Path(os.path.normpath(place))
    raise MissingDataError(f"{path} names {entry}, which does not exist (looked for as {tried[0].absolute()})")


def _label_path(image: Path) -> Path:
    """The label file's: the last folder "images" of the path is "labels" there."""
    parts = list(image.parts)
    for position in range(len(parts) - 2, -1, -1):
        if parts[position] == "images":
            parts[position] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _objects(label: Path, size: tuple[int, int], classes: list[str], data: Path,
             faults: Faults) -> list[tuple[str, dict]]:
    objects = []
    for number, line in enumerate(read_text(str(label), "label file").splitlines(), start=1):
        if line.strip():
            with faults:
                objects.append(_object(line.split(), size, classes, f"{label}, line {number}", data))
    return objects


def _object(words: list[str], size: tuple[int, int], classes: list[str], where: str, data: Path) -> tuple[str, dict]:
    index, *numbers = (number_of(word, where) for word in words)
    if index not in range(len(classes)):
        raise DataError(f"{where} has the class {words[0]}; {data} has {len(classes)}, 0 to {len(classes) - 1}")
    if len(numbers) != 4 and (len(numbers) < 6 or len(numbers) % 2):
        raise DataError(f"{where} has {len(numbers)} numbers after the class; expected 4 of a box, or x, y of at least "
                        "3 points")
    points = np.array(numbers).reshape(-1, 2)
    if len(numbers) == 4:
        centre, extent = points
        points = np.array([centre - extent / 2, centre + extent / 2])
        if (extent < 0).any():
            raise DataError(f"{where} has a box of negative width or height")
    if points.min() < -_MARGIN or points.max() > 1 + _MARGIN:
        farthest = points.flat[np.abs(points - 0.5).argmax()]
        raise DataError(f"{where} lies outside the picture, it reaches {farthest:g}; coordinates are parts of the "
                        "picture's width and height, 0 to 1")
    points = points.clip(0, 1) * size[::-1]
    fields = box_fields(points, size, where) if len(numbers) == 4 else outline_fields([points], size, where)
    return classes[int(index)], fields

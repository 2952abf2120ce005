"""What the formats share: pictures with their objects, the shape of an object in COCO's terms, a COCO document of all.

Coordinates are pixels from the picture's top left corner: a pixel is the square from x to x + 1, as in COCO files.

Source: the COCO annotation format.
Shape key: H: height, W: width, P: points of an outline.
"""
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from freqdino.data.categories import read_class_file
from freqdino.data.records import files_under
from freqdino.data.segmentation import box_and_area, check_segmentation, encode_rle, lies_outside
from freqdino.errors import DataError, MissingDataError, first_few

CLASS_FILE = "classes.txt"
_DIGITS = 2     # of a pixel, in the COCO document


@dataclass(frozen=True)
class Picture:
    """A picture's path, its size (H, W), and of each object the class's name and COCO's fields of its shape."""

    path: str
    size: tuple[int, int]
    objects: list[tuple[str, dict]]


def folder_of(path: str, what: str) -> Path:
    """The path of a folder that is there; "~" is expanded. Raises MissingDataError, which says ``what`` it is."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise MissingDataError(f"the {what} {path} does not exist or is no folder (that is {folder.absolute()})")
    return folder


def label_files(folder: Path, suffix: str, foreign: tuple[str, ...]) -> list[Path]:
    """The label files under a folder, `CLASS_FILE` left out.

    Raises MissingDataError: there is none; DataError: there are label files of other formats, with a suffix of
    ``foreign``, beside them.
    """
    files, others = ([path for path in files_under(folder, suffixes) if path.name != CLASS_FILE]
                     for suffixes in ((suffix,), foreign))
    if not files:
        raise MissingDataError(f"the folder {folder} has no {suffix} file")
    if others:
        raise DataError(f"the folder {folder} has {suffix} files and beside them {first_few(others, 3)}: formats are "
                        "not mixed in one folder; move away what does not belong to this data set")
    return files


def classes_in(folder: Path) -> tuple[str, ...] | None:
    """The classes of the folder's `CLASS_FILE`, None where there is none. Raises DataError as `read_class_file`."""
    path = folder / CLASS_FILE
    return read_class_file(str(path)) if path.exists() else None


def check_class(name: str, classes: Sequence[str] | None, where: str) -> None:
    """Raise DataError, beginning with ``where``, for a class outside the list, where there is one."""
    if classes is not None and name not in classes:
        raise DataError(f"{where} has the class {name!r}, which the class list does not have: it has "
                        f"{first_few(map(repr, classes))}")


def number_of(text: Any, where: str) -> float:
    """A finite number that a text holds. Raises DataError, beginning with ``where``."""
    try:
        number = float(text)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):       # numpy's takes ten times as long for one
        raise DataError(f"{where} has {text!r} where a number belongs")
    return number


def outline_fields(polygons: Sequence[np.ndarray], size: tuple[int, int], where: str) -> dict:
    """COCO's fields of an object with outlines, each (P, 2) in (x, y): segmentation, bbox and area in pixels.

    Raises DataError: beginning with ``where``, for fewer than three points, no area in common with the picture, or
    points that are no pixels.
    """
    height, width = size
    for polygon in polygons:
        if len(polygon) < 3:
            raise DataError(f"{where} has an outline of {len(polygon)} points; expected at least 3")
    points = np.concatenate(polygons)
    _check_inside(points, size, where)
    flat = [np.round(polygon, _DIGITS).reshape(-1).tolist() for polygon in polygons]
    check_segmentation(flat, height, width, where)      # before it is drawn: far points would take gigabytes
    area = mask_util.area(mask_util.merge(mask_util.frPyObjects(flat, height, width)))
    return {"segmentation": flat, "bbox": _box(points), "area": int(area)}


def box_fields(corners: np.ndarray, size: tuple[int, int], where: str) -> dict:
    """COCO's fields of an object with a box alone, two corners (2, 2) in (x, y): bbox and area.

    Raises DataError: beginning with ``where``, for a box without area, or outside the picture.
    """
    _check_inside(corners, size, where)
    box = _box(corners)
    if not box[2] or not box[3]:
        raise DataError(f"{where} has a box without area, of {box[2]:g}x{box[3]:g} pixels (width x height)")
    return {"bbox": box, "area": round(box[2] * box[3], _DIGITS)}


def mask_fields(mask: np.ndarray) -> dict:
    """COCO's fields of an object with a mask (H, W) of bool that has a pixel: segmentation, bbox and area."""
    return {"segmentation": encode_rle(mask), **box_and_area(mask)}


def _check_inside(points: np.ndarray, size: tuple[int, int], where: str) -> None:
    if lies_outside(points, *size):
        raise DataError(f"{where} lies outside the picture of {size[1]}x{size[0]} pixels (width x height): its "
                        f"points are from {points.min(axis=0).tolist()} to {points.max(axis=0).tolist()}")


def _box(points: np.ndarray) -> list[float]:
    (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return [round(value, _DIGITS) for value in (left, top, right - left, bottom - top)]


def coco_document(pictures: Iterable[Picture], classes: Sequence[str] | None) -> tuple[dict, str]:
    """A COCO instance document, and the folder that its file names are relative to.

    Ids count from 1. Without ``classes`` they are the names that occur, sorted.
    """
    pictures = list(pictures)
    if classes is None:
        classes = sorted({name for picture in pictures for name, _ in picture.objects})
    ids = {name: index for index, name in enumerate(classes, start=1)}
    paths = [os.path.abspath(picture.path) for picture in pictures]
    root = os.path.commonpath([os.path.dirname(path) for path in paths])
    images, annotations = [], []
    for number, (picture, path) in enumerate(zip(pictures, paths), start=1):
        images.append({"id": number, "file_name": Path(os.path.relpath(path, root)).as_posix(),
                       "height": picture.size[0], "width": picture.size[1]})
        annotations += [{"iscrowd": 0, **fields, "id": len(annotations) + position, "image_id": number,
                         "category_id": ids[name]} for position, (name, fields) in enumerate(picture.objects, start=1)]
    return {"images": images, "annotations": annotations,
            "categories": [{"id": ids[name], "name": name} for name in classes]}, root

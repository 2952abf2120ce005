"""LabelMe: a folder of JSON files, one a picture, with the outlines as they were drawn.

Polygons, rectangles, circles and masks are read. Shapes of one label and group_id are one object. Points and lines have
no area: they are left out, with a warning. The classes are those of a classes.txt in the folder, or the labels that
occur, sorted.

Source: the files of LabelMe (wkentaro/labelme).
Shape key: H: height, W: width, P: points.
"""
import base64
import io
import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from freqdino.data.coco_files import read_annotation_file
from freqdino.data.formats.objects import (
    Picture,
    check_class,
    classes_in,
    folder_of,
    label_files,
    mask_fields,
    outline_fields,
)
from freqdino.data.image_reading import check_image_size, read_image_size
from freqdino.data.segmentation import rasterise
from freqdino.data.values import IDENTIFIER, LIST, SIZE, TEXT, Faults, read_fields, shown
from freqdino.errors import DataError

_FILE = {"imagePath": TEXT, "shapes": LIST, "imageHeight": SIZE, "imageWidth": SIZE}
_SHAPE = {"label": TEXT, "points": LIST, "shape_type": TEXT, "group_id": IDENTIFIER, "mask": TEXT}
_WITHOUT_AREA = ("point", "points", "line", "linestrip")
_CIRCLE_POINTS = 64

logger = logging.getLogger(__name__)


def read_labelme(location: str, faults: Faults) -> tuple[list[Picture], Sequence[str] | None]:
    """The pictures of a folder of JSON files, and the classes where the folder lists them.

    Raises MissingDataError, DataError: the folder is not there, has no JSON file, or label files of other formats; what
    is wrong with single files goes to ``faults``.
    """
    folder = folder_of(location, "LabelMe folder")
    classes, left_out = classes_in(folder), Counter()
    pictures, file_of = [], {}
    for path in label_files(folder, ".json", (".xml", ".txt")):
        with faults:
            picture = _picture(path, classes, left_out, faults)
            if picture.path in file_of:
                raise DataError(f"{path} and {file_of[picture.path]} are both about the picture {picture.path}")
            file_of[picture.path] = path
            pictures.append(picture)
    if left_out:
        logger.warning("%s: shapes without area are left out: %s", folder,
                       ", ".join(f"{count} {kind}" for kind, count in sorted(left_out.items())))
    return pictures, classes


def _picture(path: Path, classes: Sequence[str] | None, left_out: Counter, faults: Faults) -> Picture:
    document = read_annotation_file(str(path), ("shapes",), format_name="LabelMe")
    try:
        read_fields(document, _FILE, ("imagePath", "shapes"))
    except DataError as error:
        raise DataError(f"{path} {error}") from None
    image = os.path.normpath(path.parent / document["imagePath"].replace("\\", "/"))
    size = read_image_size(image)
    stated = {side.lower(): document[f"image{side}"] for side in ("Height", "Width") if f"image{side}" in document}
    check_image_size({"file_name": image, **stated}, size)
    parts: dict[tuple, list] = {}
    for number, shape in enumerate(document["shapes"], start=1):
        where = f"{path}: shape number {number}"
        with faults:
            try:
                read_fields(shape, _SHAPE, ("label", "points"))
            except DataError as error:
                raise DataError(f"{where} {error}") from None
            kind = shape.get("shape_type", "polygon")
            if kind in _WITHOUT_AREA:
                left_out[kind] += 1
                continue
            check_class(shape["label"], classes, where)
            area = _area(shape, kind, size, where)
            group = shape.get("group_id", where)    # without one a shape is an object of its own
            parts.setdefault((shape["label"], group), []).append((area, where))
    objects = []
    for (label, _), areas in parts.items():
        with faults:
            objects.append((label, _fields([area for area, _ in areas], size, areas[0][1])))
    return Picture(image, size, objects)


def _fields(areas: list[np.ndarray], size: tuple[int, int], where: str) -> dict:
    """COCO's fields of an object that consists of outlines (P, 2) and masks (H, W)."""
    outlines = [area for area in areas if area.dtype != bool]
    if len(outlines) == len(areas):
        return outline_fields(outlines, size, where)
    masks = [area for area in areas if area.dtype == bool]
    if outlines:
        masks.append(rasterise(outlines, *size))
    return mask_fields(np.any(masks, axis=0))


def _area(shape: dict, kind: str, size: tuple[int, int], where: str) -> np.ndarray:
    """The outline (P, 2) of a shape, or of one that is drawn as a mask that (H, W) of bool."""
    try:
        points = np.array(shape["points"], np.float64).reshape(-1, 2)
    except (ValueError, TypeError):
        points = np.array([[np.nan, np.nan]])
    if not np.isfinite(points).all():
        raise DataError(f"{where} has the points {shown(shape['points'])}; expected pairs of numbers x, y")
    if kind in ("polygon", "oriented_rectangle"):
        return points
    if kind not in ("rectangle", "circle", "mask"):
        raise DataError(f"{where} has the shape_type {kind!r}; polygon, rectangle, oriented_rectangle, circle and mask "
                        f"are read, {', '.join(_WITHOUT_AREA)} left out")
    if len(points) < 2 or kind == "circle" and len(points) != 2:
        raise DataError(f"{where}, a {kind}, has {len(points)} points; expected 2")
    if kind == "circle":
        centre, edge = points
        angles = np.arange(_CIRCLE_POINTS) * 2 * np.pi / _CIRCLE_POINTS
        return centre + np.hypot(*(edge - centre)) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    low, high = points.min(axis=0), points.max(axis=0)
    if kind == "mask":
        return _pasted(shape, low.astype(int), size, where)
    return np.array([low, (high[0], low[1]), high, (low[0], high[1])])


def _pasted(shape: dict, corner: np.ndarray, size: tuple[int, int], where: str) -> np.ndarray:
    """The mask that a shape holds as a PNG of its box, in the picture (H, W)."""
    try:
        mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(shape["mask"], validate=True)))).astype(bool)
    except (KeyError, ValueError, OSError, SyntaxError) as error:
        raise DataError(f"{where} is a mask, but has no PNG in base64 under 'mask' ({error})") from None
    (x, y), canvas = corner, np.zeros(size, bool)
    if mask.ndim != 2 or min(x, y) < 0 or y + mask.shape[0] > size[0] or x + mask.shape[1] > size[1]:
        raise DataError(f"{where} is a mask of shape {mask.shape} at {(int(x), int(y))}, outside the picture of "
                        f"{size[1]}x{size[0]} pixels (width x height)")
    canvas[y:y + mask.shape[0], x:x + mask.shape[1]] = mask
    if not canvas.any():
        raise DataError(f"{where} is a mask without a pixel")
    return canvas

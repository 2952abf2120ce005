"""COCO segmentations of one object: polygons and run-length encodings (RLE), checked and turned into masks and back.

Source: the COCO annotation format. Polygons are lists [x1, y1, x2, y2, ...] in pixels, an RLE is {"size": [H, W],
"counts": ...} with run lengths in column order, either a list or pycocotools' compact string.

Shape key: H: height, W: width.
"""
from numbers import Real

import numpy as np
import pycocotools.mask as mask_util
from detectron2.structures.masks import polygons_to_bitmask


def _compact_runs(counts: bytes) -> list[int]:
    """Run lengths of pycocotools' compact string: 5 bits a byte, bit 6 continues, the fourth run on are differences."""
    runs, value, shift = [], 0, 0
    for byte in counts:
        bits = byte - 48
        if not 0 <= bits < 64:
            raise ValueError(f"the character {chr(byte)!r} cannot stand in 'counts'")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("'counts' ends in the middle of a number")
    return runs


def _check_rle(rle: dict, height: int, width: int) -> None:
    if "size" not in rle or "counts" not in rle:
        raise ValueError(f"an RLE has the keys 'size' and 'counts'; got {sorted(rle)}")
    if list(rle["size"]) != [height, width]:
        raise ValueError(f"the RLE's size (height, width) is {list(rle['size'])}, the image's is {[height, width]}")
    counts = rle["counts"]
    if isinstance(counts, list):
        runs = counts
        if not all(isinstance(run, int) for run in runs):
            raise ValueError("run lengths must be whole numbers")
    elif isinstance(counts, (str, bytes)):
        runs = _compact_runs(counts.encode() if isinstance(counts, str) else counts)
    else:
        raise ValueError(f"an RLE's 'counts' is a list or a string; got {type(counts).__name__}")
    if any(run < 0 for run in runs) or sum(runs) != height * width:
        raise ValueError(f"the RLE's runs cover {sum(runs)} pixels, the image has {height}x{width} = {height * width}")


def _check_polygon(polygon: list) -> None:
    if isinstance(polygon, np.ndarray):
        polygon = polygon.ravel().tolist()
    if not isinstance(polygon, (list, tuple)) or not all(isinstance(value, Real) for value in polygon):
        raise ValueError("a polygon is a flat list of numbers x1, y1, x2, y2, ...")
    if len(polygon) < 6 or len(polygon) % 2:
        raise ValueError(f"a polygon needs an even count of at least 6 numbers; got {len(polygon)}")
    if not np.isfinite(polygon).all():
        raise ValueError("a polygon has a number that is not finite")


def check_segmentation(segmentation: list | dict, height: int, width: int, where: str) -> None:
    """Raise ValueError, beginning with ``where`` (file, image, annotation), unless polygons or RLE are well formed."""
    try:
        if isinstance(segmentation, dict):
            _check_rle(segmentation, height, width)
        elif isinstance(segmentation, list):
            for polygon in segmentation:
                _check_polygon(polygon)
        else:
            raise ValueError("a segmentation is a list of polygons or an RLE dictionary; "
                             f"got {type(segmentation).__name__}")
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def lies_outside(points: np.ndarray, height: int, width: int) -> bool:
    """Whether the bounding box of points (P, 2) in (x, y) and the canvas have no area in common."""
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    return bool(right <= 0 or bottom <= 0 or left >= width or top >= height)


def polygon_points(segmentation: list) -> list[np.ndarray]:
    """Flat polygons as float64 arrays (P, 2) of (x, y)."""
    return [np.asarray(polygon, dtype=np.float64).reshape(-1, 2) for polygon in segmentation]


def rasterise(polygons: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """The union of polygons, each (P, 2) in (x, y), as an (H, W) bool mask; parts beyond the canvas are clipped."""
    return polygons_to_bitmask([polygon.reshape(-1) for polygon in polygons], height, width)


def decode_rle(rle: dict) -> np.ndarray:
    """A checked RLE as an (H, W) uint8 mask of 0 and 1."""
    if isinstance(rle["counts"], list):
        rle = mask_util.frPyObjects(rle, *rle["size"])
    return mask_util.decode(rle)


def encode_rle(mask: np.ndarray) -> dict:
    """An (H, W) bool mask as an RLE that JSON can hold."""
    rle = mask_util.encode(np.asfortranarray(mask))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def box_and_area(mask: np.ndarray) -> dict:
    """COCO's bbox [x, y, width, height], area and iscrowd 0 of an (H, W) bool mask that has a pixel."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = (columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1)
    return {"bbox": [int(value) for value in box], "area": int(mask.sum()), "iscrowd": 0}

"""COCO segmentations of one object: polygons and run-length encodings (RLE), checked and turned into masks and back.
Its box likewise, checked and turned into corners.

Source: the COCO annotation format. Polygons are lists [x1, y1, x2, y2, ...] in pixels, an RLE is {"size": [H, W],
"counts": ...} with run lengths in column order, either a list or pycocotools' compact string. A box is [x, y, width,
height] in pixels.

Shape key: H: height, W: width.
"""
import numpy as np
import pycocotools.mask as mask_util
from detectron2.structures import BoxMode
from detectron2.structures.masks import polygons_to_bitmask

from freqdino.errors import DataError

_FARTHEST = 1e6     # pixels: an outline that goes farther takes gigabytes to draw


def _compact_runs(counts: bytes) -> np.ndarray:
    """Run lengths of pycocotools' compact string.

    A number takes bytes of 5 bits, the lowest first; 32 says that another byte follows, 16 in the last one that the
    number is negative. From the fourth on, numbers are differences to the run before the last.
    """
    bits = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    if ((bits < 0) | (bits > 63)).any():
        raise ValueError("'counts' has a character that cannot stand in it")
    last = bits & 32 == 0
    if not last[-1:].all():
        raise ValueError("'counts' ends in the middle of a number")
    lengths = np.diff(np.flatnonzero(last), prepend=-1)
    starts = np.cumsum(lengths) - lengths
    shifts = 5 * (np.arange(len(bits)) - np.repeat(starts, lengths))
    runs = np.bincount(np.repeat(np.arange(len(starts)), lengths), (bits & 31) << shifts).astype(np.int64)
    runs -= np.where(bits[last] & 16, 1 << 5 * lengths, 0)
    runs[1::2], runs[2::2] = runs[1::2].cumsum(), runs[2::2].cumsum()
    return runs


def plain_segmentation(segmentation: list | dict) -> list | dict:
    """The segmentation, an RLE's 48.0 as 48; what is malformed stays as it is."""
    if not isinstance(segmentation, dict):
        return segmentation
    plain = dict(segmentation)
    for key in ("size", "counts"):
        values = plain.get(key)
        if isinstance(values, list):
            plain[key] = [int(value) if type(value) is float and value.is_integer() else value for value in values]
    return plain


def _check_rle(rle: dict, height: int, width: int) -> None:
    if "size" not in rle or "counts" not in rle:
        raise ValueError(f"an RLE has the keys 'size' and 'counts'; got {sorted(rle)}")
    size, counts = rle["size"], rle["counts"]
    if not isinstance(size, (list, tuple)) or list(size) != [height, width]:
        raise ValueError(f"the RLE's size (height, width) is {size}, the image's is {[height, width]}")
    if isinstance(counts, list):
        runs = np.array(counts or [0])
        if runs.dtype.kind != "i" or runs.ndim != 1:
            raise ValueError("run lengths must be whole numbers")
    elif isinstance(counts, (str, bytes)):
        runs = _compact_runs(counts.encode() if isinstance(counts, str) else counts)
    else:
        raise ValueError(f"an RLE's 'counts' is a list or a string; got {type(counts).__name__}")
    if (runs < 0).any() or runs.sum() != height * width:
        raise ValueError(f"the RLE's runs cover {runs.sum()} pixels, the image has {height}x{width} = {height * width}")


def _finite_numbers(values: list, kind: str, order: str) -> np.ndarray:
    """The values as an array (n,), if they are a flat list; ``kind`` and ``order`` say of what."""
    try:
        numbers = np.array(values)
    except ValueError:  # lists of different lengths
        numbers = np.array(None)
    if numbers.ndim != 1 or numbers.size and numbers.dtype.kind not in "iuf":
        raise ValueError(f"a {kind} is a flat list of numbers {order}")
    if not np.isfinite(numbers).all():
        raise ValueError(f"a {kind} has a number that is not finite")
    return numbers


def _check_polygon(polygon: list) -> None:
    numbers = _finite_numbers(polygon, "polygon", "x1, y1, x2, y2, ...")
    if numbers.size < 6 or numbers.size % 2:
        raise ValueError(f"a polygon needs an even count of at least 6 numbers; got {numbers.size}")
    if np.abs(numbers).max() > _FARTHEST:
        raise ValueError(f"a polygon has the coordinate {numbers[np.abs(numbers).argmax()]:g}; expected pixels")


def check_segmentation(segmentation: list | dict, height: int, width: int, where: str) -> None:
    """Raise DataError, beginning with ``where`` (file, image, annotation), unless polygons or RLE are well formed."""
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
        raise DataError(f"{where}: {error}") from None


def box_corners(box: list, mode: BoxMode, where: str) -> np.ndarray:
    """The top left and the bottom right corner (2, 2) of a box in (x, y).

    Raises DataError: beginning with ``where`` (file, image, annotation), unless the box has four finite numbers and a
    width and height of at least 0.
    """
    try:
        numbers = _finite_numbers(box, "bbox", "x, y, width, height").astype(np.float64)
        if numbers.size != 4:
            raise ValueError(f"a bbox has 4 numbers; got {numbers.size}")
        if mode == BoxMode.XYWH_ABS:    # by far the most; Detectron2's conversion takes ten times as long for one box
            corners = numbers.reshape(2, 2)
            corners[1] += corners[0]
        else:
            corners = BoxMode.convert(numbers[None], mode, BoxMode.XYXY_ABS).reshape(2, 2)
        width, height = corners[1] - corners[0]
        if width < 0 or height < 0:
            raise ValueError(f"a bbox has width and height of at least 0; got {width:g} and {height:g}")
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None
    return corners


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

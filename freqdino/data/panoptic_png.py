"""Panoptic PNGs: a segment id per pixel, stored as a colour: id = R + 256 G + 65536 B, 0 being unlabelled.

Source: the COCO panoptic format. Shape key: H: height, W: width.
"""
import numpy as np

from freqdino.data.image_reading import open_image
from freqdino.errors import DataError

ID_LIMIT = 1 << 24  # three bytes
_ID_STEP = 1_618_033  # odd, so its multiples modulo ID_LIMIT differ; large, so that their colours do, too


def read_segment_colors(path: str) -> np.ndarray:
    """The colours (H, W, 3), uint8, of a panoptic PNG; transparency is left out.

    Raises DataError: there is no such file, it cannot be decoded or is no colour picture.
    """
    image = open_image(path)
    if image.mode not in ("RGB", "RGBA"):
        raise DataError(f"panoptic PNG {path} has mode {image.mode}; expected three 8-bit channels (id = R + 256 G + "
                         "65536 B)")
    return np.asarray(image.convert("RGB"))


def read_segment_ids(path: str) -> np.ndarray:
    """The segment ids (H, W), int64, of a panoptic PNG. Errors as `read_segment_colors`."""
    return rgb_to_id(read_segment_colors(path))


def rgb_to_id(rgb: np.ndarray) -> np.ndarray:
    """Segment ids (H, W), int64, of a uint8 picture (H, W, 3)."""
    red, green, blue = np.moveaxis(rgb.astype(np.int64), -1, 0)
    return red | green << 8 | blue << 16


def id_to_rgb(ids: np.ndarray) -> np.ndarray:
    """The uint8 picture (H, W, 3) that stores integer segment ids (H, W).

    Raises ValueError: an id is negative or does not fit into three bytes.
    """
    if ids.size and not 0 <= ids.min() <= ids.max() < ID_LIMIT:
        raise ValueError(f"segment ids must lie in 0..{ID_LIMIT - 1}, got {ids.min()}..{ids.max()}")
    return np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8)


def nth_segment_id(number: int) -> int:
    """A segment id for the n-th segment of a picture, from 1 on: all different, with colours far apart."""
    return number * _ID_STEP % ID_LIMIT

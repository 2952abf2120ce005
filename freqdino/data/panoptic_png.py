"""Panoptic PNGs: a segment id per pixel, stored as a colour, id = R + 256 G + 65536 B; id 0 is unlabelled.

Source: the COCO panoptic format. Shape key: H: height, W: width.
"""
import numpy as np

from .image_reading import open_image

_ID_STEP = 1_618_033  # odd, so its multiples modulo 2**24 differ; large, so that their colours do, too


def read_segment_colors(path: str) -> np.ndarray:
    """Read a panoptic PNG as it is stored, (H, W, 3) uint8.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be decoded or has no three 8-bit channels.
    """
    colors = np.asarray(open_image(path))
    if colors.ndim != 3 or colors.shape[2] != 3 or colors.dtype != np.uint8:
        raise ValueError(f"panoptic PNG {path} has shape {colors.shape} and type {colors.dtype}; "
                         "expected three 8-bit channels (id = R + 256 G + 65536 B)")
    return colors


def segment_ids(colors: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 colours to (H, W) int32 segment ids."""
    colors = colors.astype(np.int32)
    return colors[:, :, 0] + 256 * colors[:, :, 1] + 65536 * colors[:, :, 2]


def segment_colors(ids: np.ndarray) -> np.ndarray:
    """The inverse of `segment_ids`: (H, W) ids below 2**24 to (H, W, 3) uint8 colours."""
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)


def nth_segment_id(number: int) -> int:
    """A segment id for the n-th segment of a picture, from 1 on: all different, with colours far apart."""
    return number * _ID_STEP % 2**24

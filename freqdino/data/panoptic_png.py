"""Panoptic PNGs: a segment id per pixel, stored as a colour (see `freqdino.segment_colors`).

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


def nth_segment_id(number: int) -> int:
    """A segment id for the n-th segment of a picture, from 1 on: all different, with colours far apart."""
    return number * _ID_STEP % 2**24

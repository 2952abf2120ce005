"""Segment ids as colours, which is how a panoptic PNG stores them: id = R + 256 G + 65536 B, 0 being unlabelled.

Source: the COCO panoptic format. Shape key: H: height, W: width.
"""
import numpy as np

ID_LIMIT = 1 << 24  # three bytes


def rgb_to_id(rgb: np.ndarray) -> np.ndarray:
    """Segment ids (H, W), int64, of a uint8 picture (H, W, 3)."""
    red, green, blue = np.moveaxis(rgb.astype(np.int64), -1, 0)
    return red | green << 8 | blue << 16


def id_to_rgb(ids: np.ndarray) -> np.ndarray:
    """The uint8 picture (H, W, 3) that stores integer segment ids (H, W).

    Raises:
        ValueError: an id is negative or does not fit into three bytes.
    """
    if ids.size and not 0 <= ids.min() <= ids.max() < ID_LIMIT:
        raise ValueError(f"segment ids must lie in 0..{ID_LIMIT - 1}, got {ids.min()}..{ids.max()}")
    return np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8)

"""ADE20K as it is published: its folders, the names of its pictures, its instance PNGs."""
from pathlib import Path

import numpy as np

from freqdino.data.panoptic_png import read_segment_ids

FOLDER = "ADEChallengeData2016"
SPLITS = {"train": "training", "val": "validation"}


def image_id_of(path: Path) -> int:
    """The number at the end of ADE_train_00000001: an integer id that panoptic and instance files share."""
    return int(path.stem.rsplit("_", 1)[-1])


def read_objects(path: Path, category_ids: list[int]) -> tuple[tuple[int, int], list[tuple[int, np.ndarray]]]:
    """(height, width) and, for each object of an instance PNG, (category id, (H, W) bool mask).

    R holds the class, 1..100 in the order of ``category_ids``, G and B the number of the object, 0 being none.
    """
    ids = read_segment_ids(str(path))
    objects = []
    for value in np.unique(ids[ids >= 256]).tolist():
        kind = value % 256
        if not 1 <= kind <= len(category_ids):
            raise ValueError(f"{path}: an object has the class {kind} in its R channel; "
                             f"expected 1..{len(category_ids)}")
        objects.append((category_ids[kind - 1], ids == value))
    return ids.shape, objects

"""ADE20K semantic labels for Detectron2: annotations/ -> annotations_detectron2/, value - 1 and 0 -> 255 (ignored).

    python datasets/prepare_ade20k_sem_seg.py [--root datasets] [--splits train val] [--processes 8]
"""
from functools import partial
from pathlib import Path

import numpy as np

from freqdino.data.image_reading import read_label_map
from freqdino.data.preparation.ade20k import FOLDER, SPLITS
from freqdino.data.preparation.jobs import files_in, run_jobs, write_png

CLASSES = 150


def convert(path: Path, target: Path) -> None:
    """Shift one label map."""
    labels = read_label_map(str(path))
    if labels.max() > CLASSES:
        raise ValueError(f"{path} has the value {labels.max()}; expected 0..{CLASSES}")
    write_png((labels.astype(np.int32) - 1).astype(np.uint8), target / path.name)


def prepare(root: Path, split: str, processes: int) -> Path:
    """Convert a split, "train" or "val", of the data sets below ``root``; returns the folder of the label maps."""
    folder = root / FOLDER / "annotations" / SPLITS[split]
    target = root / FOLDER / "annotations_detectron2" / SPLITS[split]
    run_jobs(partial(convert, target=target), files_in(folder, "*.png"), processes, split)
    return target

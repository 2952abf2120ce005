"""COCO label maps for Panoptic FPN from its panoptic annotations: coco/panoptic_* -> coco/panoptic_stuff_*.

A value is 0 for every thing and 1..53 for stuff in the order of the category ids; 255 where nothing is annotated.

    python datasets/prepare_coco_stuff.py [--root datasets] [--splits train2017 val2017] [--processes 8]
"""
from pathlib import Path

from freqdino.data.categories import ClassTable
from freqdino.data.preparation import coco_semantic


def stuff_value_of_id(classes: ClassTable) -> dict[int, int]:
    """Category id -> value of a pixel."""
    stuff = [class_id for class_id, isthing in zip(classes.ids, classes.isthing) if not isthing]
    return dict.fromkeys(classes.ids, 0) | {class_id: value for value, class_id in enumerate(stuff, start=1)}


def prepare(root: Path, split: str, processes: int) -> Path:
    """Convert a split, "train2017" or "val2017", of the data sets below ``root``; returns the folder of the maps."""
    return coco_semantic.prepare(root, split, processes, folder="panoptic_stuff", value_of_id=stuff_value_of_id)

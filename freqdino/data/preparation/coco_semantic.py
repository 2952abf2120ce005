"""COCO semantic maps from its panoptic annotations: coco/panoptic_* -> coco/panoptic_semseg_*, for {train,val}2017.

A value is the class index 0..132 in the order of the category ids; 255 where nothing is annotated.

    python datasets/prepare_coco_semantic.py [--root datasets] [--splits train2017 val2017] [--processes 8]
"""
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from freqdino.data.categories import ClassTable
from freqdino.data.panoptic_png import read_segment_ids
from freqdino.data.preparation.jobs import run_jobs, write_png
from freqdino.data.records import read_annotation_file

UNLABELLED = 255


def convert(annotation: dict, source: Path, target: Path, value_of_id: dict[int, int]) -> None:
    """Write the semantic map of one panoptic annotation."""
    ids = read_segment_ids(str(source / annotation["file_name"]))
    semantic = np.full(ids.shape, UNLABELLED, dtype=np.uint8)
    for segment in annotation["segments_info"]:
        semantic[ids == segment["id"]] = value_of_id[segment["category_id"]]
    write_png(semantic, target / annotation["file_name"])


def prepare(root: Path, split: str, processes: int, *, folder: str = "panoptic_semseg",
            value_of_id: Callable[[ClassTable], dict[int, int]] = lambda classes: classes.index_of_id) -> Path:
    """Convert a split, "train2017" or "val2017", of the data sets below ``root``; returns the folder of the maps.

    ``folder``: what the maps' folder is called, before the split. ``value_of_id``: category id -> value of a pixel.
    """
    coco = root / "coco"
    path, target = str(coco / "annotations" / f"panoptic_{split}.json"), coco / f"{folder}_{split}"
    document = read_annotation_file(path, ("annotations", "categories"))
    classes = ClassTable.from_categories(document["categories"], path, panoptic=True)
    job = partial(convert, source=coco / f"panoptic_{split}", target=target, value_of_id=value_of_id(classes))
    run_jobs(job, document["annotations"], processes, split)
    return target

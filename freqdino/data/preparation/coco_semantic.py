"""COCO semantic maps from its panoptic annotations: coco/panoptic_* -> coco/panoptic_semseg_*, for {train,val}2017.

A value is the class index 0..132 in the order of the category ids; 255 where nothing is annotated.

    python datasets/prepare_coco_semantic.py [--root datasets] [--splits train2017 val2017] [--processes 8]
"""
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from prepare_common import parse_arguments, run_jobs, write_png

from freqdino.data.categories import ClassTable
from freqdino.data.panoptic_png import read_segment_colors
from freqdino.data.records import read_annotation_file
from freqdino.segment_colors import rgb_to_id

UNLABELLED = 255


def convert(annotation: dict, source: Path, target: Path, value_of_id: dict[int, int]) -> None:
    """Write the semantic map of one panoptic annotation."""
    ids = rgb_to_id(read_segment_colors(str(source / annotation["file_name"])))
    semantic = np.full(ids.shape, UNLABELLED, dtype=np.uint8)
    for segment in annotation["segments_info"]:
        semantic[ids == segment["id"]] = value_of_id[segment["category_id"]]
    write_png(semantic, target / annotation["file_name"])


def convert_splits(description: str, folder: str, value_of_id: Callable[[ClassTable], dict[int, int]],
                   arguments: list[str] | None) -> None:
    """Write coco/<folder>_<split> for the splits that the command line names; category id -> value of a pixel."""
    options = parse_arguments(description, ("train2017", "val2017"), arguments)
    coco = options.root / "coco"
    for split in options.splits:
        path = str(coco / "annotations" / f"panoptic_{split}.json")
        document = read_annotation_file(path, ("annotations", "categories"))
        classes = ClassTable.from_categories(document["categories"], path, panoptic=True)
        job = partial(convert, source=coco / f"panoptic_{split}", target=coco / f"{folder}_{split}",
                      value_of_id=value_of_id(classes))
        run_jobs(job, document["annotations"], options.processes, split)


def main(arguments: list[str] | None = None) -> None:
    """Convert the splits that the command line names."""
    convert_splits(__doc__.splitlines()[0], "panoptic_semseg", lambda classes: classes.index_of_id, arguments)


if __name__ == "__main__":
    main()

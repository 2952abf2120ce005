"""COCO semantic maps from its panoptic annotations: coco/panoptic_* -> coco/panoptic_semseg_*, for {train,val}2017.

A value is the class index 0..132 in the order of the category ids; 255 where nothing is annotated.

    python datasets/prepare_coco_semantic.py [--root datasets] [--splits train2017 val2017] [--processes 8]
"""
from functools import partial
from pathlib import Path

import numpy as np
from prepare_common import parse_arguments, run_jobs, write_png

from freqdino.data.categories import ClassTable
from freqdino.data.panoptic_png import read_segment_colors, segment_ids
from freqdino.data.records import read_annotation_file

UNLABELLED = 255


def convert(annotation: dict, source: Path, target: Path, index_of_id: dict[int, int]) -> None:
    """Write the semantic map of one panoptic annotation."""
    ids = segment_ids(read_segment_colors(str(source / annotation["file_name"])))
    semantic = np.full(ids.shape, UNLABELLED, dtype=np.uint8)
    for segment in annotation["segments_info"]:
        semantic[ids == segment["id"]] = index_of_id[segment["category_id"]]
    write_png(semantic, target / annotation["file_name"])


def main(arguments: list[str] | None = None) -> None:
    """Convert the splits that the command line names."""
    options = parse_arguments(__doc__.splitlines()[0], ("train2017", "val2017"), arguments)
    coco = options.root / "coco"
    for split in options.splits:
        path = str(coco / "annotations" / f"panoptic_{split}.json")
        document = read_annotation_file(path, ("annotations", "categories"))
        classes = ClassTable.from_categories(document["categories"], path, panoptic=True)
        job = partial(convert, source=coco / f"panoptic_{split}", target=coco / f"panoptic_semseg_{split}",
                      index_of_id=classes.index_of_id)
        run_jobs(job, document["annotations"], options.processes, split)


if __name__ == "__main__":
    main()

"""COCO label maps for Panoptic FPN from its panoptic annotations: coco/panoptic_* -> coco/panoptic_stuff_*.

A value is 0 for every thing and 1..53 for stuff in the order of the category ids; 255 where nothing is annotated.

    python datasets/prepare_coco_stuff.py [--root datasets] [--splits train2017 val2017] [--processes 8]
"""
from prepare_coco_semantic import convert_splits

from freqdino.data.categories import ClassTable


def stuff_value_of_id(classes: ClassTable) -> dict[int, int]:
    """Category id -> value of a pixel."""
    stuff = [class_id for class_id, isthing in zip(classes.ids, classes.isthing) if not isthing]
    return dict.fromkeys(classes.ids, 0) | {class_id: value for value, class_id in enumerate(stuff, start=1)}


def main(arguments: list[str] | None = None) -> None:
    """Convert the splits that the command line names."""
    convert_splits(__doc__.splitlines()[0], "panoptic_stuff", stuff_value_of_id, arguments)


if __name__ == "__main__":
    main()

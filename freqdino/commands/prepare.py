"""Published data sets into the files that the loaders read; datasets/README.md has the folders before and after.

    freqdino-prepare ade20k_sem_seg [--root datasets] [--splits train val] [--processes 8]
"""
import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path

from freqdino.commands.command_line import exit_status, make_parser, require_at_least_one

ADE20K, COCO = ("train", "val"), ("train2017", "val2017")
# Module of freqdino.data.preparation -> what it does, and the splits that there are.
PREPARATIONS = {
    "ade20k_instance": ("ADE20K instances in COCO format, masks as RLE", ADE20K),
    "ade20k_panoptic": ("ADE20K panoptic in COCO format; prepare_ade20k_sem_seg.py comes first", ADE20K),
    "ade20k_sem_seg": ("ADE20K semantic labels for Detectron2: value - 1, and 0 becomes 255", ADE20K),
    "coco_semantic": ("COCO semantic maps from its panoptic annotations", COCO),
    "coco_stuff": ("COCO label maps for Panoptic FPN from its panoptic annotations", COCO),
}


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    data = parser.add_subparsers(dest="name", required=True, metavar="DATA")
    for name, (description, splits) in PREPARATIONS.items():
        one = data.add_parser(name, help=description, description=f"{description}.")
        one.add_argument("--root", type=Path,
                         help="folder of the data sets (default: DETECTRON2_DATASETS, or datasets)")
        one.add_argument("--splits", nargs="+", choices=splits, default=splits, help="default: all")
        one.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="default: one a processor")
    args = parser.parse_args(arguments)
    require_at_least_one(parser, args, "--processes")
    return args


def work(args: argparse.Namespace) -> None:
    from freqdino.data.registering import datasets_root

    prepare_split = import_module(f"freqdino.data.preparation.{args.name}").prepare
    for split in args.splits:
        print(f"wrote {prepare_split(args.root or Path(datasets_root()), split, args.processes)}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    return exit_status(lambda: work(parse_arguments(arguments)))


def prepare(name: str, arguments: Sequence[str] | None = None) -> int:
    """``main`` for one of PREPARATIONS, as the doors in datasets/ call it."""
    return main([name, *(sys.argv[1:] if arguments is None else arguments)])


ade20k_instance = partial(prepare, "ade20k_instance")
ade20k_panoptic = partial(prepare, "ade20k_panoptic")
ade20k_sem_seg = partial(prepare, "ade20k_sem_seg")
coco_semantic = partial(prepare, "coco_semantic")
coco_stuff = partial(prepare, "coco_stuff")

if __name__ == "__main__":
    sys.exit(main())

"""Published data sets into the files that the loaders read; datasets/README.md has the folders before and after."""
import os
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


def prepare(name: str, arguments: Sequence[str] | None = None) -> int:
    """Run one of PREPARATIONS on the splits that the command line names; returns the exit status."""
    description, splits = PREPARATIONS[name]
    parser = make_parser(f"{description}.")
    parser.add_argument("--root", type=Path, help="folder of the data sets (default: DETECTRON2_DATASETS, or datasets)")
    parser.add_argument("--splits", nargs="+", choices=splits, default=splits, help="default: all")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="default: one a processor")
    args = parser.parse_args(arguments)
    require_at_least_one(parser, args, "--processes")

    def work() -> None:
        from freqdino.data.registering import datasets_root

        convert = import_module(f"freqdino.data.preparation.{name}").prepare
        for split in args.splits:
            print(f"wrote {convert(args.root or Path(datasets_root()), split, args.processes)}", flush=True)

    return exit_status(work)


ade20k_instance = partial(prepare, "ade20k_instance")
ade20k_panoptic = partial(prepare, "ade20k_panoptic")
ade20k_sem_seg = partial(prepare, "ade20k_sem_seg")
coco_semantic = partial(prepare, "coco_semantic")
coco_stuff = partial(prepare, "coco_stuff")

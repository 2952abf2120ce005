"""Write instances in another format as a COCO file, which every tool reads; the pictures stay where they are.

    python tools/convert_data.py yolo:data.yaml@val val.json
    python tools/convert_data.py labelme:folder annotations.json
    python tools/convert_data.py voc:VOC2012/SegmentationObject@VOC2012/JPEGImages annotations.json
    python tools/convert_data.py indices:masks@images annotations.json

The prefix says the format; datasets/README.md describes each. Training and evaluation read these names as they are:
a file is of use to look at, to mend, or for other programs. Prints the name of the new data set. Exit status: 0, 1 if
there is a fault in the data, each of which is listed on stderr, 2 for a wrong command line.
"""
import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from freqdino.commands.command_line import exit_status, make_parser, start_logging


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("source", metavar="DATASET", help="yolo:..., labelme:..., voc:... or indices:...")
    parser.add_argument("target", metavar="FILE", type=Path, help="the COCO file to write, a new .json")
    args = parser.parse_args(arguments)
    if args.target.suffix != ".json":
        parser.error(f"FILE must end in .json, got {args.target}")
    return args


def work(args: argparse.Namespace) -> int:
    """Read, write, count; 1, with every fault, where something in the data is wrong."""
    start_logging()
    from freqdino.data.formats.conversion import PREFIXED_FORMS, is_prefixed, read_as_coco, write_coco
    from freqdino.errors import DataError

    if not is_prefixed(args.source):
        raise ValueError(f"{args.source} has none of the forms {', '.join(PREFIXED_FORMS)}")
    if args.target.exists():
        raise ValueError(f"{args.target} is there already; name a new file, or delete it first")
    try:
        document, image_root = read_as_coco(args.source)
    except DataError as error:
        for fault in error.faults:
            print(f"error: {fault}", file=sys.stderr)
        return 1
    write_coco(document, args.target)
    for category in document["categories"]:
        count = sum(annotation["category_id"] == category["id"] for annotation in document["annotations"])
        print(f"{category['name']}: {count} objects")
    print(f"{len(document['images'])} pictures; the data set is now also {args.target}@{image_root}", flush=True)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    return exit_status(lambda: work(parse_arguments(arguments)))


if __name__ == "__main__":
    sys.exit(main())

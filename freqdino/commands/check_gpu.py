"""Hold a GPU against the CPU, in about five minutes: kernels, models, half precision, waits, time and memory.

    python tools/check_gpu.py                               # ends with a table to paste into an issue
    python tools/check_gpu.py --device cpu --size 128       # a rehearsal without a GPU

Exit status 1 where something is wrong. Not in it: several GPUs, fused attention's kernels, plans of cuFFT.
"""
import argparse
import sys
from collections.abc import Sequence

from freqdino.commands.command_line import exit_status, make_parser, require_at_least_one, require_device, start_logging

MARKS = {True: "right", False: "WRONG", None: None}


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--size", type=int, default=1024, help="side of the pictures that cost is measured with")
    args = parser.parse_args(arguments)
    require_at_least_one(parser, args, "--size")
    require_device(parser, args.device)
    return args


def work(args: argparse.Namespace) -> int:
    start_logging("freqdino")
    import torch

    from freqdino.analysis.gpu_check import PARTS, rows_of
    from freqdino.evaluation.tables import growing_table

    wrong = []

    def blocks():
        for part in PARTS:
            rows = rows_of(part, torch.device(args.device), args.size)
            wrong.extend(what for what, _, right in rows if right is False)
            yield [(what, result, MARKS[right]) for what, result, right in rows]

    for line in growing_table(("what", "result", ""), blocks(), text=(0, 1, 2)):
        print(line, flush=True)
    print(f"\n{len(wrong)} wrong{': ' if wrong else ''}{'; '.join(wrong)}")
    return int(bool(wrong))


def main(arguments: Sequence[str] | None = None) -> int:
    return exit_status(lambda: work(parse_arguments(arguments)))


if __name__ == "__main__":
    sys.exit(main())

"""Measure one of the fast paths against its baseline, time and memory, and print a Markdown table.

    python tools/benchmark.py                                  # lists the benchmarks
    python tools/benchmark.py carafe --device cuda --repeats 20

A benchmark is a file of freqdino/analysis/benchmarks with a function ``cases(device)`` that yields the cases (see
measure.py there).
"""
import argparse
import ast
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from freqdino.commands.command_line import exit_status, make_parser, require_at_least_one, require_device

FOLDER = Path(__file__).resolve().parents[1] / "analysis" / "benchmarks"


def available_benchmarks() -> dict[str, str]:
    """Name -> first line of the docstring, of every file beside measure.py."""
    return {file.stem: (ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n")[0]
            for file in sorted(FOLDER.glob("*.py")) if file.stem not in ("__init__", "measure")}


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("name", nargs="?", choices=list(available_benchmarks()),
                        help="the benchmark; without it they are listed")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--repeats", type=int, default=10, help="timed runs of each variant (default 10)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's own choice)")
    args = parser.parse_args(arguments)
    require_at_least_one(parser, args, "--repeats", "--threads")
    require_device(parser, args.device)
    return args


def work(args: argparse.Namespace) -> None:
    if args.name is None:
        for name, summary in available_benchmarks().items():
            print(f"{name:20} {summary}")
        return
    import torch

    from freqdino.analysis.benchmarks.measure import table

    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = torch.device(args.device)
    cases = importlib.import_module(f"freqdino.analysis.benchmarks.{args.name}").cases(device)
    for line in table(cases, device, args.repeats):
        print(line, flush=True)
    device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    print(f"\ntorch {torch.__version__}, {torch.get_num_threads()} threads, {device_name}, "
          f"median of {args.repeats} interleaved runs")


def main(arguments: Sequence[str] | None = None) -> int:
    return exit_status(lambda: work(parse_arguments(arguments)))


if __name__ == "__main__":
    sys.exit(main())

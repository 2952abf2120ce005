#!/usr/bin/env python
"""Measure one of the fast paths against its baseline, time and memory, and print a Markdown table.

    python tools/benchmark.py                                  # lists the benchmarks
    python tools/benchmark.py carafe --device cuda --repeats 20

A benchmark is a file of tools/benchmarks with a function ``cases(device)`` that yields the cases (see measure.py).
"""
import argparse
import ast
import importlib
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tools.benchmarks.measure import table  # noqa: E402  (ROOT has to be on the path first)


def available_benchmarks() -> dict[str, str]:
    """Name -> first line of the docstring, of every file beside measure.py."""
    files = sorted((ROOT / "tools" / "benchmarks").glob("*.py"))
    return {file.stem: (ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n")[0]
            for file in files if file.stem != "measure"}


def parse_arguments(names: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", nargs="?", choices=names, help="the benchmark; without it they are listed")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--repeats", type=int, default=10, help="timed runs of each variant (default 10)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's own choice)")
    arguments = parser.parse_args()
    for option in ("repeats", "threads"):
        value = getattr(arguments, option)
        if value is not None and value < 1:
            parser.error(f"--{option} must be at least 1, got {value}")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no CUDA device")
    return arguments


def main():
    benchmarks = available_benchmarks()
    arguments = parse_arguments(list(benchmarks))
    if arguments.name is None:
        for name, summary in benchmarks.items():
            print(f"{name:20} {summary}")
        return
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    cases = importlib.import_module(f"tools.benchmarks.{arguments.name}").cases(device)
    for line in table(cases, device, arguments.repeats):
        print(line, flush=True)
    device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    print(f"\ntorch {torch.__version__}, {torch.get_num_threads()} threads, {device_name}, "
          f"median of {arguments.repeats} interleaved runs")


if __name__ == "__main__":
    main()

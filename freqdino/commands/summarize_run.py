#!/usr/bin/env python
"""Print the metrics of a training run's last evaluation as a table, or with --dataset the name of the first test set.

    python tools/summarize_run.py output/quickstart/mask2former
"""
import argparse
import json
import sys
from pathlib import Path

# Heading, task and metric of OUTPUT_DIR/inference/results.json.
COLUMNS = (("mask AP", "segm", "AP"), ("box AP", "bbox", "AP"), ("PQ", "panoptic_seg", "PQ"),
           ("mIoU", "sem_seg", "mIoU"))


def read_results(run):
    """Data set → task → metric → number or None. Raises ValueError if the run was not evaluated."""
    path = Path(run) / "inference" / "results.json"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist: {run} has no finished evaluation of train_net.py") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error})") from error


def format_table(results):
    """A line for each data set; a dash stands for what was not evaluated or is undefined."""
    rows = [["data set", *(heading for heading, _, _ in COLUMNS)]]
    for dataset, tasks in results.items():
        values = [tasks.get(task, {}).get(metric) for _, task, metric in COLUMNS]
        rows.append([dataset, *("-" if value is None else f"{value:.1f}" for value in values)])
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["| " + " | ".join(cell.ljust(width) if i == 0 else cell.rjust(width)
                               for i, (cell, width) in enumerate(zip(row, widths))) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="OUTPUT_DIR of train_net.py")
    parser.add_argument("--dataset", action="store_true", help="print the name of the first test set only")
    args = parser.parse_args(arguments)
    try:
        results = read_results(args.run)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(next(iter(results)) if args.dataset else format_table(results))


if __name__ == "__main__":
    main()

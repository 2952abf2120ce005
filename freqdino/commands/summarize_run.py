"""Print the metrics of a training run's last evaluation as a table, or with --dataset the name of the first test set.

    python tools/summarize_run.py output/quickstart/mask2former
"""
import argparse
import sys
from collections.abc import Sequence

from freqdino.commands.command_line import exit_status, make_parser


def format_table(results: dict) -> str:
    """A line for each data set; a dash stands for what was not evaluated or is undefined."""
    from freqdino.evaluation.results import COLUMNS
    from freqdino.evaluation.tables import markdown_table

    return markdown_table(["data set", *(heading for heading, _, _ in COLUMNS)], [
        [dataset, *(tasks.get(task, {}).get(metric) for _, task, metric in COLUMNS)]
        for dataset, tasks in results.items()], digits=1)


def work(args: argparse.Namespace) -> None:
    from freqdino.evaluation.results import read_results

    results = read_results(args.run)
    print(next(iter(results)) if args.dataset else format_table(results))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser(__doc__)
    parser.add_argument("run", help="OUTPUT_DIR of train_net.py")
    parser.add_argument("--dataset", action="store_true", help="print the name of the first test set only")
    return exit_status(lambda: work(parser.parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())

"""One HTML file about a run of train_net.py, to be opened from disk: no network, no server.

    python tools/report.py OUTPUT_DIR [--output FILE] [--max-images N] [KEY VALUE ...]

Sections: how the configuration differs from its base; loss and metrics over the training; the metrics of the last
evaluation with a row for each class; the images of the first test set that the model does best and worst, ground truth
on the left, prediction on the right; what the model costs, as tools/analyze_model.py measures it. The run has to be
evaluated, and its checkpoint and test set have to be there. KEY VALUE pairs change the run's configuration, as in
MODEL.DEVICE cpu. Exit status: 0, 1 for an error, 2 for a wrong command line.
"""
import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from freqdino.commands.command_line import exit_status, make_parser, require_at_least_one, start_logging


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("run", type=Path, metavar="OUTPUT_DIR", help="the folder of the run")
    parser.add_argument("--output", type=Path, help="the file (default: OUTPUT_DIR/report.html)")
    parser.add_argument("--weights", help="checkpoint (default: the run's final one, or the one that was evaluated)")
    parser.add_argument("--max-images", type=int, default=50, help="images of the test set to look at (default 50)")
    parser.add_argument("--shown", type=int, default=4, help="best and worst images to show of either (default 4)")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="configuration options")
    args = parser.parse_intermixed_args(arguments)
    require_at_least_one(parser, args, "--max-images", "--shown")
    return args


def work(args: argparse.Namespace) -> None:
    start_logging()
    from freqdino.analysis.report.sections import write_report

    path = write_report(args.run, output=args.output, weights=args.weights, max_images=args.max_images,
                        shown=args.shown, options=args.opts)
    print(f"report written to {path}")


def main(arguments: Sequence[str] | None = None) -> int:
    return exit_status(lambda: work(parse_arguments(arguments)))


if __name__ == "__main__":
    sys.exit(main())

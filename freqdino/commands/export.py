"""Write a trained model as a file that runs without its code, and check it before it has its name.

    python tools/export.py --weights OUTPUT_DIR --output model.onnx            (the folder of a run)
    python tools/export.py --config-file CONFIG --weights CHECKPOINT --output model.onnx [KEY VALUE ...]
    python tools/export.py --weights OUTPUT_DIR --output model.pt2             (a program of torch.export)

Pictures (B, 3, H, W) of uint8 in RGB go in, results come out: normalisation, padding and post-processing are in the
graph, freqdino/export/README.md describes it. The file is compared with the model on three sizes; where an output
differs there is no file, and the message names it. --check-dataset also evaluates both on a data set. Exit status: 0,
1 for an error, 2 for a wrong command line.
"""
import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from freqdino.commands.command_line import exit_status, make_parser, start_logging
from freqdino.export import FORMATS, OPSETS

MOST_OPERATORS = 8      # kinds that the summary lists


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--config-file", help="the configuration that the model was trained with; not needed where "
                                              "--weights is the folder of a run")
    parser.add_argument("--weights", help="the folder of a run, or a checkpoint")
    parser.add_argument("--format", choices=FORMATS, help="default: by the suffix of --output, .onnx or .pt2")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="the file to write")
    parser.add_argument("--opset", type=int, choices=OPSETS, default=OPSETS[0], help="of ONNX (default 18)")
    parser.add_argument("--input-size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"),
                        help="pictures of this size alone (default: of any size)")
    parser.add_argument("--batch-size", type=int, metavar="N", help="this number of pictures alone (default: any)")
    parser.add_argument("--check-dataset", metavar="NAME", help="evaluate the model and the file on this data set")
    parser.add_argument("options", nargs="*", metavar="KEY VALUE", help="options of the configuration")
    args = parser.parse_intermixed_args(arguments)
    if not args.config_file and not args.weights:
        parser.error("--weights must name the folder of a run where there is no --config-file")
    for name in ("input_size", "batch_size"):
        value = getattr(args, name)
        if value is not None and min(value if isinstance(value, list) else [value]) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    return args


def work(args: argparse.Namespace) -> None:
    start_logging()
    from freqdino.engine import Predictor

    options = [*args.options, "MODEL.DEVICE", "cpu"]
    predictor = (Predictor(config=args.config_file, weights=args.weights, options=options) if args.config_file
                 else Predictor(args.weights, options=options))
    summary = predictor.export(args.output, file_format=args.format, opset=args.opset, batch_size=args.batch_size,
                               input_size=args.input_size and tuple(args.input_size))
    comparison = summary.comparison
    operators = ", ".join(f"{name} {count}" for name, count in summary.nodes.most_common(MOST_OPERATORS))
    print(f"{summary.path}: {summary.size / 1e6:.1f} MB, {summary.nodes.total()} nodes"
          + (f", opset {summary.opset}" if summary.opset else "") + f" ({operators}, ...)")
    print("largest differences from the model: "
          + ", ".join(f"{name} {value:.2g}" for name, value in comparison.differences.items()))
    if comparison.other_tokens:
        print(f"tokens of equal score that the model by itself takes otherwise: {comparison.other_tokens}")
    print("seconds for the last pictures: model {:.3f}, file {:.3f}".format(*comparison.seconds))
    if args.check_dataset:
        print_evaluations(args.check_dataset, {"model": predictor, "file": Predictor(args.output)})


def print_evaluations(dataset: str, predictors: dict) -> None:
    """A table of the metrics that count, a row for each of the predictors by name."""
    from freqdino.evaluation.results import COLUMNS
    from freqdino.evaluation.tables import markdown_table

    results = {name: predictor.evaluate(dataset) for name, predictor in predictors.items()}
    columns = [(heading, task, metric) for heading, task, metric in COLUMNS if task in next(iter(results.values()))]
    print(f"on {dataset}:")
    print(markdown_table(["", *(heading for heading, _, _ in columns)],
                         [[name, *(found[task][metric] for _, task, metric in columns)]
                          for name, found in results.items()]))


def main(arguments: Sequence[str] | None = None) -> int:
    return exit_status(lambda: work(parse_arguments(arguments)))


if __name__ == "__main__":
    sys.exit(main())

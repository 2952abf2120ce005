"""The frequency analyses of the FDAM, FDConv and FreqFusion papers, of any model on any images: figures and numbers.

    python tools/analyze_frequency.py SUBJECT --config-file CONFIG --weights CHECKPOINT --input IMAGES ... --output DIR
    python tools/analyze_frequency.py SUBJECT --timm deit_small_patch16_224 [--weights FILE] --input IMAGES --output DIR
    python tools/analyze_frequency.py freqfusion --config-file CONFIG --weights CHECKPOINT --dataset NAME --output DIR
    python tools/analyze_frequency.py compare DIR_A DIR_B --output DIR

Subjects:
    attention       response |F(Y)| / |F(V)| of every layer, its product over the layers, plain and inverted; the kernel
                    of one layer (--layer, default the last) at one token (--token, default the middle), its response,
                    and whether it is a low-pass (1 at frequency zero, below 1 elsewhere) in every layer
    representation  effective rank and cosine similarity by layer, similarity across layers, feature maps and spectra
    gates           FDAM: coefficients of attention inversion, weights of FreqScale
    fdconv          FDConv and FDLinear: group kernels of one layer (--layer), their spectra and similarity; frequency
                    bands and their weights on an image
    freqfusion      intra-category similarity and similarity margin before and after fusion, on the ground truth of
                    --dataset; the filters of one unit (--layer, default the last) at one pixel (--token)
    all             those of the above that the model and the images allow; the others are named

Each subject writes DIR/<subject>.json, which holds every number that is drawn, and DIR/<subject>_*.png. Curves are
means over the images, maps are the first image's. In the JSON a profile belongs to "frequencies" (cycles per token; of
fdconv per element of the weight's matrix), maps are lists of rows, spectra and responses with frequency zero in the
middle, sizes are [height, width], tokens and points [y, x], and null is a number that is not defined. ``compare`` reads
two such folders (or two such JSON files) and puts both into the same figures. Without weights a model is random, which
is said. Exit status: 0, 1 for a subject that the model or the images do not allow and for files that are missing or
wrong, 2 for wrong arguments.
"""
import argparse
import json
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from freqdino.commands.command_line import (
    exit_status,
    make_parser,
    require_at_least_one,
    start_logging,
    take_options_from_input,
)
from freqdino.errors import NotThere

# Each is a module of freqdino.analysis.frequency.subjects with ``measure``, and a function of figures there.
SUBJECTS = ("attention", "representation", "gates", "fdconv", "freqfusion")
# Which of --layer and --token a subject reads.
CHOICES = {"attention": ("layer", "token"), "fdconv": ("layer",), "freqfusion": ("layer", "token")}


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    commands = parser.add_subparsers(dest="subject", required=True, metavar="SUBJECT")
    for subject in (*SUBJECTS, "all"):
        add_model_arguments(commands.add_parser(subject), CHOICES.get(subject, ()))
    compare = commands.add_parser("compare")
    compare.add_argument("runs", nargs=2, type=Path, metavar="DIR", help="folders, or JSON files, of earlier runs")
    compare.add_argument("--output", required=True, type=Path, help="folder for figures and numbers")
    compare.add_argument("--names", nargs=2, help="what to call the two in the figures (default: the folders' names)")
    args = parser.parse_args(arguments)
    if args.subject != "compare":
        check_model_arguments(commands.choices[args.subject], args)
    return args


def add_model_arguments(parser: argparse.ArgumentParser, choices: tuple[str, ...]) -> None:
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--config-file", help="the configuration that the model was trained with")
    model.add_argument("--timm", metavar="NAME", help="a vision transformer of timm")
    images = parser.add_mutually_exclusive_group(required=True)
    images.add_argument("--input", nargs="+", help="images, folders, or patterns in quotes")
    images.add_argument("--dataset", help="a registered dataset, or own data as in DATASETS.TEST")
    parser.add_argument("--output", required=True, type=Path, help="folder for figures and numbers")
    parser.add_argument("--weights", help="checkpoint (default: MODEL.WEIGHTS; of timm's models random weights)")
    parser.add_argument("--max-images", type=int, help="use this number of images at most")
    if "layer" in choices:
        parser.add_argument("--layer", type=int, help="number of the layer or unit, from 0")
    if "token" in choices:
        parser.add_argument("--token", nargs=2, type=int, metavar=("Y", "X"), help="row and column, from 0")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="configuration options: KEY VALUE ...")


def check_model_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    take_options_from_input(parser, args)
    if args.timm and args.opts:
        parser.error(f"configuration options do not apply to --timm: {' '.join(args.opts)}")
    if args.timm and args.dataset:
        parser.error("--dataset needs --config-file; a timm model takes images by --input")
    require_at_least_one(parser, args, "--max-images")


def analyze(args: argparse.Namespace) -> None:
    """Measure the subjects and write their numbers and figures. NotThere if none of them can be measured."""
    import torch

    from freqdino.analysis.frequency.sources import RANDOM_WEIGHTS, ConfiguredModel, TimmModel, images_of

    images = images_of(args.dataset, args.input, args.max_images)
    source = (TimmModel(args.timm, args.weights, images) if args.timm else
              ConfiguredModel(args.config_file, args.opts, args.weights, args.dataset, images))
    if source.weights == RANDOM_WEIGHTS:
        print(f"{source.name}: no weights are given, the model's are random")
    about = {"model": source.name, "weights": source.weights,
             "images": [record["file_name"] for record in source.records]}
    args.output.mkdir(parents=True, exist_ok=True)
    reasons = []
    for subject in SUBJECTS if args.subject == "all" else [args.subject]:
        choices = {name: getattr(args, name) for name in CHOICES.get(subject, ()) if hasattr(args, name)}
        try:
            with torch.no_grad():
                numbers = module_of(subject).measure(source, **choices)
        except NotThere as error:
            reasons.append(f"{subject}: {error}")
            continue
        write(subject, {"subject": subject, **about, **numbers}, [("", numbers)], args.output)
    if len(reasons) == (len(SUBJECTS) if args.subject == "all" else 1):
        raise NotThere("\n".join(reasons))
    for reason in reasons:
        print(f"left out, {reason}")


def module_of(subject: str):
    return import_module(f"freqdino.analysis.frequency.subjects.{subject}")


def write(subject: str, contents: dict, runs: list[tuple[str, dict]], folder: Path) -> None:
    """Write the numbers as JSON, draw them, and say into which files."""
    from freqdino.analysis.frequency import figures

    drawn, names = getattr(figures, subject)(runs), []
    (folder / f"{subject}.json").write_text(json.dumps(contents))
    for name, figure in drawn.items():
        figure.savefig(folder / f"{name}.png", dpi=130)
        names.append(f"{name}.png")
    print(f"{folder / subject}.json, {', '.join(names)}")


def read_run(path: Path) -> dict[str, dict]:
    """Subject -> numbers of a folder or file of an earlier run. ValueError for another file, OSError for none."""
    files = [path] if path.suffix == ".json" else [path / f"{subject}.json" for subject in SUBJECTS]
    found = {}
    for file in files:
        if not file.is_file() and file != path:
            continue
        try:
            numbers = json.loads(file.read_text())
            if numbers["subject"] not in SUBJECTS:
                raise KeyError("subject")
            if "compared" in numbers:
                raise ValueError(f"{file} is a comparison of two models; compare reads what a subject has written")
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is not what a subject of this script has written: {error!r}") from error
        found[numbers["subject"]] = numbers
    if not found:
        raise ValueError(f"{path} holds none of {', '.join(f'{subject}.json' for subject in SUBJECTS)}; run a subject "
                         "with --output there first")
    return found


def run_names(runs: list[Path]) -> list[str]:
    """What tells two runs apart in the figures: the name of the file or folder, or the whole path."""
    names = [path.stem if path.suffix == ".json" else path.resolve().name for path in runs]
    return names if len(set(names)) == len(names) else [str(path) for path in runs]


def compare(args: argparse.Namespace) -> None:
    """Draw the subjects that both runs hold into the same figures. ValueError if there is none."""
    runs = [read_run(path) for path in args.runs]
    names = args.names or run_names(args.runs)
    shared = [subject for subject in SUBJECTS if all(subject in run for run in runs)]
    if not shared:
        raise ValueError(f"{args.runs[0]} holds {', '.join(runs[0])}, {args.runs[1]} {', '.join(runs[1])}: there is no "
                         "subject to compare")
    args.output.mkdir(parents=True, exist_ok=True)
    for subject in shared:
        both = [(name, run[subject]) for name, run in zip(names, runs)]
        try:
            write(subject, {"subject": subject, "compared": [{"name": name, **numbers} for name, numbers in both]},
                  both, args.output)
        except KeyError as error:
            raise ValueError(f"{subject}.json of {args.runs[0]} or {args.runs[1]} lacks {error}; run its subject "
                             "again") from error


def work(args: argparse.Namespace) -> None:
    start_logging()
    compare(args) if args.subject == "compare" else analyze(args)


def main(arguments: Sequence[str] | None = None) -> int:
    return exit_status(lambda: work(parse_arguments(arguments)))


if __name__ == "__main__":
    sys.exit(main())

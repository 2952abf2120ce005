"""Parameters, FLOPs, activations, time and memory of a model, of two with their differences, or of all in configs/.

    python tools/analyze_model.py configs/coco/instance/mask2former_r50.yaml --size 800 1333
    python tools/analyze_model.py A.yaml B.yaml --batch 2 --no-time MODEL.SEM_SEG_HEAD.NUM_CLASSES 3
    python tools/analyze_model.py --all --no-time > table.md            (--size 256 256 takes a third of the time)

What is measured is the evaluation of noise images by a network of random weights, results of the input's size included;
MODEL.WEIGHTS is not read. A part's figures are those of what runs in it, the rest is what runs outside of all parts.
Semantic results and the instances of the mask models cost what they always cost; a random network finds no panoptic
segment to resize. R-CNN detectors are set to find as many objects as they may.

1 FLOP is one multiply-add, or an addition or multiplication without partner, as in fvcore and the papers' tables:

    convolution, matrix product     inputs of an output x outputs; biases nothing
    attention                       both products, a mask saves nothing; softmax nothing
    gathers (embedding_bag, CARAFE, deformable attention): 1 for each gathered element, so k² for each output of CARAFE
                                    and 4 for each channel of each bilinear sample of deformable attention
    FFT of N points                 5 N log2 N complex, half of it from or to real numbers: the usual nominal count
    grid_sample, interpolate, ROIAlign: 4 for each bilinear sample, 16 for each bicubic one, nearest nothing
    LayerNorm, GroupNorm            5 for each element, 4 without affine parameters; BatchNorm 1
    averages, fold                  1 for each input element
    copies, comparisons, ReLU, maxima, sorting: nothing

Other operators, elementwise arithmetic above all, are not counted but listed under the table with their calls.
Activations are the elements of the outputs of all these but normalisations, interpolations and averages. Time is the
median of 3 runs, two models taking turns; the peak of memory is what a run allocates beyond what there was.
"""
import argparse
import sys
from collections import Counter
from collections.abc import Sequence

from freqdino.commands.command_line import exit_status, make_parser, require_at_least_one, require_device, tell
from freqdino.errors import USER_ERRORS

SUFFIXES = (".yaml", ".yml")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(
        __doc__,
        usage="%(prog)s [A.yaml [B.yaml]] [--all] [--size H W] [--batch N] [--no-time] [--device cpu|cuda] "
              "[KEY VALUE ...]")
    parser.add_argument("words", nargs="*", metavar="A.yaml [B.yaml] [KEY VALUE ...]",
                        help="one or two configurations, and options for both")
    parser.add_argument("--all", action="store_true", help="a row for every configuration of configs/")
    parser.add_argument("--size", nargs=2, type=int, default=(512, 512), metavar=("H", "W"),
                        help="of the images (default 512 512)")
    parser.add_argument("--batch", type=int, default=1, help="images (default 1)")
    parser.add_argument("--no-time", action="store_true", help="neither time nor memory")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    args = parser.parse_intermixed_args(arguments)
    count = next((i for i, word in enumerate(args.words) if not word.endswith(SUFFIXES)), len(args.words))
    args.configs, args.options = args.words[:count], args.words[count:]
    if args.all and args.configs:
        parser.error(f"--all takes no configuration, got {args.configs[0]}")
    if not args.all and not 1 <= count <= 2:
        parser.error(f"one or two configurations (.yaml) come first, got {count}: {' '.join(args.words[:3])}")
    if len(args.options) % 2:
        parser.error(f"options come in pairs KEY VALUE, got {len(args.options)} words: {' '.join(args.options)}")
    if "MODEL.DEVICE" in args.options:
        parser.error("--device chooses the device, not MODEL.DEVICE")
    require_at_least_one(parser, args, "--size", "--batch")
    require_device(parser, args.device)
    return args


def read_config(path: str, args: argparse.Namespace):
    from freqdino.config import load_config

    return load_config(path, [*args.options, "MODEL.DEVICE", args.device, "SOLVER.AMP.ENABLED", False])


def compare(args: argparse.Namespace) -> None:
    """Print the table of one or two configurations."""
    from freqdino.analysis.costs.frequency_costs import describe_costs
    from freqdino.analysis.costs.measuring import analyze, build, noise
    from freqdino.analysis.costs.tables import one_model_table, two_model_table

    configs = [read_config(path, args) for path in args.configs]
    models = [build(cfg) for cfg in configs]
    analyses = analyze(models, noise(args.batch, *args.size), timed=not args.no_time)
    for label, path, model, cfg in zip("AB", args.configs, models, configs):
        costs = describe_costs(model, cfg)
        print(f"{label}: {path}" + (f"; {costs}" if costs else ""))
    print()
    print(one_model_table(*analyses) if len(analyses) == 1 else two_model_table(*analyses))
    print_notes(args, sum((analysis.uncounted for analysis in analyses), Counter()))


def tabulate_all(args: argparse.Namespace) -> int:
    """Print a row for every configuration, each as soon as it is measured; returns how many failed."""
    from freqdino.analysis.costs.frequency_costs import describe_costs
    from freqdino.analysis.costs.measuring import TOTAL, analyze, build, noise
    from freqdino.config.loading import configs_folder
    from freqdino.evaluation.tables import growing_table

    headings = ["configuration", "parameters", "of which frequency modules", "GFLOPs"]
    headings += [] if args.no_time else ["time ms"]
    images, uncounted, failed = noise(args.batch, *args.size), Counter(), 0

    def rows():
        nonlocal failed
        for path in sorted(path for path in configs_folder().rglob("*.yaml") if path.parent.name != "_base_"):
            name = path.relative_to(configs_folder()).as_posix()
            try:
                cfg = read_config(str(path), args)
                model = build(cfg)
                analysis, = analyze([model], images, timed=not args.no_time)
            except USER_ERRORS as error:
                tell(error, where=f" in {name}")
                failed += 1
                continue
            uncounted.update(analysis.uncounted)
            totals = [analysis.figures[quantity][TOTAL] for quantity in ("parameters", "GFLOPs", *headings[4:])]
            yield [[name.removesuffix(".yaml"), totals[0], describe_costs(model, cfg), *totals[1:]]]

    for line in growing_table(headings, rows(), text=(0, 2)):
        print(line, flush=True)
    print_notes(args, uncounted)
    return failed


def print_notes(args: argparse.Namespace, uncounted: Counter) -> None:
    import torch

    device = torch.cuda.get_device_name() if args.device == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    height, width = args.size
    print(f"\n{args.batch} image(s) of {height} x {width}, random weights, torch {torch.__version__}, {device}.")
    print("1 FLOP: one multiply-add; the rules: analyze_model.py --help.")
    if uncounted:
        print("Not counted (operator calls):", ", ".join(f"{name} {calls}" for name, calls in uncounted.most_common()))


def work(args: argparse.Namespace) -> int:
    if args.all:
        return int(tabulate_all(args) > 0)
    compare(args)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    return exit_status(lambda: work(parse_arguments(arguments)))


if __name__ == "__main__":
    sys.exit(main())

"""Train a quickstart model in the variants of a group over several seeds, and compare them in one table.

    bash tools/ablation.sh                              # Mask2Former, seeds 1 2 3: 18 runs
    bash tools/ablation.sh maskdino --seeds 1 2 SOLVER.MAX_ITER 300
    bash tools/ablation.sh maskrcnn --group upsamplers --seeds 1 SOLVER.MAX_ITER 100
    bash tools/ablation.sh --group dynamic-convs --seeds 1 SOLVER.MAX_ITER 100
    bash tools/ablation.sh --variants plain fdconv fdconv_equal             # of the group, these alone

    modules         plain, with each frequency module (FDConv also with SOLVER.FDCONV_RATE equal), with all of them
    upsamplers      every value of MODEL.FPN.UPSAMPLER, of models with a feature pyramid: maskrcnn
    dynamic-convs   plain, CondConv, DY-Conv, ODConv, KernelWarehouse and FDConv in the backbone

Prints a Markdown table of mean ± standard deviation over the seeds on the sample scenes' validation set: AP of masks
and boxes, PQ, mIoU; Boundary IoU, the mean over the classes of semantic predictions, and Boundary AP of instance masks
(arXiv 2103.16562); the median time of a training iteration, with what else ran beside it; parameters, and GFLOPs of an
evaluated image as analyze_model.py counts them. The runs lie in output/ablation/<model>/<variant>_seed<n>; those that
have finished with the same options are not repeated. Variants that fail are left out of the table, with status 1.
A small-scale check, a few minutes of training from random weights each: what it shows need not hold for a full recipe.
"""
import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from freqdino.commands.command_line import exit_status, make_parser, require_at_least_one, tell
from freqdino.errors import USER_ERRORS

GROUPS = ("modules", "upsamplers", "dynamic-convs")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__, usage="%(prog)s [MODEL] [--group GROUP] [--variants NAME ...] [--seeds N ...] "
                                        "[--jobs N] [KEY VALUE ...]")
    parser.add_argument("model", nargs="?", default="mask2former", help="a file of configs/quickstart, without .yaml")
    parser.add_argument("--group", choices=GROUPS, default=GROUPS[0], help="which variants (default %(default)s)")
    parser.add_argument("--variants", nargs="+", metavar="NAME", help="these of the group alone (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time (default: one for each core)")
    words = sys.argv[1:] if arguments is None else arguments
    start = next((i for i, word in enumerate(words) if word[:1].isupper()), len(words))
    args = parser.parse_args(words[:start])
    args.options = words[start:]
    require_at_least_one(parser, args, "--jobs")
    if len(args.options) % 2:
        parser.error(f"expected KEY VALUE pairs, got {' '.join(args.options)}")
    return args


def work(args: argparse.Namespace) -> int:
    from freqdino.analysis import ablation

    ablation.quickstart_file(args.model)
    variants = {name: [*words, *args.options]
                for name, words in ablation.chosen_variants(args.group, args.model, args.variants).items()}
    runs = {(variant, seed): ablation.Run(args.model, variant, seed, words) for seed in args.seeds
            for variant, words in variants.items()}
    failed = set()
    with ThreadPoolExecutor(args.jobs) as pool:
        threads = max(1, (os.cpu_count() or 1) // args.jobs)
        futures = {pool.submit(run.train, threads): variant for (variant, _), run in runs.items()}
        for future in as_completed(futures):
            try:
                print(future.result(), file=sys.stderr, flush=True)
            except USER_ERRORS as error:
                tell(error)
                failed.add(futures[future])
    done = [variant for variant in variants if variant not in failed]
    if done:
        results = {variant: [runs[variant, seed].results() for seed in args.seeds] for variant in done}
        print(f"{args.model}, {args.group}, seeds {' '.join(map(str, args.seeds))}, "
              f"{' '.join(args.options) or f'{ablation.MAX_ITER} iterations'}\n")
        print(ablation.table(results, {variant: ablation.costs(args.model, variants[variant]) for variant in done}))
    return int(bool(failed))


def main(arguments: Sequence[str] | None = None) -> int:
    return exit_status(lambda: work(parse_arguments(arguments)))


if __name__ == "__main__":
    sys.exit(main())

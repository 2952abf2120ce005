"""Train a quickstart model plain, with each frequency module and with all of them, over several seeds.

    bash tools/ablation.sh                              # Mask2Former, seeds 1 2 3, under 90 minutes on two CPU cores
    bash tools/ablation.sh maskdino --seeds 1 2 SOLVER.MAX_ITER 300

Prints a Markdown table of mean ± standard deviation over the seeds on the sample scenes' validation set, and what the
training costs. The runs lie in output/ablation/<model>/<variant>_seed<n>; those that have finished with the same
options are not repeated. A small-scale check, a few minutes of training from random weights each: what it shows need
not hold for a full recipe.
"""
import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from freqdino.commands.command_line import exit_status, make_parser, require_at_least_one, tell
from freqdino.errors import USER_ERRORS


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__, usage="%(prog)s [MODEL] [--seeds N ...] [--jobs N] [KEY VALUE ...]")
    parser.add_argument("model", nargs="?", default="mask2former", help="a file of configs/quickstart, without .yaml")
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
    from freqdino.analysis.ablation import MAX_ITER, VARIANTS, Run, table
    from freqdino.config.loading import configs_folder

    config = configs_folder() / "quickstart" / f"{args.model}.yaml"
    if not config.is_file():
        raise FileNotFoundError(f"there is no {config}")
    runs = {(variant, seed): Run(args.model, variant, seed, args.options) for seed in args.seeds
            for variant in VARIANTS}
    failed = 0
    with ThreadPoolExecutor(args.jobs) as pool:
        threads = max(1, (os.cpu_count() or 1) // args.jobs)
        for future in as_completed([pool.submit(run.train, threads) for run in runs.values()]):
            try:
                print(future.result(), file=sys.stderr, flush=True)
            except USER_ERRORS as error:
                tell(error)
                failed += 1
    if failed:
        return 1
    print(f"{args.model}, seeds {' '.join(map(str, args.seeds))}, "
          f"{' '.join(args.options) or f'{MAX_ITER} iterations'}\n")
    print(table({variant: [runs[variant, seed].results() for seed in args.seeds] for variant in VARIANTS}))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    return exit_status(lambda: work(parse_arguments(arguments)))


if __name__ == "__main__":
    sys.exit(main())

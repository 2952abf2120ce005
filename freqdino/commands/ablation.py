#!/usr/bin/env python
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
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from quickstart_options import OPTIONS, module_options
from summarize_run import COLUMNS, read_results

ROOT = Path(__file__).resolve().parents[1]
VARIANTS = {"plain": (), **{module: (module,) for module in OPTIONS}, "all": tuple(OPTIONS)}
MAX_ITER = 400      # a third of the quickstart's: 15 runs have to fit into 90 minutes, and FDConv costs most


def main(arguments=None):
    parser = argparse.ArgumentParser(usage="bash tools/ablation.sh [MODEL] [--seeds N ...] [--jobs N] [KEY VALUE ...]",
                                     description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="mask2former", help="a file of configs/quickstart, without .yaml")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time (default: one for each core)")
    words = sys.argv[1:] if arguments is None else arguments
    start = next((i for i, word in enumerate(words) if word[:1].isupper()), len(words))
    args, options = parser.parse_args(words[:start]), words[start:]
    config = ROOT / "configs" / "quickstart" / f"{args.model}.yaml"
    if not config.is_file():
        parser.error(f"no {config.relative_to(ROOT)}")
    if args.jobs < 1:
        parser.error(f"--jobs must be at least 1, got {args.jobs}")
    if len(options) % 2:
        parser.error(f"expected KEY VALUE pairs, got {' '.join(options)}")
    runs = {(variant, seed): Run(args.model, variant, seed, options) for seed in args.seeds for variant in VARIANTS}
    with ThreadPoolExecutor(args.jobs) as pool:
        futures = [pool.submit(run.train, threads=max(1, os.cpu_count() // args.jobs)) for run in runs.values()]
    failed = [str(future.exception()) for future in futures if future.exception()]
    if failed:
        sys.exit("\n".join(f"error: {message}" for message in failed))
    print(f"{args.model}, seeds {' '.join(map(str, args.seeds))}, {' '.join(options) or f'{MAX_ITER} iterations'}\n")
    print("\n".join(table({variant: [runs[variant, seed].results() for seed in args.seeds] for variant in VARIANTS})))


class Run:
    """One training with its evaluation, in a folder of its own."""

    def __init__(self, model, variant, seed, options):
        self.name = f"{variant}_seed{seed}"
        self.folder = ROOT / "output" / "ablation" / model / self.name
        self.command = [sys.executable, str(ROOT / "train_net.py"), "--config-file",
                        str(ROOT / "configs" / "quickstart" / f"{model}.yaml"), "SOLVER.MAX_ITER", str(MAX_ITER),
                        *module_options(model, VARIANTS[variant]), *options, "SEED", str(seed),
                        "OUTPUT_DIR", str(self.folder)]

    def train(self, threads):
        """Do the run unless it was done before. Raises RuntimeError, with the log's path, where training fails."""
        finished, words = self.folder / "command.txt", " ".join(self.command[2:])
        if finished.is_file() and finished.read_text() == words:
            print(f"{self.name}: done before", file=sys.stderr)
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        finished.unlink(missing_ok=True)
        start, log = time.monotonic(), self.folder / "output.txt"
        with log.open("w") as stream:
            environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
            status = subprocess.run(self.command, stdout=stream, stderr=subprocess.STDOUT, env=environment).returncode
        if status:
            raise RuntimeError(f"{self.name} ended with status {status}; see {log}")
        finished.write_text(words)
        print(f"{self.name}: {time.monotonic() - start:.0f} s", file=sys.stderr)

    def results(self):
        """Task → metric → number of the one test set."""
        return next(iter(read_results(self.folder).values()))


def table(results):
    """Markdown lines: a row a variant, its results (one dictionary a seed) as mean ± sample standard deviation."""
    columns = [column for column in COLUMNS if any(column[1] in result for runs in results.values() for result in runs)]
    yield "| variant | " + " | ".join(heading for heading, _, _ in columns) + " |"
    yield "|---|" + "---:|" * len(columns)
    for variant, runs in results.items():
        cells = [mean_and_deviation([result.get(task, {}).get(metric) for result in runs])
                 for _, task, metric in columns]
        yield f"| {variant} | " + " | ".join(cells) + " |"


def mean_and_deviation(values):
    """"mean ± standard deviation"; the mean alone of a single value, a dash where a seed has none."""
    if None in values:
        return "–"
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.1f}"


if __name__ == "__main__":
    main()

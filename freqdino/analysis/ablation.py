"""The quickstart's models plain, with each frequency module and with all of them: trainings, and their table."""
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from freqdino.evaluation.results import COLUMNS, read_results
from freqdino.evaluation.tables import markdown_table

# Frequency module -> model -> the option that switches it on; "" stands for every model without a row of its own.
OPTIONS = {
    "freqfusion": {"": "MODEL.SEM_SEG_HEAD.FREQFUSION.ENABLED True", "maskrcnn": "MODEL.FPN.UPSAMPLER freqfusion"},
    "fdconv": {"": "MODEL.BACKBONE.FDCONV.ENABLED True"},
    "fdam": {"": "MODEL.SEM_SEG_HEAD.FDAM.ENABLED True", "maskrcnn": "MODEL.BACKBONE.FDAM.ENABLED True"},
}
VARIANTS = {"plain": (), **{module: (module,) for module in OPTIONS}, "all": tuple(OPTIONS)}
MAX_ITER = 400      # a third of the quickstart's: 15 runs have to fit into 90 minutes, and FDConv costs most
TRAIN = (sys.executable, "-m", "freqdino.commands.train")


def module_options(model: str, modules: Sequence[str]) -> list[str]:
    """The words KEY VALUE ... for ``modules``, names of OPTIONS, in the model configs/quickstart/<model>.yaml."""
    by_model = (OPTIONS[module] for module in modules)
    return [word for options in by_model for word in options.get(model, options[""]).split()]


class Run:
    """One training with its evaluation, in a folder of its own below the working directory.

    model: a file of configs/quickstart, without .yaml. variant: one of VARIANTS. options: KEY VALUE ...
    """

    def __init__(self, model: str, variant: str, seed: int, options: Sequence[str]):
        self.name = f"{variant}_seed{seed}"
        self.folder = Path("output", "ablation", model, self.name)
        self.words = ["--config-file", f"quickstart/{model}.yaml", "SOLVER.MAX_ITER", str(MAX_ITER),
                      *module_options(model, VARIANTS[variant]), *options, "SEED", str(seed),
                      "OUTPUT_DIR", str(self.folder)]

    def train(self, threads: int) -> str:
        """Do the run unless it was done before; returns what happened.

        Raises ChildProcessError, with the log's path, where training fails.
        """
        finished, words = self.folder / "command.txt", " ".join(self.words)
        if finished.is_file() and finished.read_text() == words:
            return f"{self.name}: done before"
        self.folder.mkdir(parents=True, exist_ok=True)
        finished.unlink(missing_ok=True)
        start, log = time.monotonic(), self.folder / "output.txt"
        with log.open("w") as stream:
            environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
            status = subprocess.run([*TRAIN, *self.words], stdout=stream, stderr=subprocess.STDOUT,
                                    env=environment).returncode
        if status:
            raise ChildProcessError(f"{self.name} ended with status {status}; see {log}")
        finished.write_text(words)
        return f"{self.name}: {time.monotonic() - start:.0f} s"

    def results(self) -> dict[str, dict[str, float | None]]:
        """Task -> metric -> number of the one test set."""
        return next(iter(read_results(self.folder).values()))


def table(results: Mapping[str, Sequence[dict]]) -> str:
    """A row a variant in Markdown, its results (one dictionary a seed) as mean ± sample standard deviation."""
    columns = [column for column in COLUMNS if any(column[1] in result for runs in results.values() for result in runs)]
    return markdown_table(["variant", *(heading for heading, _, _ in columns)], [
        [variant, *(mean_and_deviation([result.get(task, {}).get(metric) for result in runs])
                    for _, task, metric in columns)] for variant, runs in results.items()])


def mean_and_deviation(values: Sequence[float | None]) -> str | None:
    """"mean ± standard deviation"; the mean alone of a single value, None where a seed has none."""
    if None in values:
        return None
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.1f}"

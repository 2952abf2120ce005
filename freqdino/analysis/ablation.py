"""The quickstart's models in the variants of a group, such as the frequency modules one by one: trainings and a table.

A variant is a change of the configuration, in the words KEY VALUE ... of a command line.
"""
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from freqdino.errors import ConfigError
from freqdino.evaluation.results import COLUMNS, read_results
from freqdino.evaluation.tables import markdown_table

# Frequency module -> model -> the option that switches it on; "" stands for every model without a row of its own.
OPTIONS = {
    "freqfusion": {"": "MODEL.SEM_SEG_HEAD.FREQFUSION.ENABLED True", "maskrcnn": "MODEL.FPN.UPSAMPLER freqfusion"},
    "fdconv": {"": "MODEL.BACKBONE.FDCONV.ENABLED True"},
    "fdam": {"": "MODEL.SEM_SEG_HEAD.FDAM.ENABLED True", "maskrcnn": "MODEL.BACKBONE.FDAM.ENABLED True"},
}
# Dynamic convolutions beside FDConv, with their number of experts or kernels, or their budget over a plain layer's.
DYNAMIC_CONVS = (("condconv", 8), ("dyconv", 4), ("odconv", 1), ("odconv", 4), ("kernel_warehouse", 1),
                 ("kernel_warehouse", 4))
MAX_ITER = 400      # a third of the quickstart's: 18 runs take about 100 minutes of processor time, FDConv's 9 each
TRAIN = (sys.executable, "-m", "freqdino.commands.train")
# Heading, task and metric. What a run is evaluated by, and what it takes.
RESULT_COLUMNS = (*COLUMNS, ("boundary IoU", "sem_seg", "mBoundaryIoU"), ("boundary AP", "boundary", "AP"),
                  ("ms / iteration", "training", "ms"))


def quickstart_file(model: str) -> Path:
    """configs/quickstart/<model>.yaml. Raises FileNotFoundError."""
    from freqdino.config.loading import configs_folder  # here, as the others below: it takes seconds

    file = configs_folder() / "quickstart" / f"{model}.yaml"
    if not file.is_file():
        raise FileNotFoundError(f"there is no {file}")
    return file


def module_options(model: str, modules: Sequence[str]) -> list[str]:
    """The words KEY VALUE ... for ``modules``, names of OPTIONS, in the model configs/quickstart/<model>.yaml."""
    by_model = (OPTIONS[module] for module in modules)
    return [word for options in by_model for word in options.get(model, options[""]).split()]


def module_variants(model: str) -> dict[str, list[str]]:
    """Plain, with each frequency module, with all of them; FDConv also with the rate that makes up for its divisor."""
    return {"plain": [], **{module: module_options(model, [module]) for module in OPTIONS},
            "fdconv_equal": [*module_options(model, ["fdconv"]), "SOLVER.FDCONV_RATE", "equal"],
            "all": module_options(model, tuple(OPTIONS))}


def upsampler_variants(model: str) -> dict[str, list[str]]:
    """Every value of MODEL.FPN.UPSAMPLER. Raises ConfigError, with those that do, where ``model`` does not read it."""
    from freqdino.registration.upsamplers import FREQFUSION, UPSAMPLERS

    if not reads_upsampler(quickstart_file(model)):
        readers = [file.stem for file in sorted(quickstart_file(model).parent.glob("*.yaml")) if reads_upsampler(file)]
        raise ConfigError(f"the group upsamplers is one of MODEL.FPN.UPSAMPLER, which {model} does not read; models "
                          f"that do: {', '.join(readers)}")
    return {name: ["MODEL.FPN.UPSAMPLER", name] for name in (*UPSAMPLERS, FREQFUSION)}


def reads_upsampler(file: Path) -> bool:
    from freqdino.config import load_config

    try:
        load_config(str(file), ["MODEL.FPN.UPSAMPLER", "bilinear", "MODEL.DEVICE", "cpu"])
    except ConfigError:
        return False
    return True


def dynamic_conv_variants(model: str) -> dict[str, list[str]]:
    """Plain, with each of DYNAMIC_CONVS, and with FDConv."""
    section = "MODEL.BACKBONE.DYNAMIC_CONV"
    return {"plain": [], **{f"{name}_{number}": [f"{section}.NAME", name, f"{section}.NUM", str(number)]
                            for name, number in DYNAMIC_CONVS}, "fdconv": module_options(model, ["fdconv"])}


# Name -> model -> variant -> its words. Variants of one name are the same in all groups of a model.
GROUPS: dict[str, Callable[[str], dict[str, list[str]]]] = {
    "modules": module_variants, "upsamplers": upsampler_variants, "dynamic-convs": dynamic_conv_variants}


def chosen_variants(group: str, model: str, names: Sequence[str] | None) -> dict[str, list[str]]:
    """The variants of ``names``, None for all of the group. Raises ConfigError for one that the group does not have."""
    variants = GROUPS[group](model)
    for name in names or ():
        if name not in variants:
            raise ConfigError(f"--variants: {name} is none of the group {group}; known are {', '.join(variants)}")
    return {name: words for name, words in variants.items() if names is None or name in names}


class Run:
    """One training with its evaluation, in a folder of its own below the working directory.

    model: a file of configs/quickstart, without .yaml. variant: its name. options: KEY VALUE ..., the variant's first.
    """

    def __init__(self, model: str, variant: str, seed: int, options: Sequence[str]):
        self.name = f"{variant}_seed{seed}"
        self.folder = Path("output", "ablation", model, self.name)
        self.words = ["--config-file", f"quickstart/{model}.yaml", "SOLVER.MAX_ITER", str(MAX_ITER),
                      "TEST.BOUNDARY_AP", "True", *options, "SEED", str(seed), "OUTPUT_DIR", str(self.folder)]

    def train(self, threads: int) -> str:
        """Do the run unless it was done before; returns what happened.

        Raises ChildProcessError, with the log's path, where training fails.
        """
        finished, words = self.folder / "command.txt", " ".join(self.words)
        if finished.is_file() and finished.read_text() == words:
            return f"{self.name}: done before"
        self.folder.mkdir(parents=True, exist_ok=True)
        finished.unlink(missing_ok=True)
        (self.folder / "metrics.json").unlink(missing_ok=True)     # which a new run would append to
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
        """Task -> metric -> number of the one test set; "training" has the median milliseconds of an iteration."""
        return {**next(iter(read_results(self.folder).values())), "training": {"ms": self.milliseconds()}}

    def milliseconds(self) -> float | None:
        """An iteration's, as the rows of metrics.json have it: the median over 20 iterations, of which the median."""
        rows = map(json.loads, (self.folder / "metrics.json").read_text().splitlines())
        seconds = [row["time"] for row in rows if "time" in row]
        return 1e3 * statistics.median(seconds) if seconds else None


def costs(model: str, options: Sequence[str]) -> tuple[int, float]:
    """Parameters of the model with ``options``, and GFLOPs of the evaluation of one image of its size for tests."""
    from freqdino.analysis.costs.measuring import TOTAL, analyze, build, noise
    from freqdino.config import load_config

    cfg = load_config(str(quickstart_file(model)), [*options, "MODEL.DEVICE", "cpu"])
    side = cfg.INPUT.MIN_SIZE_TEST
    analysis, = analyze([build(cfg)], noise(1, side, side), timed=False)
    return analysis.figures["parameters"][TOTAL], analysis.figures["GFLOPs"][TOTAL]


def table(results: Mapping[str, Sequence[dict]], costs_of: Mapping[str, tuple[int, float]]) -> str:
    """A row a variant in Markdown: its results (one dictionary a seed) as mean ± sample standard deviation, its costs.

    A column of which no run has anything is left out.
    """
    known = [(task, metric) for runs in results.values() for result in runs for task in result
             for metric, value in result[task].items() if value is not None]
    columns = [column for column in RESULT_COLUMNS if column[1:] in known]
    return markdown_table(["variant", *(heading for heading, _, _ in columns), "parameters", "GFLOPs"], [
        [variant, *(mean_and_deviation([result.get(task, {}).get(metric) for result in runs])
                    for _, task, metric in columns), *costs_of[variant]] for variant, runs in results.items()])


def mean_and_deviation(values: Sequence[float | None]) -> str | None:
    """"mean ± standard deviation"; the mean alone of a single value, None where a seed has none."""
    if None in values:
        return None
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.1f}"

"""What a run of train_net.py left in its folder: how its configuration differs from its base, and its curves."""
import json
import math
import os
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from detectron2.config import CfgNode

from freqdino.config import default_config, lookup, merge_config_file, read_yaml
from freqdino.config.effects import flat_keys
from freqdino.config.loading import find_config_file
from freqdino.engine.run_folder import command_line, find_config
from freqdino.evaluation.results import COLUMNS

# Losses of the last layer; those of the other layers, of denoising and of the encoder have names made from theirs.
AUXILIARY_LOSS = re.compile(r"_(\d+|dn|interm)(_|$)")
FILE, OPTIONS, RUN = "configuration file", "command line", "the run"


@dataclass(frozen=True)
class Difference:
    """A key whose value is not the base's; ``set_by`` is FILE, OPTIONS or RUN."""

    key: str
    base: object
    value: object
    set_by: str


def configuration_differences(run: Path) -> tuple[str, list[Difference]]:
    """How the run's configuration differs from its base, and what the base is.

    The base are the _BASE_ files of the configuration file that the run was started with; Detectron2's defaults where
    it has none, or where log.txt does not name a file that is still there.
    """
    arguments = command_line(run)
    name = arguments.get("config_file", "")
    file = find_config_file(name)
    base, file_values = default_config(), None
    if not Path(file).is_file():
        description = (f"the defaults: the configuration file {name} is not there any more" if name else
                       "the defaults: log.txt does not name the configuration file")
    else:
        bases = read_yaml(file).get("_BASE_", [])
        bases = [bases] if isinstance(bases, str) else bases
        for path in bases:
            merge_config_file(base, os.path.join(os.path.dirname(file), os.path.expanduser(path)))
        of_file = default_config()
        merge_config_file(of_file, file)
        file_values = flatten(of_file)
        description = f"{', '.join(bases) or 'the defaults'}, on which {name} is built"
    of_run = default_config()
    merge_config_file(of_run, str(find_config(run)))
    options, base_values = set(arguments.get("opts", [])[::2]), flatten(base)
    differences = []
    for key, value in flatten(of_run).items():
        if value != base_values[key]:
            from_file = file_values is not None and value == file_values[key]
            differences.append(Difference(key, base_values[key], value,
                                          OPTIONS if key in options else FILE if from_file else RUN))
    return description, differences


def flatten(cfg: CfgNode) -> dict[str, object]:
    """Dotted key -> value; tuples become lists, which YAML does not tell apart."""
    return {key: as_lists(lookup(cfg, key)) for key in flat_keys(cfg)}


def as_lists(value: object) -> object:
    return [as_lists(item) for item in value] if isinstance(value, (tuple, list)) else value


def read_curves(run: Path) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Title of a chart -> name of a line -> (iteration, value) in the order of iterations, from metrics.json.

    Of an iteration that was done again after --resume the later values count. Empty where nothing was trained.

    Raises ValueError: metrics.json is damaged.
    """
    path = run / "metrics.json"
    if not path.is_file():
        return {}
    lines = defaultdict(lambda: defaultdict(dict))
    for number, text in enumerate(path.read_text().splitlines(), start=1):
        try:
            row = json.loads(text)
            iteration = row["iteration"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: expected a JSON object with \"iteration\" ({error})") from error
        for key, value in row.items():
            place = chart_of(key)
            if place and value is not None and math.isfinite(value):
                chart, name = place
                lines[chart][name][iteration] = value
    return {chart: {name: sorted(points.items()) for name, points in lines[chart].items()}
            for chart in ("Total loss", "Losses of the last layer", "Evaluation") if chart in lines}


def chart_of(key: str) -> tuple[str, str] | None:
    """(title of a chart, name of a line) for a key of metrics.json; None for what is not drawn."""
    if key == "total_loss":
        return "Total loss", key
    if key.startswith("loss_"):
        return None if AUXILIARY_LOSS.search(key) else ("Losses of the last layer", key)
    for heading, task, metric in COLUMNS:
        dataset, found, rest = key.rpartition(f"{task}/{metric}")
        if found and not rest:
            return "Evaluation", f"{heading} {dataset.rstrip('/')}".strip()
    return None

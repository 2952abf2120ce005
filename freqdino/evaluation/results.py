"""An evaluation's results as a file, OUTPUT_DIR/inference/results.json: written after it, read by reports on it.

The JSON is data set -> task -> metric -> number, null where a metric is undefined.
"""
import json
import math
from collections.abc import Mapping
from pathlib import Path

FOLDER, FILE_NAME = "inference", "results.json"
# Heading, task and metric of what a summary shows.
COLUMNS = (("mask AP", "segm", "AP"), ("box AP", "bbox", "AP"), ("PQ", "panoptic_seg", "PQ"),
           ("mIoU", "sem_seg", "mIoU"))


def write_results(results: Mapping, folder: str | Path) -> Path:
    """Write data set -> task -> metric -> number into ``folder``, which is made; returns the file."""
    def plain(value):
        if isinstance(value, Mapping):
            return {str(key): plain(item) for key, item in value.items()}
        return float(value) if math.isfinite(value) else None

    path = Path(folder) / FILE_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(plain(results), indent=2))
    return path


def read_results(run: str | Path) -> dict[str, dict[str, dict[str, float | None]]]:
    """Data set -> task -> metric -> number or None, of the folder of a run.

    Raises ValueError: the run was not evaluated, or its file is damaged.
    """
    path = Path(run) / FOLDER / FILE_NAME
    try:
        results = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist: {run} has no finished evaluation of train_net.py") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error})") from error
    if not results or not _is_table(results, levels=3):
        raise ValueError(f"{path} does not hold data set -> task -> metric -> number")
    return results


def _is_table(value: object, *, levels: int) -> bool:
    """Whether ``value`` is nested dictionaries of that many levels, with numbers or null in the last."""
    if levels == 0:
        return value is None or isinstance(value, (int, float))
    return isinstance(value, dict) and all(_is_table(item, levels=levels - 1) for item in value.values())

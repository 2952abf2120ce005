"""What the preparations share: jobs over several processes with progress, and files."""
import json
from collections.abc import Callable, Iterable
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from freqdino.data.panoptic_png import id_to_rgb


def files_in(folder: Path, pattern: str) -> list[Path]:
    """The matching files in sorted order; FileNotFoundError when there is none."""
    files = sorted(folder.glob(pattern))
    if not files:
        raise FileNotFoundError(f"there is no {pattern} in {folder}; datasets/README.md describes the expected folders")
    return files


def run_jobs(job: Callable, items: list, processes: int, what: str) -> list:
    """[job(item) for item in items] over several processes, with a bar of progress that says ``what`` is done."""
    def collect(results: Iterable) -> list:
        return list(tqdm(results, desc=what, total=len(items)))

    if processes == 1:
        return collect(map(job, items))
    with Pool(processes) as pool:
        return collect(pool.imap(job, items, chunksize=8))


def write_png(labels: np.ndarray, path: Path) -> None:
    """Write (H, W) uint8 as a grey PNG, (H, W) int32 segment ids as a colour one; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels if labels.dtype == np.uint8 else id_to_rgb(labels)).save(path)


def write_json(document: dict, path: Path) -> Path:
    """Write a document; returns the path."""
    path.write_text(json.dumps(document), encoding="utf-8")
    return path

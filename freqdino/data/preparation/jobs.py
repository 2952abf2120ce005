"""What the preparations share: jobs over several processes with progress, ADE20K's parts, files."""
import json
from collections.abc import Callable, Iterable
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from freqdino.data.panoptic_png import id_to_rgb, read_segment_ids

ADE20K = "ADEChallengeData2016"
ADE20K_SPLITS = {"train": "training", "val": "validation"}


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


def ade20k_image_id(path: Path) -> int:
    """The number at the end of ADE_train_00000001: an integer id that panoptic and instance files share."""
    return int(path.stem.rsplit("_", 1)[-1])


def ade20k_objects(path: Path, category_ids: list[int]) -> tuple[tuple[int, int], list[tuple[int, np.ndarray]]]:
    """(height, width) and, for each object of an instance PNG, (category id, (H, W) bool mask).

    R holds the class, 1..100 in the order of ``category_ids``, G and B the number of the object, 0 being none.
    """
    ids = read_segment_ids(str(path))
    objects = []
    for value in np.unique(ids[ids >= 256]).tolist():
        kind = value % 256
        if not 1 <= kind <= len(category_ids):
            raise ValueError(f"{path}: an object has the class {kind} in its R channel; "
                             f"expected 1..{len(category_ids)}")
        objects.append((category_ids[kind - 1], ids == value))
    return ids.shape, objects


def write_png(labels: np.ndarray, path: Path) -> None:
    """Write (H, W) uint8 as a grey PNG, (H, W) int32 segment ids as a colour one; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels if labels.dtype == np.uint8 else id_to_rgb(labels)).save(path)


def write_json(document: dict, path: Path) -> Path:
    """Write a document; returns the path."""
    path.write_text(json.dumps(document), encoding="utf-8")
    return path

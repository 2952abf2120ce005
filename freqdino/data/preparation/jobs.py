"""What the prepare_*.py scripts share: command line, jobs over several processes with progress, ADE20K's parts."""
import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository, so that freqdino need not be installed

from freqdino.data.panoptic_png import read_segment_colors  # noqa: E402
from freqdino.data.registering import datasets_root  # noqa: E402
from freqdino.segment_colors import id_to_rgb, rgb_to_id  # noqa: E402

ADE20K = "ADEChallengeData2016"
ADE20K_SPLITS = {"train": "training", "val": "validation"}
_PROGRESS_STEPS = 20


def parse_arguments(description: str, splits: Iterable[str], arguments: list[str] | None) -> argparse.Namespace:
    """--root, --splits and --processes; ``arguments`` None: those of the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--root", type=Path, default=Path(datasets_root()),
                        help="folder of the datasets (default: DETECTRON2_DATASETS, or datasets)")
    parser.add_argument("--splits", nargs="+", choices=list(splits), default=list(splits), help="default: all")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="default: one a processor")
    parsed = parser.parse_args(arguments)
    if parsed.processes < 1:
        parser.error(f"--processes is {parsed.processes}; it must be at least 1")
    return parsed


def files_in(folder: Path, pattern: str) -> list[Path]:
    """The matching files in sorted order; FileNotFoundError when there is none."""
    files = sorted(folder.glob(pattern))
    if not files:
        raise FileNotFoundError(f"there is no {pattern} in {folder}; datasets/README.md describes the expected folders")
    return files


def run_jobs(job: Callable, items: list, processes: int, what: str) -> list:
    """[job(item) for item in items] over several processes, with a line of progress every twentieth."""
    results, step = [], max(len(items) // _PROGRESS_STEPS, 1)

    def collect(finished: Iterable) -> list:
        for result in finished:
            results.append(result)
            if len(results) % step == 0 or len(results) == len(items):
                print(f"{what}: {len(results)} of {len(items)}", flush=True)
        return results

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
    ids = rgb_to_id(read_segment_colors(str(path)))
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


def write_json(document: dict, path: Path) -> None:
    """Write a document and say where."""
    path.write_text(json.dumps(document), encoding="utf-8")
    print(f"wrote {path}", flush=True)

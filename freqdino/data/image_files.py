"""Images that are no data set: of folders, patterns and single files; and the records of what a command is to read."""
import glob
import os
from collections.abc import Sequence
from pathlib import Path

from detectron2.data import DatasetCatalog

from freqdino.data.catalog import dataset_records
from freqdino.data.custom import register_custom_datasets

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


def find_records(dataset: str | None, inputs: Sequence[str] | None, limit: int | None = None) -> list[dict]:
    """Dataset records, at most ``limit``: of ``dataset`` where one is given, else of the images that ``inputs`` name.

    Records of files hold ``file_name`` only. Raises ValueError where there is nothing to read.
    """
    if dataset:
        register_custom_datasets([dataset])
        if dataset not in DatasetCatalog:
            raise ValueError(f"--dataset {dataset} is not registered; registered are "
                             f"{', '.join(sorted(DatasetCatalog))}")
        records = dataset_records(dataset)
    else:
        records = [{"file_name": str(path)} for pattern in inputs for path in find_images(pattern)]
    return records[:limit]


def find_images(pattern: str) -> list[Path]:
    """The images of a folder, or the files of a glob pattern, sorted; anything else is taken for one file.

    Hidden files of a folder are no images.
    """
    pattern = os.path.expanduser(pattern)
    if Path(pattern).is_dir():
        found = sorted(path for path in Path(pattern).iterdir()
                       if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file())
        if not found:
            raise ValueError(f"{pattern}: the folder has no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
        return found
    if glob.has_magic(pattern) and not Path(pattern).exists():
        found = sorted(Path(name) for name in glob.glob(pattern, recursive=True) if Path(name).is_file())
        if not found:
            raise ValueError(f"{pattern}: no file matches")
        return found
    return [Path(pattern)]

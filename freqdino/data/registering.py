"""Adding a dataset to Detectron2's catalogs: one function a kind, for built-in, sample and own data alike.

Paths may be relative to the datasets root (the environment variable DETECTRON2_DATASETS, "datasets" without it). It is
read again whenever a dataset is loaded, and the paths in the metadata follow it.
"""
import os
from collections.abc import Callable, Iterable
from functools import partial

from detectron2.data import DatasetCatalog, MetadataCatalog

from freqdino.data.categories import ClassTable
from freqdino.data.records import load_instances, load_panoptic, load_semantic
from freqdino.errors import MissingDataError

PATH_KEYS = ("panoptic_json", "panoptic_root", "image_root", "image_dir", "gt_dir", "sem_seg_root", "json_file")


def datasets_root() -> str:
    """The folder that holds the datasets: DETECTRON2_DATASETS, or "datasets"."""
    return os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets"))


def check_dataset_files(name: str, keys: Iterable[str] = PATH_KEYS) -> None:
    """Raise MissingDataError when a file or folder that the dataset's metadata names under ``keys`` does not exist.

    The message has the expected path, where DETECTRON2_DATASETS points, and where the folder trees are described.
    """
    metadata = MetadataCatalog.get(name)
    for key in keys:
        path = metadata.get(key)
        if path is None or os.path.exists(path):
            continue
        root = os.environ.get("DETECTRON2_DATASETS")
        root = "is not set, so ./datasets is used" if root is None else f"is {root!r}"
        raise MissingDataError(f"dataset {name!r}: {key} {path} does not exist (that is {os.path.abspath(path)}). "
                                f"DETECTRON2_DATASETS {root}; datasets/README.md describes the expected folders and "
                                "how to prepare them.")


def _register(name: str, load: Callable[..., list[dict]], files: dict[str, str], metadata: dict, *,
              evaluation_files: dict[str, str] | None = None, under_root: bool = False,
              prepare: Callable[[str], None] | None = None) -> None:
    """Enter a dataset unless its name is taken.

    ``load`` gets the paths ``files``, keyed as in the metadata; ``evaluation_files`` go into the metadata alone.
    """
    if name in DatasetCatalog:
        return
    entry = MetadataCatalog.get(name)

    def locate() -> dict[str, str]:
        root, named = datasets_root() if under_root else "", {**files, **(evaluation_files or {})}
        # Metadata refuses to change a value, but the root may have moved since the registration.
        vars(entry).update({key: os.path.join(root, path) for key, path in named.items()})
        return {key: getattr(entry, key) for key in files}

    def load_records() -> list[dict]:
        located = locate()
        if prepare is not None:
            prepare(datasets_root())
        check_dataset_files(name, located)
        return load(**located)

    locate()
    entry.set(**metadata)
    DatasetCatalog.register(name, load_records)


def register_instances(name: str, classes: ClassTable, *, json_file: str, image_root: str, under_root: bool = False,
                       prepare: Callable[[str], None] | None = None) -> None:
    """Register a COCO instance dataset, evaluated as "coco". ``prepare`` as in `register_panoptic`."""
    _register(name, partial(load_instances, classes=classes), {"json_file": json_file, "image_root": image_root},
              {"evaluator_type": "coco", **classes.instance_metadata()}, under_root=under_root, prepare=prepare)


def register_panoptic(name: str, classes: ClassTable, *, panoptic_json: str, image_root: str, panoptic_root: str,
                      sem_seg_root: str | None = None, json_file: str | None = None,
                      evaluator_type: str = "coco_panoptic_seg", under_root: bool = False,
                      prepare: Callable[[str], None] | None = None) -> None:
    """Register a COCO panoptic dataset.

    With ``json_file`` (the same objects as COCO instances) and ``sem_seg_root`` (the same classes as semantic PNGs,
    value = contiguous index) it can be evaluated as instance and semantic segmentation too. ``prepare``, given the
    datasets root, runs before every loading and has to return at once when there is nothing left to do.
    """
    files = {"panoptic_json": panoptic_json, "image_root": image_root, "panoptic_root": panoptic_root}
    if sem_seg_root is not None:
        files["sem_seg_root"] = sem_seg_root
    _register(name, partial(load_panoptic, classes=classes), files,
              {"evaluator_type": evaluator_type, **classes.panoptic_metadata()},
              evaluation_files={} if json_file is None else {"json_file": json_file},
              under_root=under_root, prepare=prepare)


def register_semantic(name: str, classes: ClassTable, *, image_root: str, sem_seg_root: str) -> None:
    """Register a folder of label PNGs (value = contiguous index, 255 ignored), evaluated as "sem_seg"."""
    _register(name, load_semantic, {"image_root": image_root, "sem_seg_root": sem_seg_root},
              {"evaluator_type": "sem_seg", **classes.semantic_metadata()})

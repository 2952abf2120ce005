"""Data loaders of a configuration: Detectron2's samplers, filters and batching around the one mapper."""
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader, build_detection_train_loader
from torch.utils.data import DataLoader

from freqdino.data.custom import register_custom_datasets
from freqdino.data.mapper import build_mapper
from freqdino.data.registering import check_dataset_files

logger = logging.getLogger(__name__)


@contextmanager
def _missing_files_explained(names: tuple[str, ...]) -> Iterator[None]:
    """Where the loading of a dataset fails and its files are not there, say which ones and where they belong."""
    for name in names:
        if name not in DatasetCatalog:
            raise ValueError(f"dataset {name!r} is not registered; registered are {', '.join(sorted(DatasetCatalog))}; "
                             "own data are named as datasets/README.md describes")
    try:
        yield
    except (OSError, AssertionError):  # Detectron2's own datasets assert that their files exist
        for name in names:
            check_dataset_files(name)
        raise


def dataset_records(name: str) -> list[dict]:
    """The records of a registered dataset, or of own data by its name.

    Raises:
        FileNotFoundError: its files are missing; names the path, DETECTRON2_DATASETS and datasets/README.md.
        ValueError: an unknown dataset, or annotations that are not in order.
    """
    register_custom_datasets([name])
    with _missing_files_explained((name,)):
        return DatasetCatalog.get(name)


def build_train_loader(cfg: CfgNode) -> DataLoader:
    """The training loader: batches are lists of what the mapper returns, SOLVER.IMS_PER_BATCH over all processes.

    Samplers, repeat factors, FILTER_EMPTY_ANNOTATIONS and aspect ratio grouping are Detectron2's.

    Raises:
        FileNotFoundError: files of a dataset are missing; names the path, DETECTRON2_DATASETS and datasets/README.md.
        ValueError: an unknown dataset or mapper, or annotations that are not in order.
    """
    register_custom_datasets(cfg.DATASETS.TRAIN)
    mapper = build_mapper(cfg, is_train=True)
    with _missing_files_explained(cfg.DATASETS.TRAIN):
        return build_detection_train_loader(cfg, mapper=mapper)


def _warn_of_other_classes(trained: tuple[str, ...], tested: str) -> None:
    """Class indices are compared, not names: say so where equally many classes have other names or another order."""
    for key in ("thing_classes", "stuff_classes"):
        expected = MetadataCatalog.get(trained[0]).get(key) if trained else None
        found = MetadataCatalog.get(tested).get(key)
        if expected is None or found is None or len(expected) != len(found):
            continue
        other = [f"{index}: {old!r}, {new!r}" for index, (old, new) in enumerate(zip(expected, found)) if old != new]
        if other:
            logger.warning("%s of the test dataset %s differ from those of the training dataset %s at class index %s",
                           key, tested, trained[0], "; ".join(other[:5]))


def build_test_loader(cfg: CfgNode, dataset_name: str) -> DataLoader:
    """The test loader of one dataset: every image once, over all processes, one a batch, without targets.

    Warns where its classes have other names than those of the first training dataset.
    Raises: as `build_train_loader`.
    """
    register_custom_datasets([dataset_name])
    _warn_of_other_classes(cfg.DATASETS.TRAIN, dataset_name)
    with _missing_files_explained((dataset_name,)):
        return build_detection_test_loader(cfg, dataset_name, mapper=build_mapper(cfg, is_train=False))

"""Data loaders of a configuration: Detectron2's samplers, filters and batching around the one mapper."""
from collections.abc import Iterator
from contextlib import contextmanager

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, build_detection_test_loader, build_detection_train_loader
from torch.utils.data import DataLoader

from .custom import register_custom_datasets
from .mapper import build_mapper
from .registering import check_dataset_files


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


def build_test_loader(cfg: CfgNode, dataset_name: str) -> DataLoader:
    """The test loader of one dataset: every image once, over all processes, one a batch, without targets.

    Raises: as `build_train_loader`.
    """
    register_custom_datasets([dataset_name])
    with _missing_files_explained((dataset_name,)):
        return build_detection_test_loader(cfg, dataset_name, mapper=build_mapper(cfg, is_train=False))

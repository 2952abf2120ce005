"""Data loaders of a configuration: Detectron2's samplers, filters and batching around the one mapper."""
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader, build_detection_train_loader
from torch.utils.data import DataLoader

from freqdino.data.catalog import dataset_records, id_of, left_out, missing_files_explained
from freqdino.data.checks.classes import warn_of_other_classes
from freqdino.data.custom import register_custom_datasets
from freqdino.data.mapper import build_mapper
from freqdino.data.training_records import training_records


def build_train_loader(cfg: CfgNode) -> DataLoader:
    """The training loader: batches are lists of what the mapper returns, SOLVER.IMS_PER_BATCH over all processes.

    Samplers, repeat factors, FILTER_EMPTY_ANNOTATIONS and aspect ratio grouping are Detectron2's.

    Raises:
        MissingDataError: files of a dataset are missing; names the path, DETECTRON2_DATASETS and datasets/README.md.
        DataError, ValueError: as `training_records`, which reads and checks the data, has them.
    """
    records = training_records(cfg)
    return build_detection_train_loader(cfg, mapper=build_mapper(cfg, is_train=True), dataset=records)


def build_test_loader(cfg: CfgNode, dataset_name: str) -> DataLoader:
    """The test loader of one dataset: every image once, over all processes, one a batch, without targets.

    Images that `check_datasets` left out are left out.
    Warns where its classes have other names than those of the first training dataset.
    Raises: as `build_train_loader`.
    """
    register_custom_datasets([dataset_name])
    warn_of_other_classes(cfg.DATASETS.TRAIN, dataset_name)
    mapper, without = build_mapper(cfg, is_train=False), left_out(dataset_name)
    with missing_files_explained((dataset_name,)):
        if without:
            records = [record for record in dataset_records(dataset_name) if id_of(record) not in without]
            return build_detection_test_loader(records, mapper=mapper, num_workers=cfg.DATALOADER.NUM_WORKERS)
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

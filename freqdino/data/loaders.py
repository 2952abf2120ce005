"""Data loaders of a configuration: Detectron2's samplers, filters and batching around the one mapper."""
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.utils import comm
from torch.utils.data import DataLoader

from freqdino.data.catalog import dataset_records, id_of, left_out, missing_files_explained
from freqdino.data.checks.classes import warn_of_other_classes
from freqdino.data.custom import register_custom_datasets
from freqdino.data.mapper import build_mapper
from freqdino.data.random_state import random_state_kept, seed_generators
from freqdino.data.train_loader import SampleStream, TrainLoader
from freqdino.data.training_records import training_records
from freqdino.errors import ConfigError

# Samplers of Detectron2 that count the classes of instances, and those that its older versions have no key for.
COUNTS_CLASSES = ("RepeatFactorTrainingSampler", "WeightedCategoryTrainingSampler")
NEEDS_KEY = {"RandomSubsetTrainingSampler": ("DATALOADER", "RANDOM_SUBSET_RATIO"),
             "WeightedTrainingSampler": ("DATASETS", "TRAIN_REPEAT_FACTOR"),
             "WeightedCategoryTrainingSampler": ("DATASETS", "TRAIN_REPEAT_FACTOR")}


def build_train_loader(cfg: CfgNode) -> TrainLoader:
    """The training loader: batches are lists of what the mapper returns, SOLVER.IMS_PER_BATCH over all processes.

    Samplers, repeat factors, FILTER_EMPTY_ANNOTATIONS and aspect ratio grouping are Detectron2's. Their order and the
    augmentation follow from SEED, or where that is negative from a seed that is drawn.

    Raises MissingDataError: files of a dataset are missing; names the path, DETECTRON2_DATASETS and datasets/README.md;
    DataError, ValueError: as `training_records`, which reads and checks the data, has them.
    """
    ungrouped = cfg.clone()
    ungrouped.defrost()
    ungrouped.DATALOADER.ASPECT_RATIO_GROUPING = False      # Detectron2 would wrap what is taken out below

    def make_stream(seed: int) -> SampleStream:
        records = training_records(cfg)
        _check_sampler(cfg, records)
        with random_state_kept():
            seed_generators(seed)                           # Detectron2's samplers draw their seeds from NumPy's
            loaded = build_detection_train_loader(ungrouped, mapper=build_mapper(cfg, is_train=True), dataset=records)
        return SampleStream(loaded.dataset.dataset, loaded.dataset.sampler, seed)

    return TrainLoader(make_stream, seed=cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed(),
                       batch_size=cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size(),
                       workers=cfg.DATALOADER.NUM_WORKERS,
                       group_of=_orientation if cfg.DATALOADER.ASPECT_RATIO_GROUPING else lambda sample: 0)


def _check_sampler(cfg: CfgNode, records: list[dict]) -> None:
    """Raise ConfigError for a sampler that cannot work with these records, of which Detectron2 would say less."""
    name = cfg.DATALOADER.SAMPLER_TRAIN
    if name in COUNTS_CLASSES and "annotations" not in records[0]:
        raise ConfigError(f"DATALOADER.SAMPLER_TRAIN {name} counts the classes of instances, but the records of "
                          f"{', '.join(cfg.DATASETS.TRAIN)} have no annotations; set TrainingSampler")
    section, key = NEEDS_KEY.get(name, ("DATALOADER", "SAMPLER_TRAIN"))
    if key not in cfg[section]:
        raise ConfigError(f"DATALOADER.SAMPLER_TRAIN {name} needs the key {section}.{key}, which this version of "
                          "Detectron2 does not have; set TrainingSampler")
    if key == "TRAIN_REPEAT_FACTOR" and cfg.DATALOADER.SKIP_UNREADABLE:
        raise ConfigError(f"DATALOADER.SAMPLER_TRAIN {name} counts the pictures that DATALOADER.SKIP_UNREADABLE leaves "
                          "out too; set one of the two otherwise")


def _orientation(sample: dict) -> int:
    return 0 if sample["width"] > sample["height"] else 1


def build_test_loader(cfg: CfgNode, dataset_name: str) -> DataLoader:
    """The test loader of one dataset: every image once, over all processes, one a batch, without targets.

    Images that `check_datasets` left out are left out.
    Warns where its classes have other names than those of the first training dataset.
    Raises as `build_train_loader`.
    """
    register_custom_datasets([dataset_name])
    warn_of_other_classes(cfg.DATASETS.TRAIN, dataset_name)
    mapper, without = build_mapper(cfg, is_train=False), left_out(dataset_name)
    with missing_files_explained((dataset_name,)):
        if without:
            records = [record for record in dataset_records(dataset_name) if id_of(record) not in without]
            return build_detection_test_loader(records, mapper=mapper, num_workers=cfg.DATALOADER.NUM_WORKERS)
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

"""The records that a configuration trains on: loaded, held against the mapper, their files opened, empty ones left out.
"""

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.build import filter_images_with_only_crowd_annotations, print_instances_class_histogram

from freqdino.data.catalog import dataset_records
from freqdino.data.checks.before_training import check_kind, checked_records, label_readers
from freqdino.data.checks.classes import check_same_classes
from freqdino.data.mapper import build_reader, chosen_mapper
from freqdino.errors import DataError


def training_records(cfg: CfgNode) -> list[dict]:
    """The records of DATASETS.TRAIN that are trained on; the filter is Detectron2's.

    Their files are opened first; with DATALOADER.SKIP_UNREADABLE what cannot be decoded is left out. To be called on
    every rank.

    Raises MissingDataError: files of a dataset are missing; DataError: an unknown dataset, two whose classes differ,
    records that the mapper does not read, nothing to learn from, a file that cannot be read or does not fit;
    ValueError: an unknown mapper.
    """
    reader_class, _ = chosen_mapper(cfg)
    names = cfg.DATASETS.TRAIN
    loaded = {name: dataset_records(name) for name in names}
    check_same_classes(names, "training")
    for name, records in loaded.items():
        if records:
            check_kind(name, records[0], cfg, reader_class)
    records = [record for name in names for record in loaded[name]]
    readers = label_readers(build_reader(reader_class, names[0]))
    skip = cfg.DATALOADER.SKIP_UNREADABLE
    return _filtered(cfg, checked_records(names, records, readers, "learn from", skip=skip))


def _filtered(cfg, records):
    """Detectron2's filter, for records of instances."""
    if "annotations" not in records[0]:
        return records
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        records = filter_images_with_only_crowd_annotations(records)
        if not records:
            raise DataError(f"no picture of {', '.join(cfg.DATASETS.TRAIN)} that can be read has an object")
    classes = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("thing_classes")
    if classes:
        print_instances_class_histogram(records, classes)
    return records

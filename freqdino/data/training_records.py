"""The records that a configuration trains on: loaded, held against the mapper, their files opened, empty ones left out.
"""
import logging

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.build import filter_images_with_only_crowd_annotations, print_instances_class_histogram

from freqdino.data.catalog import dataset_records
from freqdino.data.checks.before_training import (
    check_kind,
    check_label_maps,
    check_records,
    check_same_classes,
    label_readers,
    open_files,
)
from freqdino.data.mapper import build_reader, chosen_mapper
from freqdino.data.values import some
from freqdino.errors import DataError

logger = logging.getLogger(__name__)


def training_records(cfg: CfgNode) -> list[dict]:
    """The records of DATASETS.TRAIN that are trained on; the filter is Detectron2's.

    Files are opened in the main process: for `before_training.SECONDS`, and with DATALOADER.SKIP_UNREADABLE all of
    them, where what cannot be decoded is left out. To be called on every rank.

    Raises:
        MissingDataError: files of a dataset are missing.
        DataError: an unknown dataset, two whose classes differ, records that the mapper does not read, nothing to learn
            from, a file that cannot be read or does not fit.
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
    check_records(names, records, readers, "learn from")
    return _filtered(cfg, _readable(cfg, records, readers))


def _readable(cfg, records, readers):
    """The records whose files can be read; what is found in the files is said."""
    names, skip = cfg.DATASETS.TRAIN, cfg.DATALOADER.SKIP_UNREADABLE
    tally = open_files(names, records, readers, **({"seconds": None} if skip else {}))
    left_out = tally.unreadable if skip else set()
    faults = [fault for number, fault in tally.faults if number not in left_out]
    if faults:
        hint = "; DATALOADER.SKIP_UNREADABLE True leaves out what cannot be read" if tally.unreadable - left_out else ""
        raise DataError(faults[0] + hint, *faults[1:])
    if left_out:
        logger.warning("%d of the %d pictures of %s, or their labels, cannot be read and are left out: %s",
                       len(left_out), len(records), ", ".join(names),
                       some(records[number]["file_name"] for number in sorted(left_out)))
        if len(left_out) == len(records):
            raise DataError(f"no picture of {', '.join(names)} can be read")
    check_label_maps(names, readers, tally, len(records))
    return [record for number, record in enumerate(records) if number not in left_out]


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

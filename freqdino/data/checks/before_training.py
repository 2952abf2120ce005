"""What is held against data sets before training or evaluation begins, so that no fault in them waits for its batch.

Of `DATASETS.TRAIN` and of `DATASETS.TEST`: the classes agree, the records are of the kind that is read, there is
something to learn from or to evaluate, every class occurs, every file can be opened and its labels fit.
"""
from collections.abc import Collection, Sequence

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from freqdino.data.catalog import dataset_records, keep_only
from freqdino.data.checks.classes import check_classes_of_test_set, check_same_classes, warn_of_absent_classes
from freqdino.data.checks.files import readable_records
from freqdino.data.coco_files import read_ground_truth
from freqdino.data.mapper import build_reader, mappers_of
from freqdino.data.target_readers import (
    BoxReader,
    InstanceReader,
    PanopticReader,
    SemanticReader,
    SeparatedReader,
)
from freqdino.data.targets import LabelReader, TargetReader
from freqdino.data.values import Faults
from freqdino.errors import DataError, first_few


def label_readers(reader: TargetReader) -> list[LabelReader]:
    """The readers of one kind of labels each that a target reader consists of."""
    return [reader.instances, reader.semantic] if isinstance(reader, SeparatedReader) else [reader]


def check_records(names: Sequence[str], records: Sequence[dict], readers: Sequence[LabelReader], purpose: str) -> None:
    """Hold records against what reads them, without opening a file; warn of classes without object.

    ``purpose``: "learn from" or "evaluate". Raises DataError with every fault: labels that a reader refuses, or no
    object at all.
    """
    if not records:
        raise DataError(f"the data set {', '.join(names)} has no picture: there is nothing to {purpose}")
    faults = Faults()
    for record in records:
        for reader in readers:
            with faults:
                reader.check(record)
    faults.raise_any()
    for reader in readers:
        key = next((key for key in ("annotations", "segments_info") if key in reader.keys), None)
        if key is None:     # label maps show what they hold when they are opened
            continue
        labels = [label for record in records for label in record[key]]
        usable = {label["category_id"] for label in labels if not label.get("iscrowd", 0)}
        if not usable:
            raise DataError(f"the data set {', '.join(names)} has nothing to {purpose}: " + (
                f"all {len(labels)} annotations are crowd regions (iscrowd 1), which are left out; set iscrowd 0 where "
                "an annotation is a single object" if labels else "there is no annotation in it"))
        warn_of_absent_classes(names, reader, usable)


def checked_records(names: Sequence[str], records: Sequence[dict], readers: Sequence[LabelReader], purpose: str, *,
                    skip: bool) -> list[dict]:
    """The records that can be read, all of them held against what reads them, and again without those left out.

    To be called on every rank. Raises DataError as `check_records` and `readable_records`.
    """
    check_records(names, records, readers, purpose)
    readable = readable_records(names, records, readers, skip=skip)
    if len(readable) < len(records):
        check_records(names, readable, readers, f"{purpose} without the pictures that cannot be read")
    return readable


def check_kind(name: str, record: dict, cfg: CfgNode, reader: type) -> None:
    """Raise DataError where the mapper does not read what the data set has."""
    missing = [key for key in reader.keys if key not in record]
    if missing:
        fitting = mappers_of(record)
        raise DataError(f"INPUT.DATASET_MAPPER_NAME {cfg.INPUT.DATASET_MAPPER_NAME} does not read the data set {name}: "
                        f"its records have no {', '.join(map(repr, missing))}; "
                        + (f"what they have is read by {', '.join(fitting)}" if fitting else "no mapper reads them"))


def evaluation_readers(name: str, records: Sequence[dict], tasks: Collection[str], *, masks: bool) -> list[LabelReader]:
    """Readers of what a data set is evaluated with for these tasks; ``masks``: whether the instances have some.

    Raises DataError where some annotations have masks and others do not.
    """
    metadata, first, readers = MetadataCatalog.get(name), records[0], []
    if "instance" in tasks and "annotations" in first and metadata.get("thing_classes"):
        readers.append(build_reader(_shape_reader(name, records) if masks else BoxReader, name))
    if "pan_seg_file_name" in first and metadata.get("stuff_classes"):
        readers.append(build_reader(PanopticReader, name))
    if "semantic" in tasks and "sem_seg_file_name" in first and metadata.get("stuff_classes"):
        readers.append(build_reader(SemanticReader, name))
    return readers


def _shape_reader(name: str, records: Sequence[dict]) -> type:
    """Masks where every annotation has one, boxes where none has."""
    without = [record for record in records
               if not all(annotation.get("segmentation") for annotation in record["annotations"])]
    if not without:
        return InstanceReader
    if any(annotation.get("segmentation") for record in records for annotation in record["annotations"]):
        where = MetadataCatalog.get(name).get("json_file", name)
        raise DataError(f"{where} has an annotation without segmentation on image {without[0].get('image_id')}: masks "
                        "are evaluated where every annotation has one, boxes alone where none has")
    return BoxReader


def check_datasets(cfg: CfgNode, *, tasks: Collection[str], masks: bool) -> None:
    """Hold the classes of all data sets against each other, and DATASETS.TEST against what its evaluation will ask.

    With DATALOADER.SKIP_UNREADABLE what cannot be decoded is left out of the evaluation. What DATASETS.TRAIN holds is
    checked where it is loaded. To be called on every rank, own data registered.

    Args:
        tasks, masks: what the model predicts, as `freqdino.registration.predictions` says.
    Raises MissingDataError: files of a data set are missing; DataError: with all faults that were found, where it is
    not one of a whole data set.
    """
    check_same_classes(cfg.DATASETS.TRAIN, "training")
    loaded = {name: dataset_records(name) for name in cfg.DATASETS.TEST}
    check_same_classes(cfg.DATASETS.TEST, "test")
    for name, records in loaded.items():
        if cfg.DATASETS.TRAIN:
            check_classes_of_test_set(cfg.DATASETS.TRAIN[0], name)
        readers = evaluation_readers(name, records, tasks, masks=masks) if records else []
        skip = cfg.DATALOADER.SKIP_UNREADABLE
        keep_only(name, records, checked_records([name], records, readers, "evaluate", skip=skip))
        check_instance_file(name, records, tasks)


def check_instance_file(name: str, records: Sequence[dict], tasks: Collection[str]) -> None:
    """Read the instance file that a panoptic data set names for the evaluation; without any, one has to be written.

    Raises DataError with the faults of the file, or where it cannot be written.
    """
    path = MetadataCatalog.get(name).get("json_file")
    if "instance" not in tasks:
        return
    if "annotations" not in records[0]:
        if path:
            read_ground_truth(path)
    elif not path:
        texts = [record["image_id"] for record in records if isinstance(record.get("image_id"), str)]
        if texts:
            raise DataError(f"the data set {name} has texts as image_id ({first_few(map(repr, texts))}) and no "
                            "json_file in its metadata: Detectron2 writes one for the evaluation, which takes whole "
                            "numbers")

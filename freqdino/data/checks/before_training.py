"""What is held against data sets before training or evaluation begins, so that no fault in them waits for its batch.

Of `DATASETS.TRAIN` and of `DATASETS.TEST`: the classes agree, the records are of the kind that is read, there is
something to learn from or to evaluate, every class occurs, every file can be opened and its labels fit.
"""
import logging
import time
from collections.abc import Collection, Sequence
from contextlib import closing

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils import comm

from freqdino.data.catalog import dataset_records
from freqdino.data.checks.scanning import Tally, scan
from freqdino.data.coco_files import read_ground_truth
from freqdino.data.mapper import build_reader, mappers_of
from freqdino.data.target_readers import (
    AnnotationReader,
    BoxReader,
    InstanceReader,
    PanopticReader,
    SemanticReader,
    SeparatedReader,
)
from freqdino.data.targets import NO_CLASS, LabelReader, TargetReader
from freqdino.data.values import Faults, some
from freqdino.errors import DataError

SECONDS = 30    # for which files are opened before training; those of a few thousand pictures
CLASS_KEYS = ("thing_classes", "stuff_classes")

logger = logging.getLogger(__name__)


def check_same_classes(names: Sequence[str], use: str) -> None:
    """Raise DataError where two data sets of one ``use`` (training, test) and kind have other classes."""
    for position, name in enumerate(names):
        metadata = MetadataCatalog.get(name)
        for other in names[:position]:
            first = MetadataCatalog.get(other)
            if first.get("evaluator_type") != metadata.get("evaluator_type") and use != "training":
                continue
            differences = (*(_difference(first.get(key), metadata.get(key)) for key in CLASS_KEYS),
                           difference_of_kind(other, name))
            for difference in filter(None, differences):
                raise DataError(f"the {use} data sets {other} and {name} have different classes: {difference}; classes "
                                "are told apart by their index, so both need the same ones in one order")


def _difference(first: Sequence[str] | None, second: Sequence[str] | None) -> str:
    """In what two lists of classes differ, empty where they do not."""
    if first is None or second is None or list(first) == list(second):
        return ""
    only = [[name for name in names if name not in others] for names, others in ((first, second), (second, first))]
    if any(only):
        return ", ".join(f"{some(map(repr, names))} only in the {which}"
                         for names, which in zip(only, ("first", "second")) if names)
    if len(first) != len(second):
        return f"the first has {len(first)} of them, the second {len(second)}"
    index = next(index for index, (old, new) in enumerate(zip(first, second)) if old != new)
    return f"the same names in another order, first at class index {index} ({first[index]!r} and {second[index]!r})"


def difference_of_kind(first: str, second: str) -> str:
    """Which classes have instances in one of two panoptic data sets and none in the other; empty where they agree."""
    tables = []
    for name in (first, second):
        things, stuff = (MetadataCatalog.get(name).get(f"{kind}_dataset_id_to_contiguous_id")
                         for kind in ("thing", "stuff"))
        if things is None or stuff is None:
            return ""
        tables.append(set(things.values()))
    names = MetadataCatalog.get(first).get("stuff_classes") or ()
    differ = [repr(names[index]) for index in sorted(tables[0] ^ tables[1]) if index < len(names)]
    return f"{some(differ)} has instances (isthing 1) in the one and not in the other" if differ else ""


def warn_of_other_classes(trained: Sequence[str], tested: str) -> None:
    """Class indices are compared, not names: say so where equally many classes have other names or another order."""
    for key in CLASS_KEYS:
        expected = MetadataCatalog.get(trained[0]).get(key) if trained else None
        found = MetadataCatalog.get(tested).get(key)
        if expected is None or found is None or len(expected) != len(found):
            continue
        other = [f"{index}: {old!r}, {new!r}" for index, (old, new) in enumerate(zip(expected, found)) if old != new]
        if other:
            logger.warning("%s of the test dataset %s differ from those of the training dataset %s at class index %s",
                           key, tested, trained[0], "; ".join(other[:5]))


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
        _warn_of_absent_classes(names, reader, usable)


def _warn_of_absent_classes(names: Sequence[str], reader: LabelReader, present: Collection[int]) -> None:
    """Say which classes no label holds: they cannot be learnt, and their scores are undefined."""
    classes = class_names(names[0], reader)
    absent = [repr(classes[index]) for index in range(len(classes)) if index not in present]
    if absent:
        logger.warning("no label of the data set %s has the class%s %s: what no label holds is neither learnt nor "
                       "scored", ", ".join(names), "es" if len(absent) > 1 else "", some(absent))


def class_names(name: str, reader: LabelReader) -> Sequence[str]:
    """The classes that a reader's indices stand for."""
    return MetadataCatalog.get(name).get("thing_classes" if isinstance(reader, AnnotationReader) else "stuff_classes")


def check_kind(name: str, record: dict, cfg: CfgNode, reader: type) -> None:
    """Raise DataError where the mapper does not read what the data set has."""
    missing = [key for key in reader.keys if key not in record]
    if missing:
        fitting = mappers_of(record)
        raise DataError(f"INPUT.DATASET_MAPPER_NAME {cfg.INPUT.DATASET_MAPPER_NAME} does not read the data set {name}: "
                        f"its records have no {', '.join(map(repr, missing))}; "
                        + (f"what they have is read by {', '.join(fitting)}" if fitting else "no mapper reads them"))


def open_files(names: Sequence[str], records: Sequence[dict], readers: Sequence[LabelReader], *,
               seconds: float | None = SECONDS) -> Tally:
    """Open the files of records in the main process and its helpers; every process gets the tally.

    Stops after ``seconds`` (None: never), and says so. Nothing is raised for what is found.
    """
    tally = Tally()
    if comm.is_main_process():
        end = float("inf") if seconds is None else time.monotonic() + seconds
        with closing(scan(records, readers, shuffled=seconds is not None)) as contents:
            for number, found in contents:
                tally.add(number, found)
                if time.monotonic() > end:
                    break
        rest = "" if tally.opened == len(records) else f" in {seconds:g} s; tools/check_data.py opens all"
        logger.info("Opened %d of %d pictures of %s and their labels%s", tally.opened, len(records), ", ".join(names),
                    rest)
    return comm.all_gather(tally)[0]


def check_label_maps(names: Sequence[str], readers: Sequence[LabelReader], tally: Tally, pictures: int) -> None:
    """Of label maps that were all opened, warn of classes that none holds; and of a class that stands alone.

    Raises:
        DataError: of two classes and more they hold the first and the ignored value alone, as masks of 0 and 255 do.
    """
    for number, reader in enumerate(readers):
        if not isinstance(reader, SemanticReader) or tally.opened < pictures:
            continue
        classes, present = class_names(names[0], reader), tally.classes_of(number)
        if len(classes) == 1:
            logger.warning("the data set %s has one class, %r (0 in its label maps; %d is ignored): a semantic map has "
                           "no other to choose, and every score is 100; give the background a class of its own",
                           ", ".join(names), classes[0], reader.ignore_label)
        if len(classes) > 1 and present <= {0, NO_CLASS} and NO_CLASS in present:
            raise DataError(f"the label maps of {', '.join(names)} hold no other values than 0 ({classes[0]!r}) and "
                            f"{reader.ignore_label}, which is ignored: no pixel is {some(map(repr, classes[1:]))}. "
                            "Masks of 0 and 255 have to be written as class indices, with 1 for 255")
        _warn_of_absent_classes(names, reader, present)


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

    What DATASETS.TRAIN holds is checked where it is loaded. To be called on every rank, own data registered.

    Args:
        tasks, masks: what the model predicts, as `freqdino.registration.predictions` says.
    Raises:
        MissingDataError: files of a data set are missing.
        DataError: with all faults that were found, where it is not one of a whole data set.
    """
    check_same_classes(cfg.DATASETS.TRAIN, "training")
    loaded = {name: dataset_records(name) for name in cfg.DATASETS.TEST}
    check_same_classes(cfg.DATASETS.TEST, "test")
    for name, records in loaded.items():
        if cfg.DATASETS.TRAIN:
            check_classes_of_test_set(cfg.DATASETS.TRAIN[0], name)
        check_evaluated(name, records, evaluation_readers(name, records, tasks, masks=masks) if records else [])
        check_instance_file(name, records, tasks)


def check_classes_of_test_set(trained: str, tested: str) -> None:
    """Raise DataError for classes of other number or kind; warn of other names, which may be meant."""
    warn_of_other_classes([trained], tested)
    first, second = MetadataCatalog.get(trained), MetadataCatalog.get(tested)
    if first.get("evaluator_type") != second.get("evaluator_type"):
        return
    differences = [_difference(first.get(key), second.get(key)) for key in CLASS_KEYS
                   if len(first.get(key) or ()) != len(second.get(key) or ())]
    for difference in filter(None, [*differences, difference_of_kind(trained, tested)]):
        raise DataError(f"the training data set {trained} and the test data set {tested} have different classes: "
                        f"{difference}")


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
            raise DataError(f"the data set {name} has texts as image_id ({some(map(repr, texts))}) and no json_file in "
                            "its metadata: Detectron2 writes one for the evaluation, which takes whole numbers")


def check_evaluated(name: str, records: Sequence[dict], readers: Sequence[LabelReader]) -> None:
    """Hold the records of one test set, and what is in their files, against what reads them."""
    check_records([name], records, readers, "evaluate")
    tally = open_files([name], records, readers)
    if tally.faults:
        raise DataError(*(fault for _, fault in tally.faults))
    check_label_maps([name], readers, tally, len(records))

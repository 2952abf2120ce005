"""The classes of data sets held against each other, and against the labels that there are.

Classes are told apart by their index: data sets that are used together need the same names in one order.
"""
import logging
from collections.abc import Collection, Sequence

from detectron2.data import MetadataCatalog

from freqdino.data.target_readers import AnnotationReader
from freqdino.data.targets import LabelReader
from freqdino.errors import DataError, first_few

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
        return ", ".join(f"{first_few(map(repr, names))} only in the {which}"
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
    return f"{first_few(differ)} has instances (isthing 1) in the one and not in the other" if differ else ""


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


def warn_of_absent_classes(names: Sequence[str], reader: LabelReader, present: Collection[int]) -> None:
    """Say which classes no label holds: they cannot be learnt, and their scores are undefined."""
    classes = class_names(names[0], reader)
    absent = [repr(classes[index]) for index in range(len(classes)) if index not in present]
    if absent:
        logger.warning("no label of the data set %s has the class%s %s: what no label holds is neither learnt nor "
                       "scored", ", ".join(names), "es" if len(absent) > 1 else "", first_few(absent))


def class_names(name: str, reader: LabelReader) -> Sequence[str]:
    """The classes that a reader's indices stand for."""
    return MetadataCatalog.get(name).get("thing_classes" if isinstance(reader, AnnotationReader) else "stuff_classes")

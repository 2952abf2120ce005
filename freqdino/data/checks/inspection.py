"""One data set looked through to its end: all faults that can be found without training, and what the labels hold."""
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from detectron2.config import CfgNode

from freqdino.data.catalog import dataset_records
from freqdino.data.checks.before_training import (
    check_instance_file,
    check_kind,
    check_records,
    evaluation_readers,
    label_readers,
)
from freqdino.data.checks.files import check_label_maps
from freqdino.data.checks.scanning import Tally, scan
from freqdino.data.mapper import build_reader, chosen_mapper
from freqdino.data.targets import LabelReader
from freqdino.errors import USER_ERRORS, DataError, message_of

Choice = Callable[[str, Sequence[dict]], list[LabelReader]]


@dataclass
class Inspection:
    """Faults of a data set, the readers of its labels, and what they found."""

    faults: list[str] = field(default_factory=list)
    readers: list[LabelReader] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)


def faults_of(step: Callable[[], object]) -> list[str]:
    """The messages of what a step raises that a user can mend."""
    try:
        step()
    except DataError as error:
        return list(error.faults)
    except USER_ERRORS as error:
        return [message_of(error)]
    return []


def inspect(name: str, choose_readers: Choice, *, processes: int | None = None,
            progress: Callable[[Iterable, int], Iterable] = lambda steps, count: steps) -> Inspection:
    """Read a data set and open all of its files, going on after faults.

    Args:
        choose_readers: the readers of a data set's labels, from its name and records.
        progress: wraps what comes in picture by picture; it is told how many there are.
    """
    found, records = Inspection(), []

    def load():
        try:
            records.extend(dataset_records(name))
        except DataError as error:
            records.extend(error.records)
            raise

    found.faults += faults_of(load)
    if records:
        found.faults += faults_of(lambda: found.readers.extend(choose_readers(name, records)))
    if not found.faults:
        found.faults += faults_of(lambda: check_records([name], records, found.readers, "learn from"))
    with closing(scan(records, found.readers, processes=processes)) as contents:
        for number, content in progress(contents, len(records)):
            found.tally.add(number, content)
    found.faults += [fault for _, fault in sorted(found.tally.faults)]
    if not found.faults:
        found.faults += faults_of(lambda: check_label_maps([name], found.readers, found.tally, len(records)))
    found.faults = list(dict.fromkeys(found.faults))
    return found


def readers_of_all(name: str, records: Sequence[dict]) -> list[LabelReader]:
    """Readers of everything that the records hold: masks where every annotation has one, else boxes."""
    masks = all(annotation.get("segmentation") for record in records for annotation in record.get("annotations", ()))
    return readers_for_evaluation(("semantic", "instance", "panoptic"), masks, name, records)


def readers_for_training(cfg: CfgNode, name: str, records: Sequence[dict]) -> list[LabelReader]:
    """Those of INPUT.DATASET_MAPPER_NAME."""
    reader_class, _ = chosen_mapper(cfg)
    check_kind(name, records[0], cfg, reader_class)
    return label_readers(build_reader(reader_class, name))


def readers_for_evaluation(tasks: Collection[str], masks: bool, name: str,
                           records: Sequence[dict]) -> list[LabelReader]:
    """Those of what is evaluated for these tasks."""
    check_instance_file(name, records, tasks)
    return evaluation_readers(name, records, tasks, masks=masks)

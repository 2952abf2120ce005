"""The files of records opened before training or evaluation: what cannot be read or does not fit, what label maps hold.
"""
import logging
import time
from collections.abc import Sequence
from contextlib import closing

from detectron2.utils import comm

from freqdino.data.checks.classes import class_names, warn_of_absent_classes
from freqdino.data.checks.scanning import Tally, scan
from freqdino.data.target_readers import SemanticReader
from freqdino.data.targets import NO_CLASS, LabelReader
from freqdino.errors import DataError, first_few

SECONDS = 30    # for which files are opened; those of a few thousand pictures

logger = logging.getLogger(__name__)


def readable_records(names: Sequence[str], records: Sequence[dict], readers: Sequence[LabelReader], *,
                     skip: bool) -> list[dict]:
    """The records, their files opened: for `SECONDS`, and with ``skip`` all of them, where what cannot be decoded is
    left out with a warning. To be called on every rank.

    Raises DataError: with every fault that was found, or where no record is left.
    """
    tally = open_files(names, records, readers, seconds=None if skip else SECONDS)
    left_out = tally.unreadable if skip else set()
    faults = [fault for number, fault in tally.faults if number not in left_out]
    if faults:
        hint = "; DATALOADER.SKIP_UNREADABLE True leaves out what cannot be read" if tally.unreadable - left_out else ""
        raise DataError(faults[0] + hint, *faults[1:])
    if left_out:
        logger.warning("%d of the %d pictures of %s, or their labels, cannot be read and are left out: %s",
                       len(left_out), len(records), ", ".join(names),
                       first_few(records[number]["file_name"] for number in sorted(left_out)))
        if len(left_out) == len(records):
            raise DataError(f"no picture of {', '.join(names)} can be read")
    check_label_maps(names, readers, tally, len(records))
    return [record for number, record in enumerate(records) if number not in left_out]


def open_files(names: Sequence[str], records: Sequence[dict], readers: Sequence[LabelReader], *,
               seconds: float | None) -> Tally:
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
    """Warn of classes that no label map holds, where all were opened, and of a class that stands alone.

    Raises DataError: of two classes and more they hold the first and the ignored value alone, as masks of 0 and 255 do;
    a warning where not all were opened.
    """
    for number, reader in enumerate(readers):
        if not isinstance(reader, SemanticReader):
            continue
        classes, present, shown = class_names(names[0], reader), tally.classes_of(number), ", ".join(names)
        if len(classes) == 1:
            logger.warning("the data set %s has one class, %r (0 in its label maps; %d is ignored): a semantic map has "
                           "no other to choose, and every score is 100; give the background a class of its own",
                           shown, classes[0], reader.ignore_label)
        masks = len(classes) > 1 and present <= {0, NO_CLASS} and NO_CLASS in present
        message = (f"the label maps of {shown} hold no other values than 0 ({classes[0]!r}) and {reader.ignore_label}, "
                   f"which is ignored: no pixel is {first_few(map(repr, classes[1:]))}. Masks of 0 and 255 have to be "
                   "written as class indices, with 1 for 255")
        if tally.opened == pictures and masks:
            raise DataError(message)
        if tally.opened == pictures:
            warn_of_absent_classes(names, reader, present)
        elif masks:
            logger.warning("%s (%d of %d maps were opened)", message, tally.opened, pictures)

"""Opening every file of a data set in several processes: faults, files that cannot be decoded, and what labels hold.

Each picture is decoded to its last byte and held against its annotations, each label file is read as training does.
"""
import os
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import Pool

import numpy as np

from freqdino.data.image_reading import check_image_size, read_image
from freqdino.data.targets import LabelReader
from freqdino.data.values import Faults
from freqdino.errors import UnreadableFileError

# Below this number of pictures a process costs more to start than it saves.
PICTURES_PER_PROCESS = 100
# The upper limit of an object's pixels -> what it is called (the COCO evaluation's names and limits).
SIZES = {32 ** 2: "small", 96 ** 2: "medium", float("inf"): "large"}


@dataclass(frozen=True)
class Contents:
    """What the files of one record hold: faults, whether one cannot be decoded, and the objects.

    An object is (number of the reader, class, pixels).
    """

    faults: tuple[str, ...]
    unreadable: bool
    objects: tuple[tuple[int, int, int], ...]


@dataclass
class Tally:
    """The contents of many records, added up.

    ``faults``: (number of the record, message); ``unreadable``: numbers of the records with a file that cannot be
    decoded; ``objects``: (reader, class, size) -> objects; ``pictures``: (reader, class) -> pictures that have it;
    ``opened``: records.
    """

    faults: list[tuple[int, str]] = field(default_factory=list)
    unreadable: set[int] = field(default_factory=set)
    objects: Counter = field(default_factory=Counter)
    pictures: Counter = field(default_factory=Counter)
    opened: int = 0

    def add(self, number: int, contents: Contents) -> None:
        self.opened += 1
        self.faults += [(number, fault) for fault in contents.faults]
        if contents.unreadable:
            self.unreadable.add(number)
        self.objects.update((reader, label, size_of(pixels)) for reader, label, pixels in contents.objects)
        self.pictures.update({(reader, label) for reader, label, _ in contents.objects})

    def classes_of(self, reader: int) -> set[int]:
        """The classes that occur, of the labels that a reader reads."""
        return {label for number, label in self.pictures if number == reader}


def size_of(pixels: int) -> str:
    """"small", "medium" or "large", as the COCO evaluation has it."""
    return next(name for limit, name in SIZES.items() if pixels < limit)


def read_contents(record: dict, readers: Sequence[LabelReader]) -> Contents:
    """Open the picture of a record, and its labels with every reader."""
    faults, objects = Faults(), []
    with faults:
        picture = read_image(record["file_name"], "RGB")
        size = picture.shape[:2]
        with faults:
            check_image_size(record, size)
        for number, reader in enumerate(readers):
            with faults:
                objects += [(number, *found) for found in reader.objects(reader.load(record, size), size)]
    unreadable = any(isinstance(error, UnreadableFileError) for error in faults.errors)
    return Contents(tuple(faults.messages), unreadable, tuple(objects))


def scan(records: Sequence[dict], readers: Sequence[LabelReader], *, processes: int | None = None,
         shuffled: bool = False) -> Iterator[tuple[int, Contents]]:
    """(number, contents) of every record, as they come in; ``shuffled`` by lot, always the same way.

    ``processes``: None for as many as there are CPUs, fewer for few pictures.
    """
    order = np.random.default_rng(0).permutation(len(records)).tolist() if shuffled else range(len(records))
    if processes is None:
        processes = max(1, min(os.cpu_count() or 1, len(records) // PICTURES_PER_PROCESS))
    read, tasks = partial(_read_numbered, readers=readers), ((number, records[number]) for number in order)
    with ExitStack() as stack:
        results = map(read, tasks)
        if processes > 1:
            pool = stack.enter_context(Pool(processes, initializer=_leave_signals_to_the_parent))
            results = pool.imap_unordered(read, tasks, chunksize=4)
        yield from results


def _read_numbered(task: tuple[int, dict], *, readers: Sequence[LabelReader]) -> tuple[int, Contents]:
    number, record = task
    return number, read_contents(record, readers)


def _leave_signals_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)   # how the pool ends its processes

"""Files that are there whole or not at all: written beside their place and then renamed."""
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO


@contextmanager
def written_whole(path: str) -> Iterator[BinaryIO]:
    """A file to write to, which becomes ``path`` where the block ends well; else ``path`` stays as it was.

    Raises OSError, with nothing left behind, where it cannot be written.
    """
    unfinished = f"{path}.unfinished"
    try:
        with open(unfinished, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        with suppress(OSError):
            os.unlink(unfinished)

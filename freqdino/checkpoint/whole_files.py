"""Files and folders that are there whole or not at all: written beside their place and then renamed."""
import os
import shutil
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


@contextmanager
def folder_written_whole(path: str) -> Iterator[str]:
    """A new folder for files, which becomes ``path`` where the block ends well; there must be nothing, or an empty
    folder.

    Raises OSError, with nothing left behind, where it cannot be made, and where another attempt's is in the way.
    """
    unfinished = f"{path}.unfinished"
    try:
        os.mkdir(unfinished)
    except FileExistsError as error:
        raise FileExistsError(f"{unfinished} is in the way: delete it, unless another process is at work in "
                              "it") from error
    try:
        yield unfinished
        for entry in os.scandir(unfinished):
            with open(entry.path, "rb") as file:
                os.fsync(file.fileno())
        os.rename(unfinished, path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)

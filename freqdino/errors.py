"""The errors that users can mend, what they are called together, and how a message is made of one.

Everything that a wrong configuration, checkpoint, data set, file or argument raises is one of `USER_ERRORS`; commands
end with its message and without a traceback, whatever else is a fault of ours and keeps its traceback.
"""
import re
from collections.abc import Iterator
from contextlib import contextmanager

DETECTRON2_REMEDY = ("FreqDINO's models need detectron2, which has no release on PyPI: run `bash tools/setup_env.sh`, "
                     "or `python tools/install_detectron2.py` with the interpreter that should get it.")
# Registries raise KeyError for an unknown name, Detectron2's trainer FloatingPointError for a loss that is not finite.
USER_ERRORS = (ValueError, OSError, KeyError, ImportError, FloatingPointError)


class ConfigError(ValueError):
    """A configuration file or option cannot be used; the message names the file and the key."""


class UnknownKeyError(ConfigError, KeyError):
    """A key that no part of the project reads; the message names the nearest keys."""

    __str__ = ValueError.__str__


class CheckpointError(ValueError):
    """A checkpoint cannot be read or does not fit; the message names the file and what to do."""


class ConversionError(ValueError):
    """A checkpoint cannot be converted; the message says why and what to do."""


class NotThere(ValueError):
    """The model or the images lack what an analysis is about; the message says what, and what would do."""


def message_of(error: Exception) -> str:
    """What to tell a user of an error: its message without the quotes and tracebacks that Python puts round some."""
    message = str(error.args[0]) if type(error) is KeyError and error.args else str(error)
    if "Original Traceback" in message:     # a worker of a data loader passes its traceback on as the message
        message = re.sub(r"(?s).*\n\S*(?:Error|Exception): ", "", message).rstrip()
    return message or type(error).__name__


@contextmanager
def detectron2_remedy() -> Iterator[None]:
    """Inside the block the absence of detectron2 is an ImportError with the remedy; what a broken one raises passes."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "detectron2":
            raise
        raise ImportError(DETECTRON2_REMEDY) from error

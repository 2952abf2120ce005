"""The errors that users can mend, their messages and who hears them; and Stopped, the end by a signal.

Everything that a wrong configuration, checkpoint, data set, file or argument raises is one of `USER_ERRORS`; commands
end with its message and without a traceback, whatever else is a fault of ours and keeps its traceback.
"""
import logging
import re
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

DETECTRON2_REMEDY = ("FreqDINO's models need detectron2, which has no release on PyPI: run `bash tools/setup_env.sh`, "
                     "or `python tools/install_detectron2.py` with the interpreter that should get it.")
# Registries raise KeyError for an unknown name, Detectron2's trainer FloatingPointError for a loss that is not finite.
USER_ERRORS = (ValueError, OSError, KeyError, ImportError, FloatingPointError)


class ArgumentError(ValueError):
    """An argument cannot be used. The message begins with its name, so that who took the value from elsewhere can put
    in its place where that is.

    ``problem``: the rest of the sentence. ``parts``: the modules, outer to inner, to one of which the argument went.
    """

    def __init__(self, argument: str, problem: str, parts: tuple[str, ...] = ()):
        super().__init__(argument, problem, parts)
        self.argument = argument
        self.problem = problem
        self.parts = parts

    def __str__(self):
        return ": ".join((*self.parts, f"{self.argument} {self.problem}"))


@contextmanager
def errors_in(part: str) -> Iterator[None]:
    """A ValueError of the block says which part, a module's name, it is about."""
    try:
        yield
    except ArgumentError as error:
        raise ArgumentError(error.argument, error.problem, (part, *error.parts)) from error
    except ValueError as error:
        raise ValueError(f"{part}: {error}") from error


class ConfigError(ValueError):
    """A configuration file or option cannot be used; the message names the file and the key."""


class UnknownKeyError(ConfigError, KeyError):
    """A key that no part of the project reads; the message names the nearest keys."""

    __str__ = ValueError.__str__


class DataError(ValueError):
    """A data set cannot be used; each fault names the file, the entry and what was expected there.

    ``faults``: the messages of all that was found; as text the first one, and how many more there are. ``records``:
    those of the data set that could be read in spite of them.
    """

    records: Sequence[dict] = ()

    def __init__(self, *faults: str):
        super().__init__(*faults)
        self.faults = faults

    def __str__(self):
        more = len(self.faults) - 1
        count = f"{more} more fault{'s' if more > 1 else ''}"
        return self.faults[0] + (f" (and {count}: tools/check_data.py lists them all)" if more else "")


class MissingDataError(DataError, FileNotFoundError):
    """A file or folder of a data set is not there; the message names it."""

    __str__ = DataError.__str__


class UnreadableFileError(DataError):
    """A picture or label file cannot be decoded; the message names it."""


class CheckpointError(ValueError):
    """A checkpoint cannot be read or does not fit; the message names the file and what to do."""


class ConversionError(ValueError):
    """A checkpoint cannot be converted; the message says why and what to do."""


class ExportError(ValueError):
    """A model cannot be exported, or an exported file cannot be used; the message says why and what to do."""


class NotThere(ValueError):
    """The model or the images lack what an analysis is about; the message says what, and what would do."""


class Stopped(BaseException):
    """A signal ends the work, Ctrl-C or a scheduler's SIGTERM: no error, so that only who ends a process catches it.

    ``number``: the signal's. The message says what is kept.
    """

    def __init__(self, number: int, kept: str = ""):
        super().__init__(f"stopped by {signal.Signals(number).name}{kept and '; '}{kept}")
        self.number = number


def message_of(error: Exception) -> str:
    """What to tell a user of an error: its message without the quotes and tracebacks that Python puts round some."""
    message = str(error.args[0]) if type(error) is KeyError and error.args else str(error)
    if "Original Traceback" in message:     # a worker of a data loader passes its traceback on as the message
        message = re.sub(r"(?s).*\n\S*(?:Error|Exception): ", "", message).rstrip()
    if isinstance(error, ModuleNotFoundError) and error.name == "detectron2":
        message = DETECTRON2_REMEDY
    return message or type(error).__name__


def need_detectron2() -> None:
    """Raise ImportError with the remedy where detectron2 is absent or broken."""
    try:
        for name in ("detectron2", "detectron2.config", "detectron2.modeling"):
            import_module(name)
    except ModuleNotFoundError as error:
        if error.name == "detectron2":
            raise ImportError(DETECTRON2_REMEDY) from error
        raise ImportError(broken_detectron2(error)) from error
    except Exception as error:      # what a broken package raises while it is imported is not known
        raise ImportError(broken_detectron2(error)) from error


def ending(error: Exception) -> str:
    """How something ended, as a line of a table or a log says it: the error's type and its first line."""
    return f"ends in {type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def first_few(values: Iterable, most: int = 5, *, counted: bool = True) -> str:
    """The first ``most`` values as a message lists them; of more, dots, and if ``counted`` how many there are."""
    values = list(values)
    listed = ", ".join(map(str, values[:most]))
    if len(values) <= most:
        return listed
    return f"{listed}, ... ({len(values)} in all)" if counted else f"{listed}, ..."


@contextmanager
def needing_detectron2() -> Iterator[None]:
    """`need_detectron2`, for the block of imports that comes after."""
    need_detectron2()
    yield


def broken_detectron2(error: Exception) -> str:
    return (f"detectron2 is installed, but importing it ends in {type(error).__name__}: {error}. Uninstall it "
            f"(pip uninstall detectron2). {DETECTRON2_REMEDY}")


def keep_tracebacks_off_stdout(*loggers: str) -> None:
    """What these loggers print on stdout leaves out the tracebacks of exceptions; files get them."""
    for name in loggers:
        for handler in logging.getLogger(name).handlers:
            if getattr(handler, "stream", None) is sys.stdout:
                handler.addFilter(lambda record: not record.exc_info)

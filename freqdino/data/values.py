"""Values of annotation files, held against what they stand for, and the text of a file whatever editor wrote it.

JSON holds any type anywhere: a number as text, 48.0 for 48, null, a list, NaN. A `Kind` says what is expected of a
value and reads it: what means the same is taken (48.0, true for 1), everything else is a fault that shows the value as
it stands in the file, so that '1' and 1 can be told apart.
"""
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.utils.file_io import PathManager

from freqdino.errors import DataError

_SHOWN_AT_MOST = 80
_INTEGER_LIMIT = 1 << 63
_COLOR_LIMIT = 1 << 24


@dataclass(frozen=True)
class Kind:
    """What a value has to be. ``read`` returns it in its own type, or raises ValueError or TypeError."""

    expected: str
    read: Callable[[Any], Any]


def _whole(value: Any) -> int:
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or not -_INTEGER_LIMIT <= value < _INTEGER_LIMIT:
        raise ValueError
    return value


def _whole_from(least: int, limit: int = _INTEGER_LIMIT) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        number = _whole(value)
        if not least <= number < limit:
            raise ValueError
        return number
    return read


def _flag(value: Any) -> int:
    number = int(value) if type(value) is bool else _whole(value)
    if number not in (0, 1):
        raise ValueError
    return number


def _area(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value < math.inf:
        raise ValueError
    return value


def _text(value: Any) -> str:
    if type(value) is not str or not value.strip():
        raise ValueError
    return value


def _list(value: Any) -> list:
    if type(value) is not list:
        raise ValueError
    return value


WHOLE = Kind("a whole number", _whole)
SIZE = Kind("a whole number of at least 1", _whole_from(1))
SEGMENT_ID = Kind(f"a whole number from 1 to {_COLOR_LIMIT - 1}, as a colour stores it", _whole_from(1, _COLOR_LIMIT))
FLAG = Kind("0 or 1", _flag)
AREA = Kind("a finite number of at least 0", _area)
TEXT = Kind("a text that is not empty", _text)
LIST = Kind("a list", _list)
IDENTIFIER = Kind("a whole number or a text", lambda value: value if type(value) is str else _whole(value))


def shown(value: Any) -> str:
    """A value as it is written, a text in quotes; long ones are cut."""
    text = {None: "null", True: "true", False: "false"}[value] if value is None or type(value) is bool else repr(value)
    return text if len(text) <= _SHOWN_AT_MOST else f"{text[:_SHOWN_AT_MOST]}..."


def order_of_id(identifier: int | str) -> tuple[bool, int | str]:
    """A key to sort ids of mixed type by: numbers, then texts."""
    return isinstance(identifier, str), identifier


def read_fields(entry: Any, kinds: Mapping[str, Kind], required: Iterable[str]) -> None:
    """Give the fields of an entry their own types, in place; other fields of ``kinds`` that are null are taken out.

    Raises DataError: the entry is no object, or a field is absent or something else than expected; the message goes on
    where the entry's name ends.
    """
    missing = [key for key in required if not isinstance(entry, dict) or key not in entry]
    if missing:
        raise DataError(f"has no {', '.join(missing)}")
    for key, kind in kinds.items():
        if key not in entry:
            continue
        value = entry[key]
        if value is None and key not in required:
            del entry[key]
            continue
        try:
            entry[key] = kind.read(value)
        except (ValueError, TypeError):
            raise DataError(f"has the {key} {shown(value)}; expected {kind.expected}") from None


class Faults:
    """Collects the data errors of many entries: ``with faults:`` goes on after one."""

    def __init__(self):
        self.errors = []

    def __enter__(self) -> "Faults":
        return self

    def __exit__(self, kind, error, traceback) -> bool:
        if not isinstance(error, DataError):
            return False
        self.errors.append(error)
        return True

    def __len__(self) -> int:
        return len(self.errors)

    @property
    def messages(self) -> list[str]:
        """Those of all errors, in the order in which they came."""
        return [fault for error in self.errors for fault in error.faults]

    def raise_any(self, records: Sequence[dict] = ()) -> None:
        """Raise what was collected, as one error, with the ``records`` that could be read."""
        if self.errors:
            error = self.errors[0] if len(self.errors) == 1 else DataError(*self.messages)
            error.records = records
            raise error


def read_text(path: str, what: str) -> str:
    """The text of a file in UTF-8, UTF-16 or UTF-32, with a byte order mark or without; ``what`` it is begins errors.

    Raises MissingDataError, DataError: there is no such file, or it is in another encoding.
    """
    with PathManager.open(path, "rb") as file:
        raw = file.read()
    encoding = json.detect_encoding(raw)
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"{what} {path} is not text in {encoding.upper()} (byte {error.start + 1} cannot be read); "
                        "save it as UTF-8") from None

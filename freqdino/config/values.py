"""What a user writes for a key, turned into a value of the kind that the key's default has, or refused in words.

YAML files and command lines go through the same function. `written` is the text as it stands in the file or on the
command line: YAML and Python read ``no``, ``007`` or ``1e3`` each in their own way, a key of text wants the text.
"""
import ast
import math
import re
from collections.abc import Sequence
from typing import Any

# What shows the kind of a key whose default is None, which stays possible.
OPTIONAL: dict[str, Any] = {
    "SOLVER.WEIGHT_DECAY_BIAS": 0.0001,
    "MODEL.SWIN.QK_SCALE": 0.25,
    "MODEL.SEM_SEG_HEAD.FREQFUSION.COMPRESSED_CHANNELS": 64,
    "MODEL.MSCAN.EMBED_DIMS": [32, 64, 160, 256],
    "MODEL.MSCAN.DEPTHS": [3, 3, 5, 2],
    "MODEL.MSCAN.DROP_PATH_RATE": 0.1,
}
# What shows the kind of the elements where the default is empty, or narrower than what the key takes.
ELEMENTS = {
    "DATASETS.TRAIN": ("annotations.json@images",),
    "DATASETS.TEST": ("annotations.json@images",),
    "DATASETS.PROPOSAL_FILES_TRAIN": ("proposals.pkl",),
    "DATASETS.PROPOSAL_FILES_TEST": ("proposals.pkl",),
    "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32.0, 64.0, 128.0]],
    "MODEL.ANCHOR_GENERATOR.ANGLES": [[-90.0, 0.0, 90.0]],
    "TEST.EXPECTED_RESULTS": [["segm", "AP", 38.5, 0.2]],
    "INPUT.EXTRA_AUGMENTATIONS": [["RandomBrightness", 0.8, 1.2]],
    "TEST.KEYPOINT_OKS_SIGMAS": [0.026, 0.025],
}
# Rows of these hold values of several kinds.
MIXED_ROWS = ("TEST.EXPECTED_RESULTS", "INPUT.EXTRA_AUGMENTATIONS")
FLAGS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
# What YAML 1.1 reads as an octal number or one to the base of 60, and nobody means so: 0100, 12:30.
UNUSUAL_NUMBER = re.compile(r"[-+]?0[0-9_]+|[-+]?[0-9_]+(:[0-9]+)+(\.[0-9]*)?")
# Detectron2's and YAML's words for no value, where a word is all there is.
NOTHING = ("None", "null", "~")


class _NotOfThisKind(Exception):
    """The value cannot be read as what is wanted."""


def converted(key: str, value: Any, default: Any, written: str | None = None) -> Any:
    """``value`` in the type of ``default``, and as exact: nothing is rounded and no text is guessed to be another.

    A whole number serves for a number with a fraction and back where it has none; yes, no, on, off, 1 and 0 for True
    and False; one value for a list of one; text for names separated by commas, with or without brackets; None for an
    empty text or list. Elements of lists keep their type where they are numbers that fit.

    Args:
        default: what the key has now, which shows its type.
        written: the text that ``value`` was read from.
    Raises ValueError: with the value as written, what was expected and an example.
    """
    if written is not None and UNUSUAL_NUMBER.fullmatch(written):
        value = written
    example = OPTIONAL.get(key, default)
    elements = ELEMENTS.get(key, example)
    if example is None:
        return _literal(value) if isinstance(value, str) else value
    if key in OPTIONAL and (value is None or value in NOTHING):
        return None
    try:
        if isinstance(example, (list, tuple)):
            return type(example)(_items(value, [] if key in MIXED_ROWS else elements))
        return _scalar(value, example, written)
    except (_NotOfThisKind, OverflowError):
        raise ValueError(f"{key} is {value if written is None else written!r}; expected {_kind(elements)}, such as "
                         f"{elements!r}") from None


def _literal(text: str) -> Any:
    """The number, list or quoted text that Python reads in ``text``; where it reads none, the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def _scalar(value, example, written):
    if isinstance(example, str):
        return _text(value, written)
    if isinstance(example, bool):
        value = _literal(value) if isinstance(value, str) else value
        word = str(value).strip().lower()
        if not isinstance(value, (str, int)) or word not in FLAGS:
            raise _NotOfThisKind
        return FLAGS[word]
    number = _number(value, whole=isinstance(example, int))
    return number if isinstance(example, int) else float(number)


def _text(value, written):
    if value is None or value in NOTHING and written is None:
        return ""
    if isinstance(value, (list, tuple, dict, set, bytes)):
        raise _NotOfThisKind
    if isinstance(value, str):
        inner = _literal(value)
        return inner if isinstance(inner, str) else value
    return str(value) if written is None else written


def _number(value: Any, *, whole: bool) -> float:
    """A number, not converted where it is one; with ``whole`` an int."""
    if isinstance(value, str):
        value = _literal(value)
    if isinstance(value, str):
        try:
            value = float(value)            # nan, inf and 007, which Python does not write so
        except ValueError:
            raise _NotOfThisKind from None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _NotOfThisKind
    if not whole or isinstance(value, int):
        return value
    if not math.isfinite(value) or value != int(value):
        raise _NotOfThisKind
    return int(value)


def _items(value: Any, example: Sequence) -> list:
    """The elements of a list, each of the kind of the first of ``example``; any kind where that is empty."""
    first = example[0] if example else None
    if isinstance(value, str):
        value = _listed(value, names=isinstance(first, str))
    if value is None:
        return []
    values = value if isinstance(value, (list, tuple)) else [value]
    return [_element(element, first) for element in values]


def _listed(text: str, *, names: bool) -> Any:
    """What a list is written as: Python's list, or words between commas that need no quotes."""
    value = _literal(text)
    if not isinstance(value, str) or value != text:
        return [value] if isinstance(value, str) else value
    text = text.strip()
    if (text[:1], text[-1:]) in (("(", ")"), ("[", "]")):
        text = text[1:-1]
    elif not names:
        return [text] if text else []
    return [word.strip().strip("'\"") for word in text.split(",") if word.strip()]


def _plain(value: Any) -> Any:
    """The value in Python's own lists and dictionaries, which a configuration can be written with."""
    if isinstance(value, dict):
        return {name: _plain(element) for name, element in value.items()}
    return type(value)(map(_plain, value)) if isinstance(value, (list, tuple)) else value


def _element(value, example):
    if example is None:
        return _plain(value)
    if isinstance(example, (list, tuple)):
        if isinstance(value, (list, tuple)):
            return type(value)(_element(element, example[0]) for element in value)
        return _element(value, example[0])  # Detectron2 takes one row for all
    if isinstance(example, bool):
        return _scalar(value, example, None)
    if not isinstance(example, str):
        return _number(value, whole=isinstance(example, int))
    if not isinstance(value, str):
        raise _NotOfThisKind
    return value


def _kind(example: Any) -> str:
    if isinstance(example, (list, tuple)):
        inner = example
        while inner and isinstance(inner[0], (list, tuple)):
            inner = inner[0]
        plural = {bool: "of True and False", int: "of whole numbers", float: "of numbers", str: "of texts"}
        return f"a list {plural[type(inner[0])]}" if inner else "a list"
    return {bool: "True or False", int: "a whole number", float: "a number", str: "text"}[type(example)]

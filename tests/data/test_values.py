"""Values of annotation files: what is taken for a number, a flag, a text, and files as editors write them."""
import codecs
import math

import pytest

from freqdino.data.values import (
    AREA,
    FLAG,
    IDENTIFIER,
    SEGMENT_ID,
    SIZE,
    TEXT,
    WHOLE,
    Faults,
    order_of_id,
    read_fields,
    read_text,
)
from freqdino.errors import DataError, MissingDataError

EVERYTHING = [None, "", " ", "48", 0, 1, -1, 48.0, 1.5, True, False, [], [1], {}, math.nan, math.inf, 1 << 63]


@pytest.mark.parametrize("kind, taken", [
    (WHOLE, {"0": 0, "1": 1, "-1": -1, "48.0": 48}),
    (SIZE, {"1": 1, "48.0": 48}),
    (SEGMENT_ID, {"1": 1, "48.0": 48}),
    (FLAG, {"0": 0, "1": 1, "True": 1, "False": 0}),
    (AREA, {"0": 0, "1": 1, "48.0": 48.0, "1.5": 1.5, str(1 << 63): 1 << 63}),
    (TEXT, {"'48'": "48"}),
    (IDENTIFIER, {"''": "", "' '": " ", "'48'": "48", "0": 0, "1": 1, "-1": -1, "48.0": 48}),
])
def test_what_is_taken_for_a_value_of_a_kind(kind, taken):
    for value in EVERYTHING:
        entry = {"key": value}
        if repr(value) in taken:
            read_fields(entry, {"key": kind}, ["key"])
            assert entry["key"] == taken[repr(value)] and type(entry["key"]) is type(taken[repr(value)])
        else:
            with pytest.raises(DataError, match=f"^has the key .*; expected {kind.expected}"):
                read_fields(entry, {"key": kind}, ["key"])


def test_a_text_is_shown_in_quotes_and_null_as_in_the_file():
    for value, shown in (("48", "'48'"), (None, "null"), (True, "true")):
        with pytest.raises(DataError, match=f"^has the width {shown}; expected a whole number of at least 1$"):
            read_fields({"width": value}, {"width": SIZE}, ["width"])


def test_fields_that_are_absent_or_null():
    entry = {"iscrowd": None}
    read_fields(entry, {"iscrowd": FLAG}, [])
    assert entry == {}
    for something in ({}, [], None, 3, "id"):
        with pytest.raises(DataError, match="^has no id, width$"):
            read_fields(something, {"id": WHOLE}, ["id", "width"])


def test_ids_of_both_types_have_an_order():
    assert sorted(["b", 10, "001", 9, "10"], key=order_of_id) == [9, 10, "001", "10", "b"]


def test_faults_are_collected_and_raised_as_one():
    faults = Faults()
    faults.raise_any()
    for message in ("first", "second", "third"):
        with faults:
            raise DataError(message)
    with pytest.raises(KeyError), faults:
        raise KeyError("a fault of ours")
    with pytest.raises(DataError) as error:
        faults.raise_any([{"image_id": 1}])
    assert error.value.faults == ("first", "second", "third") and error.value.records == [{"image_id": 1}]
    assert str(error.value) == "first (and 2 more faults: tools/check_data.py lists them all)"
    alone = Faults()
    with alone:
        raise MissingDataError("gone")
    with pytest.raises(FileNotFoundError, match="^gone$"):
        alone.raise_any()


@pytest.mark.parametrize("mark, encoding", [
    (b"", "utf-8"), (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"),
    (b"", "utf-16-le"), (codecs.BOM_UTF32_LE, "utf-32-le")])
def test_text_of_any_unicode_encoding(tmp_path, mark, encoding):
    (tmp_path / "classes.txt").write_bytes(mark + "road\r\nStraße\r\n".encode(encoding))
    assert read_text(str(tmp_path / "classes.txt"), "class file").splitlines() == ["road", "Straße"]


def test_text_of_another_encoding_names_the_byte(tmp_path):
    (tmp_path / "a.txt").write_bytes("Straße".encode("cp1252"))     # S t r a, then 0xDF, the fifth
    with pytest.raises(DataError, match=r"class file .*a\.txt is not text in UTF-8 \(byte 5 .*save it as UTF-8"):
        read_text(str(tmp_path / "a.txt"), "class file")

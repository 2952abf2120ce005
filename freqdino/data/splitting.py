"""The two parts of a data set, to learn from and to evaluate: names that say which, as `<name>#train=0.8` and
`<name>#val=0.8`.

A picture's part follows from its file's name, so that it is the same on every machine and in every order.
"""
import hashlib
import logging
import os
import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

from detectron2.data import DatasetCatalog, MetadataCatalog

from freqdino.errors import DataError, first_few

_FORM = re.compile(r"(.+)#(train|val)=(0?\.\d+|\d(?:\.\d+)?e-\d+)", re.DOTALL)
logger = logging.getLogger(__name__)


class Part(NamedTuple):
    """``name``: the whole data set's. ``kind``: train or val. ``share``: of the pictures that are learnt from."""
    name: str
    kind: str
    share: float


def part_names(name: str, share: float) -> tuple[str, str]:
    """The names of what is learnt from and of what is evaluated."""
    return f"{name}#train={share}", f"{name}#val={share}"


def part_of(name: str) -> Part | None:
    """What a name says; None for the name of a whole data set."""
    match = _FORM.fullmatch(name)
    return Part(match[1], match[2], float(match[3])) if match else None


def split_records(name: str, records: Sequence[dict], share: float) -> dict[str, list[dict]]:
    """{"train": records, "val": records}, in the order of ``records``, round(share · N) of them and the others.

    Raises DataError where a part would be empty.
    """
    def place(index: int) -> str:
        return hashlib.sha256(os.path.basename(records[index]["file_name"]).encode()).hexdigest()

    count = round(share * len(records))
    if not 0 < count < len(records):
        raise DataError(f"DATASETS.SPLIT {share} leaves {count} of the {len(records)} pictures of {name} to learn from "
                        f"and {len(records) - count} to evaluate; both need one or more")
    learnt = frozenset(sorted(range(len(records)), key=place)[:count])
    return {"train": [record for index, record in enumerate(records) if index in learnt],
            "val": [record for index, record in enumerate(records) if index not in learnt]}


def register_part(name: str, part: Part) -> None:
    """Enter a part of a data set that is registered; it has the whole one's metadata and files."""
    def load() -> list[dict]:
        records = DatasetCatalog.get(part.name)
        parts = split_records(part.name, records, part.share)
        other = parts["val" if part.kind == "train" else "train"]
        # Metadata refuses to change a value, but the whole one's can have moved; `left_out` reads ``other_part``.
        vars(entry).update(_metadata(part.name), other_part=frozenset(
            record.get("image_id", record["file_name"]) for record in other))
        if part.kind == "train":
            _warn_of_lost_classes(part, parts)
        return parts[part.kind]

    entry = MetadataCatalog.get(name)
    entry.set(**_metadata(part.name))
    DatasetCatalog.register(name, load)


def _metadata(name):
    return {key: value for key, value in MetadataCatalog.get(name).as_dict().items()
            if key not in ("name", "left_out", "other_part")}


def _warn_of_lost_classes(part, parts):
    """Of records that list their labels; label maps show what they hold when they are opened."""
    present = {kind: _classes_of(records) for kind, records in parts.items()}
    metadata = MetadataCatalog.get(part.name)
    for kind, purpose in (("train", "to learn it from"), ("val", "to evaluate it by")):
        names = metadata.get("thing_classes" if "annotations" in parts[kind][0] else "stuff_classes") or ()
        lost = [repr(names[index]) for index in sorted(set().union(*present.values()) - present[kind])
                if index < len(names)]
        if lost:
            logger.warning("DATASETS.SPLIT %s of %s leaves no picture of the class%s %s %s: choose another share, or "
                           "make the two sets yourself and name them in DATASETS.TRAIN and DATASETS.TEST", part.share,
                           part.name, "es" if len(lost) > 1 else "", first_few(lost), purpose)


def _classes_of(records: Sequence[dict]) -> Collection[int]:
    return {label["category_id"] for record in records
            for label in record.get("annotations", record.get("segments_info", ()))}

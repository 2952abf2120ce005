"""Access to what a dataset's metadata must say before it can be evaluated."""
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from detectron2.data import MetadataCatalog


def require_metadata(dataset_name: str, key: str) -> Any:
    """``MetadataCatalog.get(dataset_name).<key>``; ValueError naming both where it is missing or None."""
    value = MetadataCatalog.get(dataset_name).get(key)
    if value is None:
        raise ValueError(f"dataset {dataset_name!r} cannot be evaluated: its metadata has no {key!r} "
                         f"(set MetadataCatalog.get({dataset_name!r}).{key})")
    return value


def distinct_names(names: Sequence[str], ids: Iterable[int]) -> list[str]:
    """Names of classes as keys of results: one that several classes have carries its id, so that each has a row."""
    counts = Counter(names)
    return [name if counts[name] == 1 else f"{name} ({number})" for name, number in zip(names, ids)]

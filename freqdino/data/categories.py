"""Class tables: the classes of a dataset in the order of their contiguous indices, and the metadata that they give.

The tables of the built-in datasets are the JSON files in categories/, each a list of {"id", "name", "isthing"} in the
COCO panoptic format; a dataset's contiguous indices are the positions in the order of the ids.
"""
import colorsys
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

from freqdino.data.values import FLAG, TEXT, WHOLE, Faults, read_fields, read_text, shown
from freqdino.errors import DataError, MissingDataError

_TABLES = Path(__file__).parent / "categories"
_GOLDEN_RATIO = 0.6180339887498949
_MOST_CLASSES_IN_A_FILE = 255


@dataclass(frozen=True)
class ClassTable:
    """Names, dataset ids and kinds of the classes, by contiguous index."""

    names: tuple[str, ...]
    ids: tuple[int, ...]
    isthing: tuple[bool, ...]

    @classmethod
    def from_categories(cls, categories: list[dict], where: str, *, panoptic: bool) -> "ClassTable":
        """Of a COCO list of categories; ``where`` (the file) begins the error messages. Raises as `read_categories`."""
        categories = read_categories(categories, where, panoptic=panoptic)
        ordered = sorted(categories, key=lambda category: category["id"])
        ids = tuple(category["id"] for category in ordered)
        return cls(names=tuple(category["name"] for category in ordered), ids=ids,
                   isthing=tuple(bool(category.get("isthing", 1)) for category in ordered))

    @property
    def index_of_id(self) -> dict[int, int]:
        """Dataset id to contiguous index."""
        return {dataset_id: index for index, dataset_id in enumerate(self.ids)}

    @property
    def things(self) -> "ClassTable":
        """The table of the classes that have instances."""
        return ClassTable(*(tuple(compress(column, self.isthing)) for column in (self.names, self.ids, self.isthing)))

    def _ids_of_kind(self, isthing: bool) -> dict[int, int]:
        return {dataset_id: index for dataset_id, index in self.index_of_id.items() if self.isthing[index] == isthing}

    def instance_metadata(self) -> dict:
        """Detectron2's metadata of an instance dataset."""
        return {"thing_classes": list(self.names), "thing_colors": class_colors(len(self.names)),
                "thing_dataset_id_to_contiguous_id": self.index_of_id, "ignore_label": 255}

    def semantic_metadata(self) -> dict:
        """Detectron2's metadata of a semantic dataset."""
        return {"stuff_classes": list(self.names), "stuff_colors": class_colors(len(self.names)), "ignore_label": 255}

    def panoptic_metadata(self) -> dict:
        """Detectron2's metadata of a panoptic dataset: both lists hold all classes, the id maps tell them apart."""
        colors = class_colors(len(self.names))
        return {"thing_classes": list(self.names), "thing_colors": colors,
                "stuff_classes": list(self.names), "stuff_colors": colors,
                "thing_dataset_id_to_contiguous_id": self._ids_of_kind(True),
                "stuff_dataset_id_to_contiguous_id": self._ids_of_kind(False),
                "ignore_label": 255, "label_divisor": 1000}


def read_categories(categories: list[dict], where: str, *, panoptic: bool) -> list[dict]:
    """A COCO list of categories with typed fields; ``where`` (the file) begins the error messages.

    Raises DataError: no category, one without id, name or (for panoptic data) isthing, a value that is none, an id or a
    name that occurs twice.
    """
    if not isinstance(categories, list) or not categories:
        raise DataError(f"{where}: 'categories' is not a list of at least one category")
    keys, faults = ("id", "name", "isthing") if panoptic else ("id", "name"), Faults()
    for position, category in enumerate(categories):
        missing = [key for key in keys if not isinstance(category, dict) or key not in category]
        with faults:
            if missing:
                raise DataError(f"{where}: category number {position} has no {', '.join(missing)}: {shown(category)}")
            try:
                read_fields(category, {"id": WHOLE}, ("id",))
            except DataError:
                raise DataError(f"{where}: category {shown(category['name'])} has the id {shown(category['id'])}; "
                                "ids are integers") from None
            try:
                read_fields(category, {"name": TEXT, "isthing": FLAG}, keys)
            except DataError as error:
                raise DataError(f"{where}: the category with the id {category['id']} {error}") from None
    faults.raise_any()
    repeated = _repeated(category["id"] for category in categories)
    if repeated:
        raise DataError(f"{where}: the category ids {repeated} occur more than once")
    check_class_names([category["name"] for category in categories], where)
    return categories


def read_class_file(path: str) -> tuple[str, ...]:
    """The classes of a text file, one a line, the first of value 0; blank lines at the end do not count.

    Raises MissingDataError: there is no such file; DataError: too many classes, an empty line, a name that occurs
    twice.
    """
    if not os.path.isfile(path):
        raise MissingDataError(f"class file {path} does not exist (that is {os.path.abspath(path)})")
    names = tuple(line.strip() for line in read_text(path, "class file").rstrip().splitlines())
    if not 1 <= len(names) <= _MOST_CLASSES_IN_A_FILE:
        raise DataError(f"class file {path} has {len(names)} lines; expected 1 to {_MOST_CLASSES_IN_A_FILE} classes, "
                        "one a line (255 is the ignored value)")
    if "" in names:
        raise DataError(f"class file {path}: line {names.index('') + 1} is empty")
    check_class_names(names, f"class file {path}")
    return names


def check_class_names(names: Sequence[str], where: str) -> None:
    """Raise DataError where two classes have one name: results are reported by name."""
    repeated = _repeated(names)
    if repeated:
        raise DataError(f"{where}: more than one class has the name {', '.join(map(repr, repeated))}; results are "
                        "reported by name, so give each class one of its own")


def _repeated(values: Iterable) -> list:
    return sorted(value for value, count in Counter(values).items() if count > 1)


def load_class_table(name: str) -> ClassTable:
    """The table categories/<name>.json."""
    path = _TABLES / f"{name}.json"
    return ClassTable.from_categories(json.loads(path.read_text(encoding="utf-8")), str(path), panoptic=True)


def class_colors(count: int) -> list[list[int]]:
    """``count`` RGB colours 0..255, the same ones every time: hues a golden ratio apart, three levels of brightness."""
    colors = []
    for index in range(count):
        red, green, blue = colorsys.hsv_to_rgb(index * _GOLDEN_RATIO % 1, 0.75, (1.0, 0.8, 0.6)[index % 3])
        colors.append([round(255 * red), round(255 * green), round(255 * blue)])
    return colors

"""Class tables: the classes of a dataset in the order of their contiguous indices, and the metadata that they give.

The tables of the built-in datasets are the JSON files in categories/, each a list of {"id", "name", "isthing"} in the
COCO panoptic format; a dataset's contiguous indices are the positions in the order of the ids.
"""
import colorsys
import json
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

_TABLES = Path(__file__).parent / "categories"
_GOLDEN_RATIO = 0.6180339887498949


@dataclass(frozen=True)
class ClassTable:
    """Names, dataset ids and kinds of the classes, by contiguous index."""

    names: tuple[str, ...]
    ids: tuple[int, ...]
    isthing: tuple[bool, ...]

    @classmethod
    def from_categories(cls, categories: list[dict], where: str, *, panoptic: bool) -> "ClassTable":
        """Read a COCO list of categories; ``where`` (the file) begins the error messages.

        Raises:
            ValueError: no category, one without id, name or (for panoptic data) isthing, an id that is no integer or
                occurs twice.
        """
        keys = ("id", "name", "isthing") if panoptic else ("id", "name")
        if not isinstance(categories, list) or not categories:
            raise ValueError(f"{where}: 'categories' is not a list of at least one category")
        for position, category in enumerate(categories):
            missing = [key for key in keys if not isinstance(category, dict) or key not in category]
            if missing:
                raise ValueError(f"{where}: category number {position} has no {', '.join(missing)}: {category}")
            if not isinstance(category["id"], int):
                raise ValueError(f"{where}: category {category['name']!r} has the id {category['id']!r}; "
                                 "ids are integers")
        ordered = sorted(categories, key=lambda category: category["id"])
        ids = tuple(category["id"] for category in ordered)
        repeated = sorted({left for left, right in zip(ids, ids[1:]) if left == right})
        if repeated:
            raise ValueError(f"{where}: the category ids {repeated} occur more than once")
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

"""A whole model's checkpoint for data with other classes: the class layers start anew, rows of equal names are kept.

C: number of classes. A class layer has its rows in the order of the classes, and one for "no object" or the background
behind them in some models.
"""
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from freqdino.errors import first_few

THINGS, STUFF = "thing_classes", "stuff_classes"
# What a checkpoint says about its classes, by the names of a data set's metadata.
CLASS_TABLES = (THINGS, STUFF, "thing_dataset_id_to_contiguous_id", "stuff_dataset_id_to_contiguous_id")


@dataclass(frozen=True)
class Layer:
    """Entries of a model whose ``names`` match, with so many rows ``per_class``, one after the other.

    ``repeated``: the rows of all classes come again for each anchor. ``tables``: where the classes' names are looked
    for, the first of the length that fits. ``weights``: False for what is computed from the number of classes alone.
    """

    names: re.Pattern
    per_class: int = 1
    repeated: bool = False
    tables: tuple[str, ...] = (THINGS, STUFF)
    weights: bool = True


LAYERS = (
    Layer(re.compile(r"^sem_seg_head\.predictor\.(class_embed\.(weight|bias)|label_enc\.weight)$")),
    Layer(re.compile(r"^criterion\.empty_weight$"), weights=False),
    Layer(re.compile(r"^roi_heads\.box_predictor\.(\d+\.)?cls_score\.(weight|bias)$")),
    Layer(re.compile(r"^roi_heads\.box_predictor\.(\d+\.)?bbox_pred\.(weight|bias)$"), per_class=4),
    Layer(re.compile(r"^roi_heads\.mask_head\.predictor\.(weight|bias)$")),
    Layer(re.compile(r"^head\.cls_score\.(weight|bias)$"), repeated=True),
    Layer(re.compile(r"^sem_seg_head\.(predictor|(\w+\.)*conv_seg)\.(weight|bias)$"), tables=(STUFF, THINGS)),
)


@dataclass
class ClassChange:
    """``tensors``: name -> what to load in place of the checkpoint's entry. ``anew``: names of the entries of the model
    that the checkpoint does not fill, or not with all rows. ``kept``: the classes whose rows are carried over."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    anew: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    names_known: bool = False

    def line(self, path: str) -> str:
        """What happened, as one line of the log."""
        layers = ", ".join(dict.fromkeys(re.sub(r"\.(weight|bias)$", "", name) for name in self.anew))
        if not self.names_known:
            return (f"{path} is of a model with other classes, and does not say what they are called (or this "
                    f"configuration does not): {layers} start anew")
        kept = f"the rows of {len(self.kept)} classes of equal names are kept ({first_few(self.kept)})"
        return (f"{path} is of a model with other classes: {layers} start anew, "
                f"{kept if self.kept else 'no class has the same name'}")


def layer_of(name: str) -> Layer | None:
    """The class layer that an entry of a model belongs to, None for other entries."""
    return next((layer for layer in LAYERS if layer.names.match(name)), None)


def change_classes(tensors: Mapping[str, Tensor], model: Mapping[str, Tensor], old: Mapping[str, Any],
                   new: Mapping[str, Any]) -> ClassChange | None:
    """What the class layers of a ``model`` (its state dict) take from the ``tensors`` of a checkpoint.

    ``old`` and ``new``: class tables of the checkpoint and the model, "thing_classes" and "stuff_classes", as far as
    they are known. None where the classes are the same, and where a layer differs in more than its rows.
    """
    change = ClassChange()
    for name, tensor in tensors.items():
        layer = layer_of(name)
        if layer is None or name not in model:
            continue
        target = model[name]
        if tensor.dim() != target.dim() or tensor.shape[1:] != target.shape[1:]:
            return None
        names = [_class_names(layer, len(rows), tables) for rows, tables in ((tensor, old), (target, new))]
        if len(tensor) == len(target) and (None in names or names[0] == names[1]):
            continue
        if layer.weights or len(tensor) != len(target):
            change.anew.append(name)
        if layer.weights and None not in names:
            change.names_known = True
            change.tensors[name], kept = _carried_over(layer, tensor, target, *names)
            change.kept = list(dict.fromkeys([*change.kept, *kept]))
    return change if change.anew else None


def _class_names(layer: Layer, rows: int, tables: Mapping[str, Any]) -> Sequence[str] | None:
    """The names of the classes of a layer with so many ``rows``; None where no table has as many."""
    for table in layer.tables:
        names = tables.get(table)
        if names and (rows % len(names) == 0 if layer.repeated else rows in _possible_rows(layer, len(names))):
            return list(names)
    return None


def _possible_rows(layer, count):
    return (layer.per_class * count, count + 1) if layer.per_class == 1 else (layer.per_class * count,)


def _carried_over(layer, tensor, target, old, new):
    """``target`` with the rows of ``tensor`` for those of the ``new`` classes that are among ``old``; their names."""
    merged = target.detach().clone()
    kept = [name for name in new if name in old]
    groups = len(target) // len(new) if layer.repeated else 1
    for name in kept:
        for group in range(groups):
            there, here = (layer.per_class * (group * len(names) + names.index(name)) for names in (old, new))
            merged[here:here + layer.per_class] = tensor[there:there + layer.per_class].to(merged)
    has_other = not layer.repeated and layer.per_class == 1 and len(tensor) > len(old) and len(target) > len(new)
    if kept and has_other:
        merged[-1] = tensor[-1].to(merged)      # "no object" and the background are the same everywhere
    return merged, kept


def class_tables(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The class tables of a checkpoint's contents: those that training noted, or the names in the models' order."""
    names = checkpoint.get("class_names")
    return dict(checkpoint.get("classes") or ({THINGS: names, STUFF: names} if names else {}))


def names_of(tables: Mapping[str, Any], count: int) -> list[str] | None:
    """The names of ``count`` classes by the first of the class tables that has as many; None where none has."""
    return next((list(tables[key]) for key in (THINGS, STUFF) if len(tables.get(key) or ()) == count), None)

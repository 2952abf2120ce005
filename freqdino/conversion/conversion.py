"""Gives a checkpoint's entries the names of a model by a family's tables, and says what does not fit.

Whether the result would load is decided by the code that loads it, `freqdino.checkpoint.fit_checkpoint`.
"""
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor, nn

from freqdino.checkpoint.checkpointer import COMPUTED, fit_checkpoint
from freqdino.conversion.rules import NETWORK, Family
from freqdino.errors import ConversionError

STATISTICS = "running_mean"


class Unplaced(NamedTuple):
    """An entry without a place in the model. meant: the name that it would have there, or its own if no rule has it."""
    tensor: Tensor
    meant: str
    why: str


@dataclass
class Conversion:
    """What became of a checkpoint. Names: the file's on the source's side, the model's in full on the other."""

    written: dict[str, Tensor] = field(default_factory=dict)    # name in the new file -> tensor
    sources: dict[str, str] = field(default_factory=dict)       # name in the new file -> name in the source
    part: str = ""                                              # of the model that the new file fills, "" for all of it
    left: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))   # why -> names in the source
    unplaced: dict[str, Unplaced] = field(default_factory=dict)                     # by names in the source
    holes: dict[str, Tensor] = field(default_factory=dict)      # name in the model that nothing fills -> its tensor
    neutral: list[str] = field(default_factory=list)            # names in the model that loading sets to neutral


def rename_entries(tensors: Mapping[str, Tensor], renames: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """``tensors`` with the first of ``renames`` (regular expression, replacement) that is found in a name applied.

    Raises ConversionError for a rename that no name has or that is no regular expression, and if two names become one.
    """
    renamed, used = {}, set()
    for name, tensor in tensors.items():
        for pattern, replacement in renames:
            try:
                new_name, count = re.subn(pattern, replacement, name)
            except re.error as error:
                raise ConversionError(f"--rename {pattern} {replacement}: not a regular expression and its "
                                      f"replacement: {error}") from error
            if count:
                used.add(pattern)
                name = new_name
                break
        if name in renamed:
            raise ConversionError(f"--rename makes two entries {name}")
        renamed[name] = tensor
    idle = [pattern for pattern, _ in renames if pattern not in used]
    if idle:
        raise ConversionError(f"--rename {idle[0]}: no name in the file has it")
    return renamed


def convert(tensors: Mapping[str, Tensor], model: nn.Module, family: Family) -> Conversion:
    """Place ``tensors`` in ``model`` by the tables of ``family``; the model is left as it is.

    Raises ConversionError if two entries become one.
    """
    conversion = Conversion()
    network = "backbone.bottom_up" if hasattr(getattr(model, "backbone", None), "bottom_up") else "backbone"
    for name, tensor in tensors.items():
        reason = family.reason_to_leave(name)
        place = family.place(name)
        if reason is not None:
            conversion.left[reason].append(name)
        elif place is None:
            conversion.unplaced[name] = Unplaced(tensor, name, "no rule knows this name")
        else:
            target, rule = place[0].replace(NETWORK, network), place[1]
            if target in conversion.sources:
                raise ConversionError(f"two entries become {target}: {conversion.sources[target]} and {name}")
            conversion.sources[target] = name
            conversion.written[target] = tensor if rule.change is None else rule.change(tensor)
    _hold_against_model(conversion, model, family.whole_model)
    return conversion


def _hold_against_model(conversion: Conversion, model: nn.Module, whole_model: bool | None) -> None:
    """Move what does not fit from ``written`` to ``unplaced``, and find the holes."""
    checkpoint = {"model": conversion.written, "caffe2": False}
    fit = fit_checkpoint(model, checkpoint, whole_model=bool(whole_model))
    if whole_model is None and not fit.part:
        fit = fit_checkpoint(model, checkpoint, whole_model=True)
    conversion.part, conversion.neutral = fit.part, fit.neutral
    targets = model.state_dict()

    def take(target: str) -> tuple[str, Tensor] | None:
        """An entry's name in the source and its tensor, no longer to be written; None for what loading adds."""
        key = target if target in conversion.written else target.removeprefix(fit.part)
        if key not in conversion.written:
            return None
        return conversion.sources.pop(key), conversion.written.pop(key)

    def unplace(target: str, why: str) -> None:
        taken = take(target)
        if taken is not None:
            conversion.unplaced[taken[0]] = Unplaced(taken[1], target, why)

    for target in fit.left_out:
        taken = take(target)
        if taken is not None:
            reason = "computed by the model or not in it" if COMPUTED.search(target) else "the classifier"
            conversion.left[reason].append(taken[0])
    for target in fit.unexpected:
        unplace(target, next((problem for problem in fit.unconvertible if f"{target}:" in problem),
                             f"the model has no {target}"))
    for target in fit.mismatched:
        unplace(target, f"{target} has shape {tuple(targets[target].shape)}")
    holes = {*fit.missing, *fit.mismatched}
    for layer, why in _other_normalisations({*fit.matching, *fit.unexpected}, targets.keys()):
        for target in [target for target in fit.matching if target.startswith(layer)]:
            unplace(target, why)
        holes.update(target for target in targets if target.startswith(layer) and not COMPUTED.search(target))
    conversion.holes = {target: tensor for target, tensor in targets.items() if target in holes}


def _other_normalisations(names: Set[str], targets: Set[str]) -> Iterator[tuple[str, str]]:
    """Layers (names with a dot behind them) that have running statistics on one side alone, and why they are no match.

    Their weight and bias are there on both sides and of one shape, and yet mean different things.
    """
    def with_statistics(keys):
        return {key.removesuffix(STATISTICS) for key in keys if key.endswith(f".{STATISTICS}")}

    ours, theirs = with_statistics(targets), with_statistics(names)
    for layer in sorted(ours ^ theirs):
        if f"{layer}weight" in names and f"{layer}weight" in targets:
            have, lack = ("the model", "the file") if layer in ours else ("the file", "the model")
            yield layer, f"{layer[:-1]} has running statistics in {have} and none in {lack}: another normalisation"

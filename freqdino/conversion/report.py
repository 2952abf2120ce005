"""What a conversion did, in lines: counts, and what did not fit with its shape and the nearest name of that shape."""
import difflib
import re
from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor

from freqdino.conversion.conversion import Conversion
from freqdino.conversion.rules import Family
from freqdino.errors import first_few

LISTED = 5                                  # names of each kind
SIMILAR, ALIKE = 0.3, 0.7                   # least similarity of names worth a mention: of one shape, of any shapes


def summary(conversion: Conversion, family: Family) -> Iterator[str]:
    """What was mapped, left and not placed."""
    yield f"mapped: {count(conversion.written.values())}{example(conversion)}"
    for reason, names in conversion.left.items():
        yield f"left: {len(names)}, {reason}: {first_few(names, LISTED, counted=False)}"
    if not conversion.left:
        yield "left: 0"
    yield f"could not place: {len(conversion.unplaced)}"
    part = conversion.part[:-1] or "the whole model"
    yield f"fills: {part}, {len(conversion.holes)} names of it stay empty"
    if conversion.neutral:
        yield (f"start neutral on loading: {len(conversion.neutral)} of frequency modules, "
               f"{first_few(conversion.neutral, LISTED, counted=False)}")
    if family.note:
        yield f"note: {family.note}"


def misfits(conversion: Conversion, family: Family) -> Iterator[str]:
    """The first of those that could not be placed and of those that nothing fills; nothing where all fits."""
    # By the names that they would have in the model, as those can be compared: (name, shape).
    sources = {entry.meant: (name, tuple(entry.tensor.shape)) for name, entry in conversion.unplaced.items()}
    holes = {name: (name, tuple(tensor.shape)) for name, tensor in conversion.holes.items()}
    if sources:
        yield f"{len(sources)} entries of the file have no place in the model:"
        for meant, (name, shape) in list(sources.items())[:LISTED]:
            yield f"  {name} {shape}: {conversion.unplaced[name].why}{nearest(meant, shape, holes)}"
    if holes:
        yield f"{len(holes)} names of the model are filled by nothing:"
        for name, shape in list(holes.values())[:LISTED]:
            yield f"  {name} {shape}{nearest(name, shape, sources)}"
    for pattern, hint in family.hints.items():
        if any(re.search(pattern, name) for name in (*holes, *sources, *conversion.unplaced)):
            yield f"hint: {hint}"


def nearest(name: str, shape: tuple[int, ...], candidates: Mapping[str, tuple[str, tuple[int, ...]]]) -> str:
    """The candidate most like ``name`` of this shape, or else one of another shape that is much alike, or "".

    candidates: what to compare with -> the name to show and its shape.
    """
    of_shape = [candidate for candidate, (_, its_shape) in candidates.items() if its_shape == shape]
    found = (difflib.get_close_matches(name, of_shape, n=1, cutoff=SIMILAR)
             or difflib.get_close_matches(name, candidates, n=1, cutoff=ALIKE))
    return "; nearest: {} {}".format(*candidates[found[0]]) if found else ""


def count(tensors: Iterable[Tensor]) -> str:
    sizes = [tensor.numel() * tensor.element_size() for tensor in tensors]
    return f"{len(sizes)} tensors, {sum(sizes):,} bytes"


def example(conversion: Conversion) -> str:
    """The first name that changed, and what it became."""
    changed = ((source, target) for target, source in conversion.sources.items() if source != target)
    return next((f", as {source} -> {target}" for source, target in changed), ", all under their own names")

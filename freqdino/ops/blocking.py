"""Large tensors piece by piece, so that what is made on the way stays in a CPU's cache, or in a GPU's memory.

Fresh buffers of a whole map cost a CPU several times the arithmetic that fills them. Each caller says how many bytes it
makes for one place of the dimension that is cut; how many places go together follows from one budget.
"""
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from freqdino.ops.modules import is_recorded, overwrites

# Bytes made at a time: on the CPU what a cache holds, elsewhere what memory can spare.
BUDGET = {"cpu": 2**21}
BUDGET_ELSEWHERE = 2**28
# So many pieces are put together at the end: beside the whole result, what one piece needs would be more than they are.
FEW = 3


def place_bytes(tensor: Tensor, dim: int) -> int:
    """The bytes of one place along ``dim``; of a recorded tensor too, which has no number of elements."""
    return tensor.element_size() * math.prod([*tensor.shape[:dim], *tensor.shape[dim + 1:]])


def slices(count: int, bytes_each: int, device: torch.device, at_most: int | None = None) -> Iterator[slice]:
    """Cut range(count) evenly, so that a part's bytes stay within the device's budget, on the CPU within ``at_most``
    too, if one's do.

    >>> list(slices(7, 2**19, torch.device("cpu")))
    [slice(0, 4, None), slice(4, 7, None)]
    """
    budget = BUDGET.get(device.type, BUDGET_ELSEWHERE)
    if at_most is not None and device.type == "cpu":     # a GPU has memory for fewer, larger steps
        budget = min(budget, at_most)
    number = max(1, math.ceil(count / max(1, budget // max(1, bytes_each))))
    step = max(1, math.ceil(count / number))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def blocks(outer: int, inner: int, bytes_each: int, device: torch.device, at_most: int | None = None
           ) -> Iterator[tuple[slice, slice]]:
    """Cut range(outer) × range(inner) likewise: several of ``outer`` at a time where they fit, else parts of one."""
    for some in slices(outer, bytes_each * inner, device, at_most):
        for part in slices(inner, bytes_each * (some.stop - some.start), device, at_most):
            yield some, part


def pieces(tensors: Sequence[Tensor | None], dim: int, bytes_each: int) -> Iterator[tuple[Tensor | None, ...]]:
    """Views of the tensors, which are of one length along ``dim`` (the first no None), in step; None stays None."""
    for part in slices(tensors[0].shape[dim], bytes_each, tensors[0].device):
        yield tuple(None if tensor is None else tensor.narrow(dim, part.start, part.stop - part.start)
                    for tensor in tensors)


def by_pieces(function: Callable[..., Tensor], tensors: Sequence[Tensor | None], dim: int, bytes_each: int) -> Tensor:
    """function(*tensors), where each place of the result along ``dim`` follows from the same place of the tensors.

    A recording computes the whole.
    """
    length = tensors[0].shape[dim]
    number = 1 if is_recorded() else len(list(slices(length, bytes_each, tensors[0].device)))
    if number <= 1:
        return function(*tensors)
    parts = (function(*piece) for piece in pieces(tensors, dim, bytes_each))
    if number <= FEW or not overwrites():
        return torch.cat(list(parts), dim)
    result, start = None, 0
    for part in parts:
        if result is None:
            shape, outermost_first = list(part.shape), sorted(range(part.dim()), key=part.stride, reverse=True)
            shape[dim] = length
            result = torch.empty_permuted(shape, outermost_first, dtype=part.dtype, device=part.device)
        result.narrow(dim, start, part.shape[dim]).copy_(part)
        start += part.shape[dim]
        del part    # it would lie beside the next one
    return result

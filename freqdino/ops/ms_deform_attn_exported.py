"""Multi-scale deformable attention in plain operators, for graphs that other runtimes run.

Source: as :mod:`freqdino.ops.ms_deform_attn`, which has the letters too. Neither ``grid_sample`` nor ``embedding_bag``
is in it, which few runtimes have or run fast; every size may be a symbol.
"""
from collections.abc import Iterator, Sequence
from itertools import product

import torch
from torch import Tensor

from freqdino.ops.weighted_gather import compute_dtype, weighted_gather


def attention_by_levels(value: Tensor, sizes: Sequence[tuple[int, int]], sampling_locations: Tensor,
                        attention_weights: Tensor) -> Tensor:
    """`ms_deform_attn` of arguments that fit each other, for each level and corner of the samples' cells by itself, so
    that no more than P rows of a head and query are gathered at a time.
    """
    dtype = compute_dtype(value, sampling_locations, attention_weights)
    batch, positions, heads, channels = value.shape
    queries = sampling_locations.shape[1]
    table = value.to(dtype).reshape(-1, channels)       # row (image · S + position) · M + head
    image = torch.arange(batch, device=value.device).view(-1, 1, 1, 1) * positions
    head = torch.arange(heads, device=value.device).view(-1, 1)
    attended, start = table.new_zeros(batch * queries * heads, channels), 0
    for (height, width), locations, weights in zip(sizes, sampling_locations.to(dtype).unbind(3),
                                                   attention_weights.to(dtype).unbind(3)):
        x, y = locations.unbind(-1)                     # (B, Q, M, P)
        for (row, down), (column, across) in product(neighbours(y, height), neighbours(x, width)):
            index = (row * width + column + (start + image)) * heads + head
            share = weights * down * across
            attended = attended + weighted_gather(table, index.flatten(0, 2), share.flatten(0, 2))
        start = start + height * width
    return attended.view(batch, queries, heads * channels).to(value.dtype)


def neighbours(places: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Of places on an axis of a map, 0 and 1 being its ends, both neighbouring pixels (int64, always on the map) and
    their shares in the bilinear sample, zero for a pixel that is not on the map.

    >>> list(neighbours(torch.tensor([0.125, 0.5]), 2))
    [(tensor([0, 0]), tensor([0.0000, 0.5000])), (tensor([0, 1]), tensor([0.7500, 0.5000]))]
    """
    # Held at two pixels outside, where neither a sample nor its slope is more than zero, for infinity.
    place = (places * size - 0.5).clamp(-2, size + 1)
    first = place.detach().floor()
    beyond, cell = place - first, first.long()
    for pixel, share in ((cell, 1 - beyond), (cell + 1, beyond)):
        held = pixel.clamp(0, size - 1)
        yield held, share * (held == pixel)     # a product: what is not a number shall spoil the sum

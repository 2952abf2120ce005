"""SAPA: each fine pixel takes of the coarse map what is similar to it.

Source: Lu et al., "SAPA: Similarity-Aware Point Affiliation for Feature Upsampling", NeurIPS 2022 (arXiv 2209.12866):
SAPA-B, of the neighbours on the grid, and SAPA-D, of sampled points. Logits are inner products, without a scale.

B: batch, C_h, C_l: channels of the maps, H × W: coarse map lr, D: embedding, G: channel groups, P: points.
"""
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from freqdino.errors import ArgumentError
from freqdino.frequency.rivals.upsampler import FilterUpsampler, Upsampler, group_norm
from freqdino.ops.autocast import without_autocast
from freqdino.ops.backends import HasOperators
from freqdino.ops.modules import ready_to_flatten
from freqdino.ops.ms_deform_attn import DEFORMOPS, ms_deform_attn

EMBEDDING = 32


class SAPAB(FilterUpsampler):
    """Logits of a fine pixel: its query times the keys of the 5 × 5 coarse pixels round its own.

    A key outside the map is zero and stays in the softmax, as its value does. Queries and keys come from the normalised
    maps, values are lr itself. 66·C + 64 parameters for C_h + C_l = 2·C: 17,472 at 256 channels. Parameter names are
    ours.
    """

    def __init__(self, *, hr_channels: int, lr_channels: int):
        """Raises ValueError for channels that are no multiple of 32."""
        super().__init__(hr_channels=hr_channels, lr_channels=lr_channels)
        self.hr_norm = group_norm("hr_channels", hr_channels)
        self.lr_norm = group_norm("lr_channels", lr_channels)
        self.query = nn.Conv2d(hr_channels, EMBEDDING, kernel_size=1)
        self.key = nn.Conv2d(lr_channels, EMBEDDING, kernel_size=1)
        self.reset_parameters()

    def reset_parameters(self):
        init_projections(self)

    def logits(self, hr: Tensor, lr: Tensor) -> Tensor:
        query = self.query(self.hr_norm(ready_to_flatten(hr)))
        key = self.key(self.lr_norm(ready_to_flatten(lr)))
        precise = torch.promote_types(lr.dtype, torch.float32)
        with without_autocast(lr):
            return similarities(query.to(precise), key.to(precise), self.filter_size)


class SAPAD(HasOperators, Upsampler):
    """Logits of a fine pixel and group: its query times the keys at nine points, which lr moves; values at the same.

    The points start as the 3 × 3 coarse pixels round the pixel's own, which is our reading. Keys and values are read
    bilinearly; outside the map both are zero, as in SAPA-B. 139,808 parameters at 256 channels. Parameter names are
    ours.
    """

    kernel = DEFORMOPS
    GROUPS, POINTS = 4, 3       # of channels; on each axis

    def __init__(self, *, hr_channels: int, lr_channels: int):
        """Raises ValueError for an lr whose channels the four groups do not divide."""
        super().__init__(hr_channels=hr_channels, lr_channels=lr_channels)
        if lr_channels % self.GROUPS:
            raise ArgumentError("lr_channels", f"must be a multiple of the {self.GROUPS} groups, got {lr_channels}")
        self.query = nn.Conv2d(hr_channels, self.GROUPS * EMBEDDING, kernel_size=1)
        self.key = nn.Conv2d(lr_channels, self.GROUPS * EMBEDDING, kernel_size=1)
        self.offset = nn.Conv2d(lr_channels, 4 * self.GROUPS * self.POINTS**2 * 2, kernel_size=1)
        self.reset_parameters()

    def reset_parameters(self):
        init_projections(self)
        nn.init.normal_(self.offset.weight, std=0.001)

    def upsample(self, hr: Tensor, lr: Tensor) -> Tensor:
        query, key, places = as_rows(self.query(hr), self.GROUPS), as_rows(self.key(lr), self.GROUPS), self._places(lr)
        precise, shapes = places.dtype, [tuple(lr.shape[2:])]
        with without_autocast(lr):
            query, key, one = query.to(precise), key.to(precise), torch.ones_like(places[..., :1, :1])
            logits = torch.stack([          # point by point: all keys at once would be many times the map
                (query * ms_deform_attn(key, shapes, place[..., None, None, :], one, operators=self.operators)
                 .view_as(query)).sum(dim=-1) for place in places.unbind(dim=-2)], dim=-1)
            rows = ms_deform_attn(as_rows(lr.to(precise), self.GROUPS), shapes, places[..., None, :, :],
                                  logits.softmax(dim=-1)[..., None, :], operators=self.operators)
            return rows.mT.unflatten(-1, tuple(2 * side for side in lr.shape[2:]))

    def _places(self, lr: Tensor) -> Tensor:
        """(B, 4·H·W, G, P, 2): x and y of every point in units of the map, at least float32."""
        offset = as_rows(F.pixel_shuffle(self.offset(lr), 2), self.GROUPS)
        offset = offset.to(torch.promote_types(lr.dtype, torch.float32)).unflatten(-1, (self.POINTS, self.POINTS, 2))
        height, width = lr.shape[2:]
        rows, columns = (start_positions(size, self.POINTS, offset) for size in (height, width))
        y = rows[:, None, None, :, None].expand(-1, 2 * width, -1, -1, self.POINTS).flatten(0, 1)
        x = columns[None, :, None, None].expand(2 * height, -1, -1, self.POINTS, -1).flatten(0, 1)
        dx, dy = offset.unbind(dim=-1)
        return torch.stack([(x + dx) / width, (y + dy) / height], dim=-1).flatten(-3, -2)


def similarities(query: Tensor, key: Tensor, kernel_size: int) -> Tensor:
    """Of each fine pixel with the k × k coarse ones round its own, zero with those outside the map.

    Args:
        query: (B, D, 2·H, 2·W).
        key: (B, D, H, W).
        kernel_size: k.
    Returns (B, k², 2·H, 2·W), row-major.
    """
    height, width = key.shape[2:]
    padded = F.pad(key, (kernel_size // 2,) * 4)
    queries = F.pixel_unshuffle(query, 2).unflatten(1, (-1, 4))
    # Neighbour by neighbour: all keys at once would be k² times the map.
    dots = [(queries * padded[:, :, None, row:row + height, column:column + width]).sum(dim=1)
            for row, column in product(range(kernel_size), repeat=2)]
    return F.pixel_shuffle(torch.cat(dots, dim=1), 2)


def as_rows(x: Tensor, groups: int) -> Tensor:
    """(B, C, Y, X) -> (B, Y·X, G, C/G)."""
    return x.flatten(2).mT.unflatten(-1, (groups, -1))


def start_positions(size: int, points: int, like: Tensor) -> Tensor:
    """(2·size, points): on one axis, for each fine pixel, the centres of the coarse pixels round its own, from 0, the
    map's edge, on."""
    own = torch.arange(2 * size, dtype=like.dtype, device=like.device).div(2, rounding_mode="floor") + 0.5
    return own[:, None] + torch.arange(points, dtype=like.dtype, device=like.device) - points // 2


def init_projections(module: nn.Module) -> None:
    """Weights N(0, 0.02), biases of zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

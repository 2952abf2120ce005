"""Swin's block with its attention on the whole map, which is where frequency modules need it.

Sources: Swin Transformer (arXiv 2103.14030), whose parameters, Detectron2's, the block takes over; FDAM (ICCV 2025,
arXiv 2507.12006), whose attention inversion stays inside each window: V - A·V as it stands.

B: batch, C: channels, N = H · W: tokens in row-major order, S: side of a window, W: windows of an image, h: heads.
"""
from collections.abc import Callable

import torch
import torch.nn.functional as F
from detectron2.modeling.backbone.swin import (
    SwinTransformerBlock,
    WindowAttention,
    window_partition,
    window_reverse,
)
from torch import Tensor

from freqdino.modeling.backbones.token_block import TokenBlock, to_fdlinear
from freqdino.ops.modules import is_exported


class MapWindowAttention(WindowAttention):
    """Detectron2's window attention, on maps in place of windows; keys and function stay.

    The projections see all tokens of an image together, as a weight of its own for each image (FDLinear) needs it, and
    no padding, which would shift their mean. Attention runs through ``F.scaled_dot_product_attention``.
    ``invert``: None, or InversionGates' call.
    """

    def __init__(self, plain: WindowAttention, *, shift: int):
        super().__init__(plain.dim, plain.window_size, plain.num_heads, qkv_bias=plain.qkv.bias is not None,
                         qk_scale=plain.scale, attn_drop=plain.attn_drop.p, proj_drop=plain.proj_drop.p)
        self.load_state_dict(plain.state_dict())
        self.shift = shift
        self.invert = None

    def forward(self, x: Tensor, grid: tuple[int, int], mask: Tensor) -> Tensor:
        """x: (B, N, C). grid: (H, W). mask: (W, S², S²) to be added to the logits of shifted windows.

        Returns (B, N, C).
        """
        return attend_on_map(self, x, grid, mask, shift=self.shift, invert=self.invert)


def attend_on_map(attention: WindowAttention, x: Tensor, grid: tuple[int, int], mask: Tensor, *, shift: int,
                  invert: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None) -> Tensor:
    """What `MapWindowAttention` computes, with the parameters of an attention of either class."""
    projected, side, images = attention.qkv(x), attention.window_size[0], x.shape[0]
    if is_exported():
        windows = gathered_windows(attention, projected, grid, shift)
    else:
        windows = to_windows(attention, projected, grid, shift)
    attended = attend(attention, windows, mask if shift else None, images)
    if is_exported():
        attended = attended.view(images, -1, attended.shape[-1]).index_select(1, places_of_tokens(grid, side, shift, x))
    else:
        attended = from_windows(attended, side, grid, shift)
    if invert is not None:
        attended = invert(projected.chunk(3, dim=-1)[2], attended, x)
    return attention.proj_drop(attention.proj(attended))


def attend(attention: WindowAttention, windows: Tensor, mask: Tensor | None, images: int) -> Tensor:
    """windows: (B·W, S², 3C) queries, keys, values. Returns A·V, (B·W, S², C)."""
    queries, keys, values = windows.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    bias = attention.relative_position_bias_table[attention.relative_position_index].permute(2, 0, 1)   # (h, S², S²)
    if mask is not None:
        bias = (bias + mask.unsqueeze(1)).repeat(images, 1, 1, 1)
    attended = F.scaled_dot_product_attention(
        queries, keys, values, attn_mask=bias.to(queries.dtype), scale=attention.scale,
        dropout_p=attention.attn_drop.p if attention.training else 0.0)
    return attended.transpose(1, 2).flatten(2)


def to_windows(attention: WindowAttention, projected: Tensor, grid: tuple[int, int], shift: int) -> Tensor:
    """(B, N, 3C) to (B·W, S², 3C), padded at the right and bottom with what a token of zeros is projected to."""
    height, width = grid
    side = attention.window_size[0]
    padded = F.pad(projected.unflatten(1, grid), (0, 0, 0, -width % side, 0, -height % side))
    if attention.qkv.bias is not None:
        padded[:, height:] = attention.qkv.bias
        padded[:, :, width:] = attention.qkv.bias
    if shift:
        padded = padded.roll((-shift, -shift), dims=(1, 2))
    return window_partition(padded, side).flatten(1, 2)


def from_windows(windows: Tensor, side: int, grid: tuple[int, int], shift: int) -> Tensor:
    """(B·W, S², C) to (B, N, C), without the padding."""
    height, width = grid
    padded = window_reverse(windows, side, height + -height % side, width + -width % side)
    if shift:
        padded = padded.roll((shift, shift), dims=(1, 2))
    return padded[:, :height, :width].flatten(1, 2)


def gathered_windows(attention: WindowAttention, projected: Tensor, grid: tuple[int, int], shift: int) -> Tensor:
    """`to_windows` by one gather, for sizes that may be symbols: padding and shifting in windows would tie a graph to
    whether there is any."""
    height, width = grid
    images, tokens, channels = projected.shape
    side = attention.window_size[0]
    outside = projected.new_zeros(channels) if attention.qkv.bias is None else attention.qkv.bias
    sources = []
    for size in grid:
        place = window_places(size, side, projected)
        length = place.numel()
        place = place + shift
        sources.append(torch.where(place < length, place, place - length))      # (windows, S)
    rows, columns = sources[0][:, None, :, None], sources[1][:, None]           # broadcast to (windows, windows, S, S)
    source = torch.where((rows < height) & (columns < width), rows * width + columns, tokens)
    table = torch.cat([projected, outside.expand(images, 1, channels)], 1)
    return table.index_select(1, source.flatten()).view(-1, side * side, channels)


def places_of_tokens(grid: tuple[int, int], side: int, shift: int, like: Tensor) -> Tensor:
    """Where the tokens of a map are among the tokens of its windows, one window after the other: (N,)."""
    (row, rest_row, _), (column, rest_column, columns) = (places_on_axis(size, side, shift, like) for size in grid)
    window = row[:, None] * columns + column
    return ((window * side + rest_row[:, None]) * side + rest_column).flatten()


def places_on_axis(size: int, side: int, shift: int, like: Tensor) -> tuple[Tensor, Tensor, int]:
    """For each row (or column) of a map its window and its place in that, and how many windows there are."""
    windows = (size + side - 1) // side
    place = torch.arange(size, device=like.device) - shift
    place = torch.where(place < 0, place + windows * side, place)
    return place // side, place % side, windows


def window_places(size: int, side: int, like: Tensor) -> Tensor:
    """0, 1, … along an axis of windows that cover ``size``: (windows, S)."""
    start = torch.arange((size + side - 1) // side, device=like.device) * side
    return start[:, None] + torch.arange(side, device=like.device)


def shifted_window_mask(grid: tuple[int, int], side: int, shift: int, like: Tensor) -> Tensor:
    """What Detectron2's stage makes of a size, for sizes that may be symbols: (W, S², S²), -100 between tokens that a
    shifted window brings together across the map's border, else 0."""
    regions = []
    for size in grid:
        place = window_places(size, side, like)
        regions.append((place >= place.numel() - side).long() + (place >= place.numel() - shift).long())
    region = (3 * regions[0][:, None, :, None] + regions[1][:, None]).view(-1, side * side)
    return -100.0 * (region[:, None] != region[:, :, None])


def plain_block_on_map(block: SwinTransformerBlock, x: Tensor, grid: tuple[int, int], mask: Tensor) -> Tensor:
    """Detectron2's block on tokens (B, N, C), for sizes that may be symbols."""
    x = x + block.drop_path(attend_on_map(block.attn, block.norm1(x), grid, mask, shift=block.shift_size))
    return x + block.drop_path(block.mlp(block.norm2(x)))


class FrequencySwinBlock(TokenBlock):
    """A block of Detectron2's Swin Transformer, whose parts it takes over, with places for frequency modules.

    The stage sets ``H`` and ``W``, the size of the map, before each call, as it does for Detectron2's block.
    """

    def __init__(self, plain: SwinTransformerBlock):
        super().__init__()
        self.norm1 = plain.norm1
        self.attn = MapWindowAttention(plain.attn, shift=plain.shift_size)
        self.drop_path = plain.drop_path
        self.norm2 = plain.norm2
        self.mlp = plain.mlp
        self.H = self.W = None

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x: (B, N, C). mask: as MapWindowAttention. Returns (B, N, C)."""
        grid = self.H, self.W
        x = self.add_branch(x, self.attn(self.norm1(x), grid, mask), self.freq_scale_1, grid)
        return self.add_branch(x, self.mlp(self.norm2(x)), self.freq_scale_2, grid)

    def add_fdconv(self, *, kernel_num: int) -> None:
        """FDLinear for the projections of attention and for the MLP."""
        to_fdlinear(self, "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", kernel_num=kernel_num)

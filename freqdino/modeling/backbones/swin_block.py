"""Swin's block with its attention on the whole map, which is where frequency modules need it.

Sources: Swin Transformer (arXiv 2103.14030), whose parameters, Detectron2's, the block takes over; FDAM (ICCV 2025,
arXiv 2507.12006), whose attention inversion stays inside each window: V - A·V as it stands.

B: batch, C: channels, N = H · W: tokens in row-major order, S: side of a window, W: windows of an image, h: heads.
"""
import torch.nn.functional as F
from detectron2.modeling.backbone.swin import (
    SwinTransformerBlock,
    WindowAttention,
    window_partition,
    window_reverse,
)
from torch import Tensor

from freqdino.modeling.backbones.token_block import TokenBlock, to_fdlinear


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
        projected = self.qkv(x)
        attended = self._from_windows(self._attend(self._to_windows(projected, grid), mask), grid)
        if self.invert is not None:
            attended = self.invert(projected.chunk(3, dim=-1)[2], attended, x)
        return self.proj_drop(self.proj(attended))

    def _attend(self, windows: Tensor, mask: Tensor) -> Tensor:
        """windows: (B·W, S², 3C) queries, keys, values. Returns A·V, (B·W, S², C)."""
        queries, keys, values = windows.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)     # (h, S², S²)
        if self.shift:
            images = len(windows) // len(mask)
            bias = (bias + mask.unsqueeze(1)).repeat(images, 1, 1, 1)
        attended = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=bias.to(queries.dtype), scale=self.scale,
            dropout_p=self.attn_drop.p if self.training else 0.0)
        return attended.transpose(1, 2).flatten(2)

    def _to_windows(self, projected: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, N, 3C) to (B·W, S², 3C), padded at the right and bottom with what a token of zeros is projected to."""
        height, width = grid
        side = self.window_size[0]
        padded = F.pad(projected.unflatten(1, grid), (0, 0, 0, -width % side, 0, -height % side))
        if self.qkv.bias is not None:
            padded[:, height:] = self.qkv.bias
            padded[:, :, width:] = self.qkv.bias
        if self.shift:
            padded = padded.roll((-self.shift, -self.shift), dims=(1, 2))
        return window_partition(padded, side).flatten(1, 2)

    def _from_windows(self, windows: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B·W, S², C) to (B, N, C), without the padding."""
        height, width = grid
        side = self.window_size[0]
        padded = window_reverse(windows, side, height + -height % side, width + -width % side)
        if self.shift:
            padded = padded.roll((self.shift, self.shift), dims=(1, 2))
        return padded[:, :height, :width].flatten(1, 2)


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

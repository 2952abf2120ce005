"""MiT, SegFormer's encoder: a transformer of four resolutions whose attention reads a reduced map.

Sources: SegFormer (arXiv 2105.15203), sections 3.1 and 3.2, with its published parameter names; FDAM (ICCV 2025, arXiv
2507.12006) in it is our reading: the query token's own value, through the same projection, minus what it attends to.

B: batch, C: channels, H × W: map, N = H · W: tokens in row-major order, M: tokens of the reduced map.
"""
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from freqdino.errors import ArgumentError
from freqdino.frequency import FDLinear, fdconv_from_conv2d
from freqdino.frequency.fdam.transformer_block import LAYER_NORM_EPSILON, DropPath
from freqdino.frequency.fdam.vision_transformer import initialize_linear
from freqdino.layers.linear import linear
from freqdino.modeling.backbones.freezing import FreezableBackbone
from freqdino.modeling.backbones.token_block import TokenBlock, to_fdlinear

STAGE_NAMES = ("res2", "res3", "res4", "res5")
# The same in all published variants, from the finest stage to the coarsest.
NUM_HEADS = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2, 1)
MLP_RATIO = 4
PATCH_KERNELS = (7, 3, 3, 3)
PATCH_STRIDES = (4, 2, 2, 2)


class OverlapPatchEmbedding(nn.Module):
    """(B, C', H', W') to tokens (B, N, C) of the map at 1 / stride of its size, rounded up."""

    def __init__(self, in_chans: int, dim: int, *, kernel_size: int, stride: int):
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, kernel_size, stride, padding=kernel_size // 2)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Returns the tokens and their grid (H, W)."""
        x = self.proj(x)
        return self.norm(x.flatten(2).transpose(1, 2)), tuple(x.shape[2:])


class ReducedAttention(nn.Module):
    """Self-attention whose keys and values come from the map at 1 / reduction of its size.

    ``invert``: None, or InversionGates' call.
    """

    def __init__(self, dim: int, num_heads: int, *, reduction: int):
        super().__init__()
        if dim % num_heads:
            raise ArgumentError("num_heads", f"must divide the {dim} channels, got {num_heads}")
        self.num_heads = num_heads
        self.reduction = reduction
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        if reduction > 1:
            self.sr = nn.Conv2d(dim, dim, reduction, stride=reduction)
            self.norm = nn.LayerNorm(dim)
        self.invert = None

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """x: (B, N, C). grid: (H, W). Returns (B, N, C)."""
        keys, values = self.kv(self._reduced(x, grid)).chunk(2, dim=-1)
        attended = F.scaled_dot_product_attention(*map(self._heads, (self.q(x), keys, values)))
        attended = attended.transpose(1, 2).flatten(2)
        if self.invert is not None:
            attended = self.invert(values if self.reduction == 1 else self._own_values(x), attended, x)
        return self.proj(attended)

    def _heads(self, tokens: Tensor) -> Tensor:
        """(B, N, C) to (B, heads, N, C / heads)."""
        return tokens.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _reduced(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, N, C) to (B, M, C). A rest at the right and bottom is left out, as published; a map that is nothing else
        is padded with zeros."""
        if self.reduction == 1:
            return x
        feature_map = x.transpose(1, 2).unflatten(2, grid)
        bottom, right = (max(self.reduction - size, 0) for size in grid)
        if bottom or right:
            feature_map = F.pad(feature_map, (0, right, 0, bottom))
        return self.norm(self.sr(feature_map).flatten(2).transpose(1, 2))

    def _own_values(self, x: Tensor) -> Tensor:
        """V of each query token, (B, N, C)."""
        if isinstance(self.kv, FDLinear):       # its weight exists only inside the call, for keys and values together
            return self.kv(x).chunk(2, dim=-1)[1]
        return linear(x, self.kv.weight.chunk(2)[1], self.kv.bias.chunk(2)[1])


class DepthwiseConv(nn.Module):
    """A 3 × 3 convolution of each channel of the map that tokens (B, N, C) are."""

    def __init__(self, dim: int):
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        return self.dwconv(x.transpose(1, 2).unflatten(2, grid)).flatten(2).transpose(1, 2)


class MixMLP(nn.Module):
    """fc2(GELU(depth-wise convolution(fc1(x)))), (B, N, C) to (B, N, C): the convolution stands for positions."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.dwconv = DepthwiseConv(hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        return self.fc2(F.gelu(self.dwconv(self.fc1(x), grid)))


class MiTBlock(TokenBlock):
    """x + drop_path(attention(LN x)), then the same with the MLP: pre-norm, without LayerScale."""

    def __init__(self, dim: int, num_heads: int, *, reduction: int, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPSILON)
        self.attn = ReducedAttention(dim, num_heads, reduction=reduction)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPSILON)
        self.mlp = MixMLP(dim, MLP_RATIO * dim)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """x: (B, N, C). grid: (H, W). Returns (B, N, C)."""
        x = self.add_branch(x, self.attn(self.norm1(x), grid), self.freq_scale_1, grid)
        return self.add_branch(x, self.mlp(self.norm2(x), grid), self.freq_scale_2, grid)

    def add_fdconv(self, *, kernel_num: int) -> None:
        """FDLinear for attention and MLP, FDConv for the depth-wise convolution; the reduction's kernel is too large
        for it from 2 × 2 on."""
        to_fdlinear(self, "attn.q", "attn.kv", "attn.proj", "mlp.fc1", "mlp.fc2", kernel_num=kernel_num)
        self.mlp.dwconv.dwconv = fdconv_from_conv2d(self.mlp.dwconv.dwconv, kernel_num=kernel_num)


class MixTransformer(FreezableBackbone):
    """Images (B, in_chans, H, W) -> res2 .. res5 at strides 4, 8, 16 and 32 (rounded up).

    embed_dims: channels of the four stages, multiples of 1, 2, 5 and 8 (the heads). depths: their blocks. B0: (32, 64,
    160, 256) and (2, 2, 2, 2); B1: twice as wide; B2: as wide as B1, with (3, 4, 6, 3) blocks. drop_path_rate: of the
    last block; it grows linearly from 0. activation_checkpointing: recompute the blocks in the backward pass to save
    memory.

    Keys as published: ``patch_embed<s>``, ``block<s>.<i>``, ``norm<s>`` for stages s from 1 to 4. Raises ValueError for
    other than four stages, and for dimensions that do not fit.

    >>> mit = MixTransformer(in_chans=3, embed_dims=(32, 64, 160, 256), depths=(2, 2, 2, 2), drop_path_rate=0.1,
    ...                      activation_checkpointing=False)
    >>> {name: tuple(feature_map.shape) for name, feature_map in mit(torch.randn(1, 3, 65, 96)).items()}
    {'res2': (1, 32, 17, 24), 'res3': (1, 64, 9, 12), 'res4': (1, 160, 5, 6), 'res5': (1, 256, 3, 3)}
    """

    def __init__(self, *, in_chans: int, embed_dims: Sequence[int], depths: Sequence[int], drop_path_rate: float,
                 activation_checkpointing: bool):
        super().__init__()
        for name, values in (("embed_dims", embed_dims), ("depths", depths)):
            if len(values) != len(STAGE_NAMES) or min(values) < 1:
                raise ArgumentError(name, f"must be four positive numbers, one a stage, got {tuple(values)}")
        self.embed_dims = tuple(embed_dims)
        self.activation_checkpointing = activation_checkpointing
        rates = iter(torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist())
        channels = (in_chans, *embed_dims)
        for stage, dim in enumerate(embed_dims):
            self.add_module(f"patch_embed{stage + 1}", OverlapPatchEmbedding(
                channels[stage], dim, kernel_size=PATCH_KERNELS[stage], stride=PATCH_STRIDES[stage]))
            self.add_module(f"block{stage + 1}", nn.ModuleList(
                MiTBlock(dim, NUM_HEADS[stage], reduction=REDUCTIONS[stage], drop_path=next(rates))
                for _ in range(depths[stage])))
            self.add_module(f"norm{stage + 1}", nn.LayerNorm(dim, eps=LAYER_NORM_EPSILON))
        self.apply(initialize_linear)
        self.apply(initialize_convolution)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        maps = {}
        x = image
        for stage, name in enumerate(STAGE_NAMES, start=1):
            tokens, grid = self.get_submodule(f"patch_embed{stage}")(x)
            for block in self.get_submodule(f"block{stage}"):
                if self.activation_checkpointing and self.training:
                    tokens = checkpoint(block, tokens, grid, use_reentrant=False)
                else:
                    tokens = block(tokens, grid)
            tokens = self.get_submodule(f"norm{stage}")(tokens)
            maps[name] = x = tokens.transpose(1, 2).unflatten(2, grid).contiguous()
        return maps

    def output_shape(self) -> dict[str, ShapeSpec]:
        strides = (math.prod(PATCH_STRIDES[:stage + 1]) for stage in range(len(STAGE_NAMES)))
        return {name: ShapeSpec(channels=channels, stride=stride)
                for name, channels, stride in zip(STAGE_NAMES, self.embed_dims, strides)}

    @property
    def size_divisibility(self) -> int:
        """Side lengths of which no level is rounded up."""
        return math.prod(PATCH_STRIDES)

    def stage_parts(self) -> list[list[str]]:
        """See FreezableBackbone; the stem is the first patch embedding, the others begin their stage."""
        stages = [[f"patch_embed{s}", f"block{s}", f"norm{s}"] for s in range(1, len(STAGE_NAMES) + 1)]
        return [stages[0][:1], *stages]


def initialize_convolution(module: nn.Module):
    """SegFormer's start of convolutions: weights N(0, 2 / (kernel area · output channels of a group)), biases 0."""
    if isinstance(module, nn.Conv2d):
        outputs = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / outputs))
        nn.init.zeros_(module.bias)

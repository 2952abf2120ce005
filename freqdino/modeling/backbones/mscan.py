"""MSCAN, SegNeXt's encoder: attention that is nothing but convolutions, depth-wise strips of several lengths.

Sources: SegNeXt (NeurIPS 2022, arXiv 2209.08575), section 3.1, with its published parameter names; FDConv (CVPR 2025,
arXiv 2503.18783) and FDAM (ICCV 2025, arXiv 2507.12006) in it are our reading, as nobody has published them there.

B: batch, C: channels, H × W: map.
"""
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec, get_norm
from torch import Tensor, nn

from freqdino.errors import ArgumentError, errors_in
from freqdino.frequency import ResidualFrequencyScale, convert_to_fdconv
from freqdino.frequency.argument_checks import check_choice
from freqdino.frequency.fdam.transformer_block import DropPath
from freqdino.modeling.backbones.freezing import FreezableBackbone
from freqdino.modeling.backbones.mit import initialize_convolution

STAGE_NAMES = ("res2", "res3", "res4", "res5")
STRIDES = (4, 8, 16, 32)
# The same in all published sizes, from the finest stage to the coarsest.
MLP_RATIOS = (8, 8, 4, 4)
STRIP_LENGTHS = (7, 11, 21)
LAYER_SCALE_START = 0.01


class Size(NamedTuple):
    """Channels and blocks of the four stages; stochastic depth of the last block."""
    embed_dims: tuple[int, ...]
    depths: tuple[int, ...]
    drop_path_rate: float


SIZES = {
    "T": Size((32, 64, 160, 256), (3, 3, 5, 2), 0.1),
    "S": Size((64, 128, 320, 512), (2, 2, 4, 2), 0.1),
    "B": Size((64, 128, 320, 512), (3, 3, 12, 3), 0.1),
    "L": Size((64, 128, 320, 512), (3, 5, 27, 3), 0.3),
}


def normalisation(norm: str, channels: int) -> nn.Module:
    """Detectron2's of that name; "": none."""
    return nn.Identity() if norm == "" else get_norm(norm, channels)


def halving(in_chans: int, channels: int) -> nn.Conv2d:
    """(B, in_chans, H, W) -> (B, channels, ⌈H / 2⌉, ⌈W / 2⌉)."""
    return nn.Conv2d(in_chans, channels, kernel_size=3, stride=2, padding=1)


def depthwise(channels: int, kernel_size: tuple[int, int]) -> nn.Conv2d:
    """One filter a channel; the map keeps its size. kernel_size: odd."""
    return nn.Conv2d(channels, channels, kernel_size, padding=tuple(side // 2 for side in kernel_size),
                     groups=channels)


class StripGate(nn.Module):
    """t ⊙ 1×1(a + Σ strips of a) with a = depth-wise 5 × 5 of t, (B, C, H, W) to (B, C, H, W): the published MSCA.

    A strip of length k is a depth-wise 1 × k convolution and after it a k × 1 one.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.conv0 = depthwise(dim, (5, 5))
        for index, length in enumerate(STRIP_LENGTHS):
            self.add_module(f"conv{index}_1", depthwise(dim, (1, length)))
            self.add_module(f"conv{index}_2", depthwise(dim, (length, 1)))
        self.conv3 = nn.Conv2d(dim, dim, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        near = self.conv0(x)
        gathered = near
        for index in range(len(STRIP_LENGTHS)):
            row, column = self.get_submodule(f"conv{index}_1"), self.get_submodule(f"conv{index}_2")
            gathered = gathered + column(row(near))
        return x * self.conv3(gathered)


class ConvolutionalAttention(nn.Module):
    """proj_2(gate(GELU(proj_1(z)))) + z, (B, C, H, W) to (B, C, H, W), both projections 1 × 1."""

    def __init__(self, dim: int):
        super().__init__()
        self.proj_1 = nn.Conv2d(dim, dim, kernel_size=1)
        self.spatial_gating_unit = StripGate(dim)
        self.proj_2 = nn.Conv2d(dim, dim, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj_2(self.spatial_gating_unit(F.gelu(self.proj_1(x)))) + x


class ConvMLP(nn.Module):
    """fc2(GELU(depth-wise 3 × 3 (fc1(x)))), (B, C, H, W) to (B, C, H, W)."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Conv2d(dim, hidden, kernel_size=1)
        self.dwconv = nn.Sequential(OrderedDict(dwconv=depthwise(hidden, (3, 3))))
        self.fc2 = nn.Conv2d(hidden, dim, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.dwconv(self.fc1(x))))


class MSCABlock(nn.Module):
    """x + drop_path(γ₁ · attention(norm(x))), then the same with the MLP and γ₂; x: (B, C, H, W).

    With frequency scaling a branch b is b + S(b) before it is scaled by γ.
    """

    def __init__(self, dim: int, *, mlp_ratio: int, norm: str, drop_path: float):
        super().__init__()
        self.norm1 = normalisation(norm, dim)
        self.attn = ConvolutionalAttention(dim)
        self.drop_path = DropPath(drop_path)
        self.norm2 = normalisation(norm, dim)
        self.mlp = ConvMLP(dim, mlp_ratio * dim)
        self.layer_scale_1 = nn.Parameter(torch.full((dim,), LAYER_SCALE_START))
        self.layer_scale_2 = nn.Parameter(torch.full((dim,), LAYER_SCALE_START))
        self.freq_scale_1: nn.Module | None = None
        self.freq_scale_2: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = self._add_branch(x, self.attn(self.norm1(x)), self.freq_scale_1, self.layer_scale_1)
        return self._add_branch(x, self.mlp(self.norm2(x)), self.freq_scale_2, self.layer_scale_2)

    def _add_branch(self, x: Tensor, branch: Tensor, scale: nn.Module | None, gamma: Tensor) -> Tensor:
        if scale is not None:
            branch = scale(branch)
        return x + self.drop_path(gamma[:, None, None] * branch)


class PatchEmbedding(nn.Module):
    """The beginning of stages 2 to 4: half the map, normalised."""

    def __init__(self, in_chans: int, dim: int, *, norm: str):
        super().__init__()
        self.proj = halving(in_chans, dim)
        self.norm = normalisation(norm, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x))


class Stem(nn.Module):
    """The beginning of stage 1: a quarter of the image's size in two steps."""

    def __init__(self, in_chans: int, dim: int, *, norm: str):
        super().__init__()
        self.proj = nn.Sequential(halving(in_chans, dim // 2), normalisation(norm, dim // 2), nn.GELU(),
                                  halving(dim // 2, dim), normalisation(norm, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class MSCAN(FreezableBackbone):
    """Images (B, in_chans, H, W) -> res2 .. res5 at strides 4, 8, 16 and 32 (rounded up).

    size: T, S, B or L. embed_dims, depths: channels and blocks of the four stages; drop_path_rate: of the last block,
    it grows linearly from 0; where these are None, the size has them. norm: Detectron2's name of the normalisation in
    blocks and embeddings.

    Keys as published: ``patch_embed<s>``, ``block<s>.<i>``, ``norm<s>`` for stages s from 1 to 4. Raises ValueError for
    an unknown size and for other than four stages.

    >>> mscan = MSCAN(size="T")
    >>> sum(parameter.numel() for parameter in mscan.parameters())
    3903584
    >>> {name: tuple(feature_map.shape) for name, feature_map in mscan(torch.randn(2, 3, 65, 96)).items()}
    {'res2': (2, 32, 17, 24), 'res3': (2, 64, 9, 12), 'res4': (2, 160, 5, 6), 'res5': (2, 256, 3, 3)}
    """

    def __init__(self, size: str = "T", *, in_chans: int = 3, embed_dims: Sequence[int] | None = None,
                 depths: Sequence[int] | None = None, drop_path_rate: float | None = None, norm: str = "BN"):
        super().__init__()
        check_choice(tuple(SIZES), size=size)
        embed_dims = SIZES[size].embed_dims if embed_dims is None else embed_dims
        depths = SIZES[size].depths if depths is None else depths
        drop_path_rate = SIZES[size].drop_path_rate if drop_path_rate is None else drop_path_rate
        for name, values, least in (("embed_dims", embed_dims, 2), ("depths", depths, 1)):
            if len(values) != len(STAGE_NAMES) or min(values) < least:
                raise ArgumentError(name, f"must be four numbers from {least} on, one a stage, got {tuple(values)}")
        self.embed_dims = tuple(embed_dims)
        rates = iter(torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist())
        channels = (in_chans, *embed_dims)
        for stage, (dim, depth, mlp_ratio) in enumerate(zip(embed_dims, depths, MLP_RATIOS), start=1):
            begin = Stem if stage == 1 else PatchEmbedding
            self.add_module(f"patch_embed{stage}", begin(channels[stage - 1], dim, norm=norm))
            self.add_module(f"block{stage}", nn.ModuleList(
                MSCABlock(dim, mlp_ratio=mlp_ratio, norm=norm, drop_path=next(rates)) for _ in range(depth)))
            self.add_module(f"norm{stage}", nn.LayerNorm(dim))
        self.apply(initialize_convolution)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        maps = {}
        x = image
        for stage, name in enumerate(STAGE_NAMES, start=1):
            x = self.get_submodule(f"patch_embed{stage}")(x)
            for block in self.get_submodule(f"block{stage}"):
                x = block(x)
            grid = x.shape[2:]
            tokens = self.get_submodule(f"norm{stage}")(x.flatten(2).transpose(1, 2))
            maps[name] = x = tokens.transpose(1, 2).unflatten(2, grid).contiguous()
        return maps

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {name: ShapeSpec(channels=channels, stride=stride)
                for name, channels, stride in zip(STAGE_NAMES, self.embed_dims, STRIDES)}

    @property
    def size_divisibility(self) -> int:
        """Side lengths of which no level is rounded up."""
        return STRIDES[-1]

    def stage_parts(self) -> list[list[str]]:
        """See FreezableBackbone; the stem is the first embedding, the others begin their stage."""
        stages = [[f"patch_embed{s}", f"block{s}", f"norm{s}"] for s in range(1, len(STAGE_NAMES) + 1)]
        return [stages[0][:1], *stages]


def add_fdconv(mscan: MSCAN, *, kernel_num: int) -> None:
    """Replace convolutions by FDConv, in place; the network's function stays.

    Replaced are all that FDConv serves outside of the stem: the 1 × 1 ones of attention and MLP, the MLP's depth-wise
    3 × 3 ones, and those that begin stages 2 to 4. Strips and 5 × 5 kernels stay plain. Raises ValueError, with the
    convolution's name, for a ``kernel_num`` that does not fit.
    """
    convert_to_fdconv(mscan, kernel_num, lambda name, conv: not name.startswith("patch_embed1."))


def add_frequency_scale(mscan: MSCAN) -> None:
    """Put FDAM's frequency scaling into both branches of all blocks, in place, near neutral: there is no softmax
    attention to invert.

    Raises ValueError, with the block, for channels that are no multiple of 16.
    """
    for name, block in list(mscan.named_modules()):
        if isinstance(block, MSCABlock):
            dim, = block.layer_scale_1.shape
            with errors_in(name):
                block.freq_scale_1, block.freq_scale_2 = ResidualFrequencyScale(dim), ResidualFrequencyScale(dim)

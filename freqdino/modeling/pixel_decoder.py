"""Pixel decoder with a multi-scale deformable encoder; serves Mask2Former and Mask DINO.

Sources: Mask2Former (arXiv 2112.01527), section 3.2.2 and Mask DINO (arXiv 2206.02777), section 3.3, appendix A; where
learned fusions stand: FreqFusion's Mask2Former (arXiv 2408.12879).
B: batch, C: width of the decoder, H_l, W_l: size of level l, M: width of the mask features.
"""
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from itertools import pairwise, repeat

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from fvcore.nn.weight_init import c2_xavier_fill
from torch import Tensor, nn

from freqdino.errors import ArgumentError
from freqdino.frequency.argument_checks import check_choice
from freqdino.layers.deformable_attention import DeformableEncoder
from freqdino.layers.position_encoding import sine_position_map
from freqdino.ops.autocast import without_autocast

NORM_GROUPS = 32


def upsample_and_add(hr: Tensor, lr: Tensor) -> Tensor:
    """The plain fusion of a fine map (B, C, H, W) and a coarse one: bilinear upsampling to (H, W), then the sum."""
    return hr + F.interpolate(lr, size=hr.shape[-2:], mode="bilinear", align_corners=False)


class UpsampleAndAdd(nn.Module):
    """`upsample_and_add` where a list of modules needs one."""

    def forward(self, hr: Tensor, lr: Tensor) -> Tensor:
        return upsample_and_add(hr, lr)


class MultiScaleDeformablePixelDecoder(nn.Module):
    """Backbone maps -> mask features at stride ``common_stride`` and the encoded levels.

    The maps named in ``encoder_features`` are projected to ``conv_dim``; ``num_levels`` beyond their number asks for
    extra levels, each a stride-2 convolution of the one before. All levels go through the deformable encoder; a
    top-down path then adds the maps finer than the encoder's.

    ``order``: ``high2low`` lists the levels coarse to fine, ``low2high`` fine to coarse with the extra levels last. It
    also rules which ``input_proj`` belongs to which map. ``min_fpn_levels`` 1 keeps one step of the top-down path even
    where the encoder already reads the finest map, as Mask DINO does.

    ``make_fusion(coarse_stride, fine_stride)`` makes a module ``fuse(hr, lr)`` that turns a fine map (B, C, H, W) and
    the next coarser one into one map of the fine map's size. With it the levels are fused before the encoder, coarse to
    fine, each result being the next coarse map, and the top-down path fuses so instead of by `upsample_and_add`.

    ``make_modulation()`` makes the modules of one encoder layer that change its attention and its maps, by
    `DeformableEncoderLayer`'s argument names.

    ``full_precision`` computes it in float32 under autocast too, as published.

    Keys: ``input_proj.<i>``, ``transformer.{level_embed,encoder.layers.<i>}``, ``adapter_<i>``, ``layer_<i>``,
    ``mask_features``, and with ``make_fusion`` ``freqfusions.<i>``, counted from the coarsest pair of maps to the last
    step of the top-down path. Raises ValueError for an unknown order or map, for fewer levels than maps, and where no
    map has the stride or the width that is asked for.
    """

    def __init__(self, *, input_shape: Mapping[str, ShapeSpec], encoder_features: Sequence[str], conv_dim: int,
                 mask_dim: int, norm: str, num_layers: int, num_heads: int, dim_feedforward: int, dropout: float,
                 num_levels: int, order: str, common_stride: int, min_fpn_levels: int,
                 make_fusion: Callable[[int, int], nn.Module] | None = None,
                 make_modulation: Callable[[], Mapping[str, nn.Module]] = dict, full_precision: bool = False):
        super().__init__()
        check_choice(("high2low", "low2high"), order=order)
        self.full_precision = full_precision
        absent = [name for name in encoder_features if name not in input_shape]
        if absent or not encoder_features:
            raise ArgumentError("encoder_features",
                                f"names {absent or 'nothing'}, but the maps are {list(input_shape)}")
        if num_levels < len(encoder_features):
            raise ArgumentError("num_levels", f"is {num_levels}, fewer than the {len(encoder_features)} maps "
                                f"{list(encoder_features)}")
        if conv_dim % NORM_GROUPS:
            raise ArgumentError(
                "conv_dim", f"must be a multiple of {NORM_GROUPS}, the groups of its normalisation, got {conv_dim}")
        self.order = order

        fine_to_coarse = sorted(input_shape, key=lambda name: input_shape[name].stride)
        encoded = [name for name in fine_to_coarse if name in encoder_features]
        self.coarsest_feature = encoded[-1]
        self.encoder_features = encoded if order == "low2high" else encoded[::-1]
        channels = [input_shape[name].channels for name in self.encoder_features]
        extra_channels = [input_shape[encoded[-1]].channels] + [conv_dim] * (num_levels - len(encoded))
        self.input_proj = nn.ModuleList(
            [_projection(c, conv_dim, kernel_size=1) for c in channels]
            + [_projection(c, conv_dim, kernel_size=3, stride=2, padding=1)
               for c in extra_channels[:num_levels - len(encoded)]])

        self.transformer = nn.Module()
        self.transformer.level_embed = nn.Parameter(torch.empty(num_levels, conv_dim).normal_())
        self.transformer.encoder = DeformableEncoder(
            num_layers=num_layers, dim=conv_dim, num_heads=num_heads, num_levels=num_levels,
            dim_feedforward=dim_feedforward, dropout=dropout, make_modulation=make_modulation)

        finest_stride = input_shape[encoded[0]].stride
        num_fpn_levels = max(int(math.log2(finest_stride) - math.log2(common_stride)), min_fpn_levels)
        self.fpn_features = fine_to_coarse[:num_fpn_levels]
        mask_stride = min(input_shape[name].stride for name in (*self.fpn_features, *encoded))
        if mask_stride != common_stride:
            raise ArgumentError("common_stride", f"is {common_stride}, but the finest of the maps "
                                f"{list(input_shape)} has stride {mask_stride}")
        for i, name in enumerate(self.fpn_features, start=1):
            self.add_module(f"adapter_{i}", _conv(input_shape[name].channels, conv_dim, norm, kernel_size=1))
            self.add_module(f"layer_{i}", _conv(conv_dim, conv_dim, norm, kernel_size=3, padding=1, activation=F.relu))
        self.mask_features = Conv2d(conv_dim, mask_dim, kernel_size=1)
        c2_xavier_fill(self.mask_features)

        self.freqfusions = None
        if make_fusion is not None:
            coarse_to_fine = [input_shape[encoded[-1]].stride * 2 ** i for i in range(num_levels - len(encoded), 0, -1)]
            coarse_to_fine += [input_shape[name].stride for name in (*encoded[::-1], *self.fpn_features[::-1])]
            self.freqfusions = nn.ModuleList(make_fusion(coarse, fine) for coarse, fine in pairwise(coarse_to_fine))

    @property
    def num_levels(self) -> int:
        """How many levels it gives, the extra ones included."""
        return len(self.input_proj)

    def forward_features(self, features: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The name by which heads call a pixel decoder, as published; it calls the module."""
        return self(features)

    def forward(self, features: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """features: name -> (B, C_name, H, W); returns mask features (B, M, H, W), finest encoded level, all levels."""
        context = nullcontext()
        if self.full_precision:
            features = {name: x.float() for name, x in features.items()}
            context = without_autocast(features[self.coarsest_feature])
        with context:
            levels = self.encode(*self.project(features))
            finest = levels[0] if self.order == "low2high" else levels[-1]
            return self.mask_features(self.top_down(features, finest)), finest, levels

    def project(self, features: Mapping[str, Tensor]) -> tuple[list[Tensor], list[tuple[int, int]]]:
        """The levels (B, C, H_l, W_l) in encoder order, and the sizes in the order that the position maps follow.

        The two orders differ with two or more extra levels: the published code turns the extra maps round but not their
        positions, and the published weights were trained so.
        """
        maps = [proj(features[name]) for proj, name in zip(self.input_proj, self.encoder_features)]
        extra, x = [], features[self.coarsest_feature]
        for proj in self.input_proj[len(maps):]:
            x = proj(x)
            extra.append(x)

        low2high = self.order == "low2high"
        sizes = [tuple(x.shape[-2:]) for x in (maps + extra if low2high else extra + maps)]
        coarse_to_fine = extra[::-1] + (maps[::-1] if low2high else maps)
        if self.freqfusions is not None:
            coarse_to_fine = self.fuse_levels(coarse_to_fine)
        if not low2high:
            return coarse_to_fine, sizes
        return coarse_to_fine[len(extra):][::-1] + coarse_to_fine[:len(extra)], sizes

    def fuse_levels(self, levels: list[Tensor]) -> list[Tensor]:
        """Fuse maps (B, C, H_l, W_l), given coarse to fine, each with the result of the one before it."""
        fused = levels[:1]
        for fuse, level in zip(self.freqfusions, levels[1:]):
            fused.append(fuse(level, fused[-1]))
        return fused

    def encode(self, levels: list[Tensor], position_sizes: list[tuple[int, int]]) -> list[Tensor]:
        """Run the deformable encoder over the levels; same shapes out as in."""
        sizes = [tuple(level.shape[-2:]) for level in levels]
        tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)
        position = torch.cat([sine_position_map(*size, tokens.shape[-1], tokens.device).to(embedding.dtype) + embedding
                              for size, embedding in zip(position_sizes, self.transformer.level_embed)])
        tokens = self.transformer.encoder(tokens, position[None], sizes)
        return [level.transpose(1, 2).unflatten(2, size)
                for level, size in zip(tokens.split([h * w for h, w in sizes], dim=1), sizes)]

    def top_down(self, features: Mapping[str, Tensor], finest: Tensor) -> Tensor:
        """Fuse the maps finer than the encoder's, coarse to fine, with the finest encoded level (B, C, H, W)."""
        fusions = repeat(upsample_and_add) if self.freqfusions is None else self.freqfusions[self.num_levels - 1:]
        x = finest
        for i, fuse in zip(range(len(self.fpn_features), 0, -1), fusions):
            lateral = self.get_submodule(f"adapter_{i}")(features[self.fpn_features[i - 1]])
            x = self.get_submodule(f"layer_{i}")(fuse(lateral, x))
        return x


def _projection(in_channels: int, out_channels: int, **geometry) -> nn.Sequential:
    """Convolution with bias and GroupNorm; keys ``0.*``, ``1.*``."""
    convolution = nn.Conv2d(in_channels, out_channels, **geometry)
    nn.init.xavier_uniform_(convolution.weight, gain=1)
    nn.init.zeros_(convolution.bias)
    return nn.Sequential(convolution, nn.GroupNorm(NORM_GROUPS, out_channels))


def _conv(in_channels: int, out_channels: int, norm: str, **geometry) -> Conv2d:
    """Detectron2's convolution with norm and activation; the bias stands only where no norm does."""
    convolution = Conv2d(in_channels, out_channels, bias=norm == "", norm=get_norm(norm, out_channels), **geometry)
    c2_xavier_fill(convolution)
    return convolution

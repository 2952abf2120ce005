"""SegFormer's head: every map projected by itself, brought to the finest one's size and fused, all pixel by pixel.

Source: SegFormer (arXiv 2105.15203), section 3.2, in OpenMMLab's layout.
B: batch, C_l, H_l, W_l: width and size of level l.
"""
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from freqdino.errors import ArgumentError
from freqdino.modeling.semantic_head import SemanticHead, conv_norm_relu, resize


class SegFormerHead(SemanticHead):
    """Maps fine to coarse -> class scores at the finest one's stride.

    Keys: ``convs.<i>.{conv,bn}``, ``fusion_conv.{conv,bn}``, ``conv_seg``. The fusing convolution is linear, as is the
    resizing: each level goes through its part of the weight at its own size, and the sum of the resized results is what
    the convolution makes of the concatenated levels, with a third of the products and no map of all their channels.
    """

    def __init__(self, *, input_shape: Mapping[str, ShapeSpec], num_classes: int, channels: int, common_stride: int,
                 norm: str, dropout: float, ignore_value: int, loss_weight: float,
                 make_upsampler: Callable[[], nn.Module] | None = None):
        """
        Args:
            norm: Detectron2's name of the normalisation, "" for none.
            make_upsampler: makes a module ``upsample(hr, lr)``, both of ``channels``; None: bilinear resizing at once.
            others: see `SemanticHead`.
        Raises ValueError: with ``make_upsampler``, maps that are not a factor of two apart; what `SemanticHead` raises.
        """
        super().__init__(input_shape=input_shape, num_classes=num_classes, channels=channels,
                         common_stride=common_stride, dropout=dropout, ignore_value=ignore_value,
                         loss_weight=loss_weight)
        self.convs = nn.ModuleList(conv_norm_relu(shape.channels, channels, kernel_size=1, norm=norm)
                                   for shape in input_shape.values())
        self.fusion_conv = conv_norm_relu(len(input_shape) * channels, channels, kernel_size=1, norm=norm)
        self.upsamplers = None
        if make_upsampler is not None:
            strides = [shape.stride for shape in input_shape.values()]
            if any(coarse != 2 * fine for fine, coarse in pairwise(strides)):
                raise ArgumentError("input_shape", "must name maps of which each has twice the stride of the one before"
                                    f" for an upsampler, got {list(input_shape)} of strides {strides}")
            self.upsamplers = nn.ModuleList(nn.ModuleList(make_upsampler() for _ in range(level))
                                            for level in range(len(input_shape)))

    def decode(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, C_l, H_l, W_l), fine to coarse -> (B, channels, H_0, W_0)."""
        fusion, *norm_and_relu = self.fusion_conv
        weights = fusion.weight.chunk(len(maps), dim=1)
        projected = (conv(feature_map) for feature_map, conv in zip(maps, self.convs))
        if self.upsamplers is not None:
            projected = self._upsampled(list(projected))
        levels = [F.conv2d(feature_map, weight) for feature_map, weight in zip(projected, weights)]
        fused = levels[0] if fusion.bias is None else levels[0] + fusion.bias[:, None, None]
        for level in levels[1:]:
            fused = fused + (resize(level, like=fused) if self.upsamplers is None else level)
        for layer in norm_and_relu:
            fused = layer(fused)
        return fused

    def _upsampled(self, projected: Sequence[Tensor]) -> Iterator[Tensor]:
        """The levels at the finest one's size, (B, channels, H_0, W_0), step by step."""
        for level, (feature_map, upsamplers) in enumerate(zip(projected, self.upsamplers)):
            for guide, upsample in zip(reversed(projected[:level]), upsamplers):
                feature_map = upsample(guide, feature_map)
            yield feature_map

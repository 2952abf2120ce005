"""SegFormer's head: every map projected by itself, brought to the finest one's size and fused, all pixel by pixel.

Source: SegFormer (arXiv 2105.15203), section 3.2, in OpenMMLab's layout.
B: batch, C_l, H_l, W_l: width and size of level l.
"""
from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from freqdino.modeling.semantic_head import SemanticHead, conv_norm_relu, resize


class SegFormerHead(SemanticHead):
    """Maps fine to coarse -> class scores at the finest one's stride.

    Keys: ``convs.<i>.{conv,bn}``, ``fusion_conv.{conv,bn}``, ``conv_seg``. The fusing convolution is linear, as is the
    resizing: each level goes through its part of the weight at its own size, and the sum of the resized results is what
    the convolution makes of the concatenated levels, with a third of the products and no map of all their channels.
    """

    def __init__(self, *, input_shape: Mapping[str, ShapeSpec], num_classes: int, channels: int, common_stride: int,
                 norm: str, dropout: float, ignore_value: int, loss_weight: float):
        """
        Args:
            norm: Detectron2's name of the normalisation, "" for none.
            others: see `SemanticHead`, which also says what is raised.
        """
        super().__init__(input_shape=input_shape, num_classes=num_classes, channels=channels,
                         common_stride=common_stride, dropout=dropout, ignore_value=ignore_value,
                         loss_weight=loss_weight)
        self.convs = nn.ModuleList(conv_norm_relu(shape.channels, channels, kernel_size=1, norm=norm)
                                   for shape in input_shape.values())
        self.fusion_conv = conv_norm_relu(len(input_shape) * channels, channels, kernel_size=1, norm=norm)

    def decode(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, C_l, H_l, W_l), fine to coarse -> (B, channels, H_0, W_0)."""
        fusion, *norm_and_relu = self.fusion_conv
        weights = fusion.weight.chunk(len(maps), dim=1)
        levels = [F.conv2d(conv(feature_map), weight) for feature_map, conv, weight in zip(maps, self.convs, weights)]
        fused = levels[0] if fusion.bias is None else levels[0] + fusion.bias[:, None, None]
        for level in levels[1:]:
            fused = fused + resize(level, like=fused)
        for layer in norm_and_relu:
            fused = layer(fused)
        return fused

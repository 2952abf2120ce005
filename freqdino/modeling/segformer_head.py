"""SegFormer's head: every map projected by itself, brought to the finest one's size and fused, all pixel by pixel.

Source: SegFormer (arXiv 2105.15203), section 3.2, in OpenMMLab's layout.
B: batch, C_l, H_l, W_l: width and size of level l.
"""
from collections.abc import Mapping, Sequence

from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from freqdino.modeling.semantic_head import SemanticHead, conv_norm_relu, project_concatenated


class SegFormerHead(SemanticHead):
    """Maps fine to coarse -> class scores at the finest one's stride.

    Keys: ``convs.<i>.{conv,bn}``, ``fusion_conv.{conv,bn}``, ``conv_seg``.
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
        levels = [conv(feature_map) for conv, feature_map in zip(self.convs, maps)]
        return project_concatenated(self.fusion_conv, levels)

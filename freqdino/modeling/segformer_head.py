"""SegFormer's head: every map projected by itself, brought to the finest one's size and fused, all pixel by pixel.

Source: SegFormer (arXiv 2105.15203), section 3.2, in OpenMMLab's layout.
B: batch, C_l, H_l, W_l: width and size of level l.
"""
from collections.abc import Callable, Mapping, Sequence

from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from freqdino.errors import ArgumentError
from freqdino.modeling.semantic_head import SemanticHead, conv_norm_relu, project_concatenated, strides_double


class SegFormerHead(SemanticHead):
    """Maps fine to coarse -> class scores at the finest one's stride.

    Keys: ``convs.<i>.{conv,bn}``, ``fusion_conv.{conv,bn}``, ``conv_seg``.
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
            if not strides_double(input_shape):
                raise ArgumentError("input_shape", "must name maps of which each has twice the stride of the one before"
                                    f" for an upsampler, got {list(input_shape)} of strides {strides}")
            self.upsamplers = nn.ModuleList(nn.ModuleList(make_upsampler() for _ in range(level))
                                            for level in range(len(input_shape)))

    def decode(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, C_l, H_l, W_l), fine to coarse -> (B, channels, H_0, W_0)."""
        levels = [conv(feature_map) for conv, feature_map in zip(self.convs, maps)]
        return project_concatenated(self.fusion_conv, levels if self.upsamplers is None else self._upsampled(levels))

    def _upsampled(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """The levels at the finest one's size, (B, channels, H_0, W_0), step by step."""
        results = []
        for level, (feature_map, upsamplers) in enumerate(zip(levels, self.upsamplers)):
            for guide, upsample in zip(reversed(levels[:level]), upsamplers):
                feature_map = upsample(guide, feature_map)
            results.append(feature_map)
        return results

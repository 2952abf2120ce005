"""UPerNet's head: pyramid pooling of the coarsest map, a feature pyramid, one fusion of all its levels.

Source: UPerNet (arXiv 1807.10221), its scene parsing branch, in the layout and with the auxiliary head of OpenMMLab's.
B: batch, K: classes, C_l, H_l, W_l: width and size of level l.
"""
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch
from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from freqdino.errors import ArgumentError
from freqdino.modeling.semantic_head import SemanticHead, classifier, conv_norm_relu, pixel_cross_entropy, resize
from freqdino.ops.pooling import CellAverages


class UPerNetHead(SemanticHead):
    """Maps fine to coarse -> class scores at the finest one's stride; a small second head learns from the last but one.

    Keys: ``psp_modules.<i>.1``, ``bottleneck``, ``lateral_convs.<i>``, ``fpn_convs.<i>``, ``fpn_bottleneck``, each with
    ``conv`` and ``bn``; ``conv_seg``; ``auxiliary.{convs.0.conv,convs.0.bn,conv_seg}``, which training alone uses. The
    map pooled to one pixel is normalised too: batch normalisation needs two images or more in training.
    """

    def __init__(self, *, input_shape: Mapping[str, ShapeSpec], num_classes: int, channels: int, common_stride: int,
                 norm: str, pool_scales: Sequence[int], dropout: float, ignore_value: int, loss_weight: float,
                 auxiliary_channels: int, auxiliary_weight: float):
        """
        Args:
            norm: Detectron2's name of the normalisation, "" for none.
            pool_scales: numbers of cells along each side that the coarsest map is pooled into.
            auxiliary_channels: width of the auxiliary head.
            auxiliary_weight: factor of ``loss_sem_seg_aux``, on top of ``loss_weight``.
            others: see `SemanticHead`.
        Raises ValueError: fewer than two maps, or what `SemanticHead` raises.
        """
        super().__init__(input_shape=input_shape, num_classes=num_classes, channels=channels,
                         common_stride=common_stride, dropout=dropout, ignore_value=ignore_value,
                         loss_weight=loss_weight)
        *finer, coarsest = [shape.channels for shape in input_shape.values()]
        if not finer:
            raise ArgumentError("input_shape", f"must name two maps or more, got {list(input_shape)}")
        self.psp_modules = nn.ModuleList(
            nn.Sequential(CellAverages(scale), conv_norm_relu(coarsest, channels, kernel_size=1, norm=norm))
            for scale in pool_scales)
        self.bottleneck = conv_norm_relu(coarsest + len(pool_scales) * channels, channels, kernel_size=3, norm=norm)
        self.lateral_convs = nn.ModuleList(conv_norm_relu(width, channels, kernel_size=1, norm=norm) for width in finer)
        self.fpn_convs = nn.ModuleList(conv_norm_relu(channels, channels, kernel_size=3, norm=norm) for _ in finer)
        self.fpn_bottleneck = conv_norm_relu(len(input_shape) * channels, channels, kernel_size=3, norm=norm)

        self.auxiliary_stride = input_shape[self.in_features[-2]].stride
        self.auxiliary_weight = auxiliary_weight
        self.auxiliary = nn.Sequential(OrderedDict(
            convs=nn.Sequential(conv_norm_relu(finer[-1], auxiliary_channels, kernel_size=3, norm=norm)),
            dropout=nn.Dropout2d(dropout),
            conv_seg=classifier(auxiliary_channels, num_classes),
        ))

    def decode(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, C_l, H_l, W_l), fine to coarse -> (B, channels, H_0, W_0). Raises ValueError for batch normalisation
        of a single image in training."""
        *finer, coarsest = maps
        try:
            pooled = [resize(pool(coarsest), like=coarsest) for pool in self.psp_modules]
        except ValueError as error:         # torch's, about the map that is pooled to one pixel
            raise ArgumentError("norm", "is a batch normalisation, which needs two images a process or more in "
                                f"UPerNet's training: take more, or GN ({error})") from error
        level = self.bottleneck(torch.cat([coarsest, *pooled], dim=1))
        levels = [level]
        for fine, lateral, output in zip(reversed(finer), reversed(self.lateral_convs), reversed(self.fpn_convs)):
            side = lateral(fine)
            level = side + resize(level, like=side)
            levels.insert(0, output(level))
        finest, *coarser = levels
        return self.fpn_bottleneck(torch.cat([finest, *(resize(level, like=finest) for level in coarser)], dim=1))

    def losses(self, maps: Sequence[Tensor], targets: Tensor) -> dict[str, Tensor]:
        """name -> weighted loss, of both heads."""
        auxiliary = pixel_cross_entropy(self.auxiliary(maps[-2]), targets, stride=self.auxiliary_stride,
                                        ignore_value=self.ignore_value)
        return {**super().losses(maps, targets),
                "loss_sem_seg_aux": self.loss_weight * self.auxiliary_weight * auxiliary}

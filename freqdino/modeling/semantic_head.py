"""What the heads of Detectron2's SemanticSegmentor share: a score for every class and pixel, learned by cross-entropy.

Key names are those of OpenMMLab's heads (mmsegmentation), so that their published weights map by prefix.
B: batch, K: classes, H_l, W_l: size of level l, (H, W): size of the labels, which is the padded images'.
"""
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch.nn.functional as F
from detectron2.layers import ShapeSpec, get_norm
from fvcore.nn.weight_init import c2_msra_fill
from torch import Tensor, nn

from freqdino.errors import ArgumentError
from freqdino.frequency.argument_checks import check_counts
from freqdino.ops.modules import same_size


class SemanticHead(nn.Module, ABC):
    """Backbone maps -> losses or logits, as Detectron2's SemanticSegmentor calls its head. Key: ``conv_seg``.

    A subclass makes, in `decode`, one map of ``channels`` at the finest map's stride; dropout of whole channels and a
    1 × 1 convolution make class scores of it.
    """

    def __init__(self, *, input_shape: Mapping[str, ShapeSpec], num_classes: int, channels: int, common_stride: int,
                 dropout: float, ignore_value: int, loss_weight: float):
        """
        Args:
            input_shape: the maps that the head reads, fine to coarse.
            num_classes: K.
            channels: width of the head.
            common_stride: the finest map's stride, by which scores are brought to the images' size.
            dropout: share of channels that training leaves out before the classifier.
            ignore_value: label of the pixels that no loss counts.
            loss_weight: factor of ``loss_sem_seg``.
        Raises ValueError: no maps, maps in another order, another finest stride, or a number of classes or channels
        below 1.
        """
        super().__init__()
        strides = [shape.stride for shape in input_shape.values()]
        if not strides or any(fine > coarse for fine, coarse in pairwise(strides)):
            raise ArgumentError(
                "input_shape", f"must name maps from fine to coarse, got {list(input_shape)} of strides {strides}")
        if common_stride != strides[0]:
            raise ArgumentError("common_stride", f"is {common_stride}, but the finest map, "
                                f"{next(iter(input_shape))}, has stride {strides[0]}")
        check_counts(num_classes=num_classes, channels=channels)
        self.in_features = list(input_shape)
        self.common_stride = common_stride
        self.ignore_value = ignore_value
        self.loss_weight = loss_weight
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = classifier(channels, num_classes)

    @abstractmethod
    def decode(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, C_l, H_l, W_l), fine to coarse -> (B, channels, H_0, W_0)."""

    def forward(self, features: Mapping[str, Tensor], targets: Tensor | None = None) -> tuple[Tensor | None, dict]:
        """features: name -> (B, C_l, H_l, W_l); targets: labels (B, H, W) int64, in training.

        Training returns (None, {name: weighted loss}); evaluation (logits (B, K, H_0 · stride, W_0 · stride), {}),
        float32, which cover the padded images and may reach beyond them at the right and the bottom.
        Raises ValueError for training without targets, and for labels that are no class or beyond the maps.
        """
        maps = [features[name] for name in self.in_features]
        if not self.training:
            return upsample(self.logits(maps), self.common_stride), {}
        if targets is None:
            raise ValueError("training needs 'sem_seg', a label map of each image; the mapper gave none "
                             "(mask_former_semantic does)")
        self._check_labels(targets)
        return None, self.losses(maps, targets)

    def logits(self, maps: Sequence[Tensor]) -> Tensor:
        """Class scores (B, K, H_0, W_0)."""
        return self.conv_seg(self.dropout(self.decode(maps)))

    def losses(self, maps: Sequence[Tensor], targets: Tensor) -> dict[str, Tensor]:
        """name -> weighted loss."""
        loss = pixel_cross_entropy(self.logits(maps), targets, stride=self.common_stride,
                                   ignore_value=self.ignore_value)
        return {"loss_sem_seg": self.loss_weight * loss}

    def _check_labels(self, targets):
        num_classes = self.conv_seg.out_channels
        foreign = (targets != self.ignore_value) & ((targets < 0) | (targets >= num_classes))
        if foreign.any():
            raise ArgumentError("num_classes", f"is {num_classes} and ignore_value {self.ignore_value}, but a label "
                                f"map has the value {targets[foreign][0].item()}")


def upsample(logits: Tensor, stride: int) -> Tensor:
    """(B, K, h, w) -> (B, K, h · stride, w · stride) float32, bilinear: in half precision many classes would tie."""
    return F.interpolate(logits.float(), scale_factor=stride, mode="bilinear", align_corners=False)


def pixel_cross_entropy(logits: Tensor, targets: Tensor, *, stride: int, ignore_value: int) -> Tensor:
    """Mean cross-entropy of the labelled pixels, 0 where there are none.

    Args:
        logits: (B, K, h, w), brought to the labels' frame as in evaluation: each pixel made into stride × stride,
            cut at the right and the bottom.
        targets: (B, H, W) int64.
        stride: of the logits.
        ignore_value: label of a pixel that does not count.
    Raises ValueError: more labels than the logits cover.
    """
    height, width = targets.shape[-2:]
    scores = upsample(logits, stride)
    if scores.shape[-2] < height or scores.shape[-1] < width:
        raise ValueError(f"labels of {height}x{width} pixels, but maps of stride {stride} that cover "
                         f"{scores.shape[-2]}x{scores.shape[-1]}")
    total = F.cross_entropy(scores[..., :height, :width], targets, ignore_index=ignore_value, reduction="sum")
    return total / (targets != ignore_value).sum().clamp(min=1)


def resize(feature_map: Tensor, like: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, C, H, W), the size of ``like``, bilinear."""
    if same_size(feature_map.shape[-2:], like.shape[-2:]):
        return feature_map
    return F.interpolate(feature_map, size=like.shape[-2:], mode="bilinear", align_corners=False)


def conv_norm_relu(in_channels: int, out_channels: int, *, kernel_size: int, norm: str) -> nn.Sequential:
    """Convolution that keeps the size, Detectron2's normalisation of that name ("": none), ReLU; keys conv, bn."""
    layers = OrderedDict(conv=nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2,
                                        bias=norm == ""))
    c2_msra_fill(layers["conv"])
    if norm != "":
        layers["bn"] = get_norm(norm, out_channels)
    layers["relu"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)


def strides_double(input_shape: Mapping[str, ShapeSpec]) -> bool:
    """Whether each map has twice the stride of the one before it."""
    return all(coarse.stride == 2 * fine.stride for fine, coarse in pairwise(input_shape.values()))


def project_concatenated(projection: nn.Sequential, maps: Sequence[Tensor]) -> Tensor:
    """What a 1 × 1 `conv_norm_relu` makes of the maps, resized to the first one's size and concatenated.

    The convolution is linear, as is the resizing: each map (B, C_l, H_l, W_l) goes through its part of the weight at
    its own size, and the resized results are summed. So there are fewer products, and there is no map of all channels.
    """
    conv, *norm_and_relu = projection
    weights = conv.weight.split([feature_map.shape[1] for feature_map in maps], dim=1)
    levels = [F.conv2d(feature_map, weight) for feature_map, weight in zip(maps, weights)]
    projected = levels[0] if conv.bias is None else levels[0] + conv.bias[:, None, None]
    for level in levels[1:]:
        projected = projected + resize(level, like=projected)
    for layer in norm_and_relu:
        projected = layer(projected)
    return projected


def classifier(channels: int, num_classes: int) -> nn.Conv2d:
    """1 × 1 convolution to class scores that starts near zero."""
    conv = nn.Conv2d(channels, num_classes, kernel_size=1)
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.zeros_(conv.bias)
    return conv

"""The image-guided head of FreqFusion's Cityscapes models: masks at the input's size, made by filters that see edges.

Source: the Mask2Former of "Frequency-aware Feature Fusion for Dense Image Prediction", TPAMI 2024 (arXiv 2408.12879).
Twice in a row the masks are enlarged and then reassembled by 3 x 3 filters (CARAFE), which a convolution predicts from
a few channels of the mask features and from the high frequencies of the image.

B: batch, Q: queries, M: width of the mask features, G: channels of the guide, (h, w): size of a stage's input.
"""
import math
from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqdino.errors import ArgumentError
from freqdino.modeling.meta_architecture import MaskClassificationModel, SegmentationHead
from freqdino.modeling.prediction import Outputs
from freqdino.ops.backends import HasOperators
from freqdino.ops.carafe import TRITON, carafe

IMAGE = "image"
KERNEL = 3
GUIDE_CHANNELS = 4


class ImageGuidedModel(MaskClassificationModel):
    """A model that shows its head the input among the features."""

    def features(self, images: Tensor) -> Mapping[str, Tensor]:
        return {**super().features(images), IMAGE: images}


class ImageGuidedHead(SegmentationHead):
    """A head whose last masks have stride 1; those of the earlier predictions keep that of the mask features.

    ``mask_dim``: M. ``stride``: that of the mask features, a power of two from 2 on, otherwise ValueError.
    Keys beside `SegmentationHead`'s, as published: ``comp_conv.0``, ``IGU.up.<stage>``.
    """

    def __init__(self, *, pixel_decoder: nn.Module, predictor: nn.Module, mask_dim: int, stride: int):
        super().__init__(pixel_decoder=pixel_decoder, predictor=predictor)
        if stride < 2 or stride & (stride - 1):
            raise ArgumentError("stride", f"must be a power of two and at least 2, got {stride}")
        self.comp_conv = nn.Sequential(nn.Conv2d(mask_dim, GUIDE_CHANNELS, kernel_size=3, padding=1))
        self.IGU = ImageGuidedUpsampler(num_stages=int(math.log2(stride)))

    def forward(self, features: Mapping[str, Tensor], targets=None) -> Outputs:
        """As `SegmentationHead`, with the input (B, 3, H, W) itself as the map ``IMAGE`` among the features."""
        mask_features, _, levels = self.pixel_decoder.forward_features(features)
        outputs = self.predictor(levels, mask_features, targets)
        masks = self.IGU(outputs.last.masks, self.comp_conv(mask_features), features[IMAGE])
        return replace(outputs, last=replace(outputs.last, mask_embedding=None, mask_features=masks))


class ImageGuidedUpsampler(nn.Module):
    """``num_stages`` times twofold upsampling. Keys: ``up.<stage>.*``."""

    def __init__(self, *, num_stages: int):
        super().__init__()
        self.up = nn.ModuleList(ImageGuidedStage() for _ in range(num_stages))

    def forward(self, masks: Tensor, guide: Tensor, images: Tensor) -> Tensor:
        """masks (B, Q, h, w), guide (B, G, h, w), images (B, 3, H, W) -> masks of 2^num_stages times their size."""
        queries = masks.shape[1]
        maps = torch.cat([masks, guide], dim=1)
        for stage in self.up:
            maps = stage(maps, images)
        return maps[:, :queries]


class ImageGuidedStage(HasOperators, nn.Module):
    """One twofold upsampling of masks and guide. Keys: ``LPF``, ``extra_conv3``, ``content_encoder``."""

    kernel = TRITON

    def __init__(self):
        super().__init__()
        self.LPF = ImageHighPass()
        self.extra_conv3 = nn.Conv2d(3, 1, kernel_size=3, padding=1)
        self.content_encoder = nn.Conv2d(GUIDE_CHANNELS + 1, KERNEL**2, kernel_size=3, padding=1)

    def forward(self, maps: Tensor, images: Tensor) -> Tensor:
        """maps (B, Q + G, h, w), the guide last; images (B, 3, H, W) -> (B, Q + G, 2h, 2w)."""
        maps = F.interpolate(maps, scale_factor=2, mode="nearest")
        images = F.interpolate(images, size=maps.shape[-2:], mode="bilinear", align_corners=False)
        edges = self.extra_conv3(self.LPF(images))
        filters = self.content_encoder(torch.cat([maps[:, -GUIDE_CHANNELS:], edges], dim=1)).softmax(dim=1)
        return carafe(maps, filters, KERNEL, group=1, up=1, operators=self.operators)


class ImageHighPass(nn.Module):
    """What a learned 3 x 3 blur of each colour takes away; it starts as the mean of the window.

    Keys: ``weight``, the logits of the blur, and ``identity_kernel``, a frozen parameter as published.
    """

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, 1, KERNEL, KERNEL))
        identity = torch.zeros(1, 1, KERNEL, KERNEL)
        identity[..., KERNEL // 2, KERNEL // 2] = 1
        self.identity_kernel = nn.Parameter(identity, requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> the same; outside the image is zero."""
        blur = self.weight.flatten(1).softmax(dim=1).view_as(self.weight)
        return F.conv2d(images, self.identity_kernel - blur, padding=KERNEL // 2, groups=len(blur))

"""What FreqFusion is for, measured: consistent features inside a category, distinct ones across; and its filters.

Source: FreqFusion, "Frequency-aware Feature Fusion for Dense Image Prediction" (TPAMI 2024, arXiv 2408.12879): intra-
category similarity is the cosine between a pixel's features and its category's mean, the similarity margin what that
exceeds the largest cosine to another category's mean by.

B: batch, C: channels, H × W: map, G: up_group, k: filter size.
"""
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from freqdino.analysis.frequency.responses import check_token
from freqdino.frequency import FreqFusion
from freqdino.frequency.freqfusion.fusion import extend, make_filters


def category_similarity(features: Tensor, labels: Tensor) -> tuple[float, float]:
    """Means over the labelled pixels of intra-category similarity and similarity margin.

    features: (C, H, W). labels: (H, W), negative where there is none. NaN: both where no pixel is labelled, the margin
    with a single category.
    ValueError where the sizes differ.
    """
    if features.shape[1:] != labels.shape:
        raise ValueError(f"features are {tuple(features.shape[1:])} pixels, labels {tuple(labels.shape)}")
    labelled = labels >= 0
    pixels = features[:, labelled].mT
    categories, own = labels[labelled].unique(return_inverse=True)
    if len(categories) == 0:
        return math.nan, math.nan
    means = torch.zeros(len(categories), pixels.shape[1]).index_add_(0, own, pixels)     # cosines ignore the length
    cosines = F.normalize(pixels, dim=1) @ F.normalize(means, dim=1).mT
    intra = cosines.gather(1, own[:, None])[:, 0]
    if len(categories) == 1:
        return float(intra.mean()), math.nan
    others = cosines.scatter(1, own[:, None], -math.inf).amax(1)
    return float(intra.mean()), float((intra - others).mean())


def labels_on_map(labels: Tensor, image_size: tuple[int, int], padded_size: tuple[int, int],
                  map_size: tuple[int, int]) -> Tensor:
    """Labels (H, W) of a picture at the pixels of a feature map, by the nearest pixel.

    image_size: to which the picture was resized. padded_size: what the network saw, more at the right and bottom, where
    the label is -1. map_size: of the feature map. All (height, width). Returns ``map_size``.
    """
    resized = F.interpolate(labels[None, None].float(), image_size, mode="nearest-exact")
    bottom, right = (padded - size for padded, size in zip(padded_size, image_size))
    padded = F.pad(resized, (0, right, 0, bottom), value=-1)
    return F.interpolate(padded, map_size, mode="nearest-exact")[0, 0].long()


def fusion_kernels(unit: FreqFusion, hr: Tensor, lr: Tensor, point: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
    """The low-pass (G, k, k) and high-pass filters (G, k', k') at a pixel (y, x) of the high-resolution map.

    hr: (B, C, H, W), lr: the map of half the size, as ``unit`` takes them; of a batch the first image counts. The
    high-pass filter is the identity minus the smoothing that the unit subtracts; None without ``use_high_pass``.
    ValueError for a point outside.
    """
    y, x = point
    check_token(point, tuple(hr.shape[2:]))
    compressed = unit.hr_channel_compressor(hr), unit.lr_channel_compressor(extend(lr, hr.shape[2:]))
    _, low_logits, high_logits = unit._initial_fusion(*compressed)      # where the unit itself takes its filters from

    def at_point(logits: Tensor, window: Tensor, size: int) -> Tensor:
        return make_filters(logits, window, unit.up_group)[0, :, y, x].view(-1, size, size)

    low = at_point(low_logits, unit.hamming_lowpass, unit.lowpass_kernel)
    if not unit.use_high_pass:
        return low, None
    high = -at_point(high_logits, unit.hamming_highpass, unit.highpass_kernel)
    high[:, unit.highpass_kernel // 2, unit.highpass_kernel // 2] += 1
    return low, high

"""Upsamplers by the values of MODEL.FPN.UPSAMPLER and MODEL.SEM_SEG_HEAD.UPSAMPLER.

Source of the comparison: FreqFusion (arXiv 2408.12879), whose paper has them in Faster R-CNN, Mask R-CNN, Panoptic FPN
and SegFormer.
"""
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from detectron2.config import CfgNode
from torch import nn

from freqdino.config import lookup
from freqdino.errors import ConfigError
from freqdino.frequency.freqfusion.fusion import FreqFusion, FreqFusionSum
from freqdino.frequency.freqfusion.in_heads import FreqFusionUpsample
from freqdino.frequency.rivals import A2U, CARAFE, FADE, SAPAB, SAPAD, DySample, FADELite, IndexNet
from freqdino.frequency.rivals.unguided import Deconvolution, Interpolation, PixelShuffle
from freqdino.frequency.rivals.upsampler import Upsampler, as_fusion

# Value of the keys -> what makes an upsampler of maps of so many channels.
UPSAMPLERS: dict[str, Callable[..., Upsampler]] = {
    "nearest": partial(Interpolation, mode="nearest"),
    "bilinear": partial(Interpolation, mode="bilinear"),
    "deconv": Deconvolution,
    "pixelshuffle": PixelShuffle,
    "carafe": CARAFE,
    "indexnet": IndexNet,
    "a2u": partial(A2U, odd_sides=True),
    "fade": FADE,
    "fade_lite": FADELite,
    "sapa_b": SAPAB,
    "sapa_d": SAPAD,
    "dysample_static": DySample,
    "dysample": partial(DySample, groups=4, dynamic_scope=True),                        # the tables' DySample+
    "dysample_s": partial(DySample, groups=8, shuffle_first=True, dynamic_scope=True),  # their DySample-S+
}
FREQFUSION = "freqfusion"       # the value that stands for `freqfusion`
Fusion = TypeVar("Fusion", bound=FreqFusion)


def freqfusion(kind: type[Fusion], channels: int) -> Fusion:
    """FreqFusion as its Mask2Former has it: 104,434 parameters at 256 channels, +0.3 M for the three of a pyramid.

    Known of the published detectors is that cost: it tells that the offset generator is in use (without it: +0.2 M),
    but not whether its guides are normalised and the filters windowed. That they are not is our reading. A pyramid that
    learns from random weights then needs a normalisation, MODEL.FPN.NORM GN: without it its maps, and with them the
    offsets, grow until the coarse levels are sampled at their borders.
    """
    return kind(channels, channels, compressed_channels=channels // 4, feature_resample=True, hamming_window=False,
                feature_resample_norm=False)


def fusion_maker(cfg: CfgNode, key: str, *, channels: int) -> Callable[[], nn.Module]:
    """What makes the fusions of two levels, ``fuse(hr, lr)``, by the key's value. ConfigError for one that is none."""
    if lookup(cfg, key) == FREQFUSION:
        return partial(freqfusion, FreqFusionSum, channels)
    make = rival_maker(cfg, key, channels=channels)
    return lambda: as_fusion(make())


def upsampler_maker(cfg: CfgNode, key: str, *, channels: int) -> Callable[[], nn.Module]:
    """What makes the upsamplers, ``upsample(hr, lr)``, by the key's value. ConfigError for one that is none."""
    if lookup(cfg, key) == FREQFUSION:
        return partial(freqfusion, FreqFusionUpsample, channels)
    return rival_maker(cfg, key, channels=channels)


def rival_maker(cfg: CfgNode, key: str, *, channels: int) -> Callable[[], Upsampler]:
    """The same of the values beside FREQFUSION."""
    name = lookup(cfg, key)
    if name not in UPSAMPLERS:
        raise ConfigError(f"{key} is {name!r}; known are {', '.join((FREQFUSION, *UPSAMPLERS))}")
    return partial(UPSAMPLERS[name], hr_channels=channels, lr_channels=channels)

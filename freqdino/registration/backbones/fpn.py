"""Feature pyramids on Detectron2's ResNet, for its own detectors: MODEL.FPN.UPSAMPLER chooses how levels are fused.

Sources: FreqFusion's Faster R-CNN, Mask R-CNN and Panoptic FPN (arXiv 2408.12879) and FDConv's Faster and Mask R-CNN
(arXiv 2503.18783).
"""
from functools import partial

from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from ...config import CHECKS, ConfigError
from ...frequency.freqfusion_sum import FreqFusionSum
from ...frequency.upsamplers import CarafeSum, DeconvolutionSum, DySampleSum, InterpolationSum, PixelShuffleSum
from ...modeling.backbones.fpn import FusionFPN
from ..config_errors import errors_about
from .resnet import resnet_backbone
from .switches import reads


def freqfusion(channels: int) -> FreqFusionSum:
    """FreqFusion as its Mask2Former has it: 104,434 parameters at 256 channels, +0.3 M for the three of a pyramid.

    Known of the published detectors is that cost: it tells that the offset generator is in use (without it: +0.2 M),
    but not whether its guides are normalised and the filters windowed. That they are not is our reading. A pyramid that
    learns from random weights then needs a normalisation, MODEL.FPN.NORM GN: without it its maps, and with them the
    offsets, grow until the coarse levels are sampled at their borders.
    """
    return FreqFusionSum(channels, channels, compressed_channels=channels // 4, feature_resample=True,
                         hamming_window=False, feature_resample_norm=False)


# Value of MODEL.FPN.UPSAMPLER -> what makes the fusion of two levels of so many channels.
UPSAMPLERS = {
    "freqfusion": freqfusion,
    "nearest": lambda channels: InterpolationSum("nearest"),
    "bilinear": lambda channels: InterpolationSum("bilinear"),
    "deconv": DeconvolutionSum,
    "pixelshuffle": PixelShuffleSum,
    "carafe": CarafeSum,
    "dysample": partial(DySampleSum, groups=4, shuffle_first=False),      # the table's DySample+
    "dysample_s": partial(DySampleSum, groups=8, shuffle_first=True),     # its DySample-S+
}


def check_upsampler(cfg) -> None:
    """Raise ConfigError for an upsampler that the backbone does not read.

    The default is let through, and what Detectron2's backbones do anyway.
    """
    name, upsampler = cfg.MODEL.BACKBONE.NAME, cfg.MODEL.FPN.UPSAMPLER
    if name != "build_resnet_freqfusion_fpn_backbone" and upsampler not in ("freqfusion", "nearest"):
        raise ConfigError(f"MODEL.FPN.UPSAMPLER is {upsampler}, but the backbone {name} does not read it; set "
                          "MODEL.BACKBONE.NAME to build_resnet_freqfusion_fpn_backbone")


CHECKS.append(check_upsampler)


@reads("FDCONV", "FDAM")
@BACKBONE_REGISTRY.register()
def build_resnet_freqfusion_fpn_backbone(cfg, input_shape):
    """Detectron2's build_resnet_fpn_backbone with MODEL.FPN.UPSAMPLER in its top-down path.

    Reads Detectron2's keys of ResNet and FPN, and MODEL.BACKBONE.{FDCONV,FDAM}.ENABLED for the ResNet. With "nearest"
    and without these it is Detectron2's own.
    """
    options = cfg.MODEL.FPN
    if options.UPSAMPLER not in UPSAMPLERS:
        raise ConfigError(f"MODEL.FPN.UPSAMPLER is {options.UPSAMPLER!r}; known are {', '.join(UPSAMPLERS)}")
    bottom_up = resnet_backbone(cfg, input_shape)
    with errors_about("MODEL.FPN"):
        return FusionFPN(
            bottom_up=bottom_up,
            in_features=options.IN_FEATURES,
            out_channels=options.OUT_CHANNELS,
            norm=options.NORM,
            top_block=LastLevelMaxPool(),
            fuse_type=options.FUSE_TYPE,
            make_fusion=partial(UPSAMPLERS[options.UPSAMPLER], options.OUT_CHANNELS),
        )

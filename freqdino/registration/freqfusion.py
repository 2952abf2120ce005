"""MODEL.SEM_SEG_HEAD.FREQFUSION.* -> the fusions of a pixel decoder.

Source: Chen et al., "Frequency-aware Feature Fusion for Dense Image Prediction", TPAMI 2024 (arXiv 2408.12879).
"""
from collections.abc import Callable

from torch import nn

from ..config import ConfigError
from ..frequency.freqfusion_sum import FreqFusionSum
from ..modeling.pixel_decoder import UpsampleAndAdd
from .config_errors import errors_about

KEY = "MODEL.SEM_SEG_HEAD.FREQFUSION"


def freqfusion_maker(cfg) -> Callable[[int, int], nn.Module] | None:
    """What makes the fusion of two neighbouring levels, given their strides, coarse first; None where it is off.

    Levels of one stride simply add. Raises ConfigError for options that make no FreqFusion; so does what it returns for
    levels that are further apart than a factor of two.
    """
    options, channels = cfg.MODEL.SEM_SEG_HEAD.FREQFUSION, cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM
    if not options.ENABLED:
        return None

    def make(coarse_stride: int, fine_stride: int) -> nn.Module:
        if coarse_stride == fine_stride:
            return UpsampleAndAdd()
        if coarse_stride != 2 * fine_stride:
            raise ConfigError(f"{KEY}.ENABLED fuses levels of which one has twice the stride of the other, but strides "
                              f"{coarse_stride} and {fine_stride} are neighbours here; leave no map out between those "
                              "of IN_FEATURES and DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES")
        compressed = channels // 4 if options.COMPRESSED_CHANNELS is None else options.COMPRESSED_CHANNELS
        with errors_about(KEY):
            return FreqFusionSum(
                channels,
                channels,
                lowpass_kernel=options.LOWPASS_KERNEL,
                highpass_kernel=options.HIGHPASS_KERNEL,
                compressed_channels=compressed,
                feature_resample=options.FEATURE_RESAMPLE,
                hamming_window=False,
                feature_resample_norm=False,
                checkpoint=options.CHECKPOINT,
            )

    return make


def check_units(cfg, decoder: nn.Module) -> None:
    """Raise ConfigError where FreqFusion is on but no two levels of the decoder are there to be fused by it."""
    head = cfg.MODEL.SEM_SEG_HEAD
    if head.FREQFUSION.ENABLED and not any(isinstance(unit, FreqFusionSum) for unit in decoder.freqfusions):
        maps = list(head.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES)
        raise ConfigError(f"{KEY}.ENABLED needs two neighbouring levels, but the encoder reads {maps} alone and no "
                          "finer map follows; name more maps in DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES")

"""Pixel decoders by their registry names, with FreqFusion and FDAM where the head's switches ask for them; and the
registry of the transformer decoders that follow.

Sources: FreqFusion (TPAMI 2024, arXiv 2408.12879) in the top-down path; FDAM (ICCV 2025, arXiv 2507.12006), the rows of
Mask DINO, in the deformable encoder. No code was published for the latter; this is our reading: the value at a token
minus what its query attended to, gates from the query, scaling of each level's map.
"""
from collections.abc import Callable
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from detectron2.utils.registry import Registry
from torch import nn

from freqdino.errors import ConfigError
from freqdino.frequency import InversionGates, ResidualFrequencyScale
from freqdino.frequency.freqfusion.fusion import FreqFusionSum
from freqdino.modeling.pixel_decoder import MultiScaleDeformablePixelDecoder, UpsampleAndAdd
from freqdino.registration.binding import build, head_inputs, register, switched_on, upper

FREQFUSION = "MODEL.SEM_SEG_HEAD.FREQFUSION"
FREQFUSION_KEYS = upper("lowpass_kernel", "highpass_kernel", "compressed_channels", "feature_resample", "checkpoint")
TRANSFORMER_DECODER_REGISTRY = Registry("TRANSFORMER_DECODER")
TRANSFORMER_DECODER_REGISTRY.__doc__ = """
Transformer decoders by the name under MODEL.<family>.TRANSFORMER_DECODER_NAME. The object is called with
``obj(cfg, in_channels)`` and returns a module with the call of `freqdino.modeling.meta_architecture.SegmentationHead`.
"""


def build_pixel_decoder(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> nn.Module:
    """The pixel decoder named by MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME, reading the maps of IN_FEATURES."""
    head = cfg.MODEL.SEM_SEG_HEAD
    shapes = head_inputs(cfg, input_shape)
    if head.PIXEL_DECODER_NAME not in SEM_SEG_HEADS_REGISTRY:
        known = [name for name, _ in SEM_SEG_HEADS_REGISTRY]
        raise ConfigError(f"MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME is {head.PIXEL_DECODER_NAME!r}; registered are "
                          f"{known}")
    decoder = SEM_SEG_HEADS_REGISTRY.get(head.PIXEL_DECODER_NAME)(cfg, shapes)
    if head.FREQFUSION.ENABLED and not hasattr(decoder, "freqfusions"):
        raise ConfigError(f"MODEL.SEM_SEG_HEAD.FREQFUSION.ENABLED is True, but {head.PIXEL_DECODER_NAME} does not read "
                          "it; the pixel decoders MSDeformAttnPixelDecoder and MaskDINOEncoder do")
    check_fdam(cfg, decoder)
    return decoder


@register(SEM_SEG_HEADS_REGISTRY, "MSDeformAttnPixelDecoder")
def build_ms_deform_attn_pixel_decoder(cfg: CfgNode, input_shape: dict[str, ShapeSpec]
                                       ) -> MultiScaleDeformablePixelDecoder:
    """Mask2Former's: levels coarse to fine, encoder feed-forward width 1024."""
    return _multi_scale_deformable(
        cfg, input_shape, "MASK_FORMER",
        dim_feedforward=1024,
        num_levels=len(cfg.MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES),
        order="high2low",
        min_fpn_levels=0,
    )


@register(SEM_SEG_HEADS_REGISTRY, "MaskDINOEncoder")
def build_mask_dino_encoder(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> MultiScaleDeformablePixelDecoder:
    """Mask DINO's: extra levels, either order, and one step of the top-down path in any case."""
    head = cfg.MODEL.SEM_SEG_HEAD
    return _multi_scale_deformable(
        cfg, input_shape, "MaskDINO",
        dim_feedforward=head.DIM_FEEDFORWARD,
        num_levels=head.TOTAL_NUM_FEATURE_LEVELS,
        order=head.FEATURE_ORDER,
        min_fpn_levels=1,
    )


@register(SEM_SEG_HEADS_REGISTRY, "FreqAwareMSDeformAttnPixelDecoder")
@register(SEM_SEG_HEADS_REGISTRY, "FreqAwareMSDeformAttnPixelDecoder2")
def build_freq_aware_pixel_decoder(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> MultiScaleDeformablePixelDecoder:
    """The published names of Mask2Former's decoder with MODEL.SEM_SEG_HEAD.FREQFUSION.ENABLED.

    The one without the 2 is that of the published ADE20K R50 configuration; the published code has none of that name.
    """
    return build_ms_deform_attn_pixel_decoder(switched_on(cfg, FREQFUSION), input_shape)


def _multi_scale_deformable(cfg: CfgNode, input_shape: dict[str, ShapeSpec], section: str, **family_arguments: Any
                            ) -> MultiScaleDeformablePixelDecoder:
    keys = upper("mask_dim", "norm", "common_stride", "full_precision") | {
        "encoder_features": "DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES", "num_layers": "TRANSFORMER_ENC_LAYERS",
        "conv_dim": "CONVS_DIM", "num_heads": f"MODEL.{section}.NHEADS", "dropout": f"MODEL.{section}.DROPOUT"}
    names = {"num_levels": "TOTAL_NUM_FEATURE_LEVELS", "order": "FEATURE_ORDER"}
    decoder = build(MultiScaleDeformablePixelDecoder, cfg, "MODEL.SEM_SEG_HEAD", keys, names, input_shape=input_shape,
                    make_fusion=freqfusion_maker(cfg), make_modulation=encoder_modulation_maker(
                        cfg, num_heads=cfg.MODEL[section].NHEADS), **family_arguments)
    check_freqfusion(cfg, decoder)
    return decoder


def freqfusion_maker(cfg: CfgNode) -> Callable[[int, int], nn.Module] | None:
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
            raise ConfigError(f"{FREQFUSION}.ENABLED fuses levels of which one has twice the stride of the other, but "
                              f"strides {coarse_stride} and {fine_stride} are neighbours here; leave no map out "
                              "between those of IN_FEATURES and DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES")
        narrow = {"compressed_channels": channels // 4} if options.COMPRESSED_CHANNELS is None else {}
        return build(FreqFusionSum, cfg, FREQFUSION, FREQFUSION_KEYS, hr_channels=channels, lr_channels=channels,
                     hamming_window=False, feature_resample_norm=False, **narrow)

    return make


def check_freqfusion(cfg: CfgNode, decoder: MultiScaleDeformablePixelDecoder) -> None:
    """Raise ConfigError where FreqFusion is on but no two levels of the decoder are there to be fused by it."""
    head = cfg.MODEL.SEM_SEG_HEAD
    if head.FREQFUSION.ENABLED and not any(isinstance(unit, FreqFusionSum) for unit in decoder.freqfusions or ()):
        maps = list(head.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES)
        raise ConfigError(f"{FREQFUSION}.ENABLED needs two neighbouring levels, but the encoder reads {maps} alone and "
                          "no finer map follows; name more maps in DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES")


def encoder_modulation_maker(cfg: CfgNode, *, num_heads: int) -> Callable[[], dict[str, nn.Module]]:
    """What makes one encoder layer's modules: none where FDAM is off."""
    if not cfg.MODEL.SEM_SEG_HEAD.FDAM.ENABLED:
        return dict
    dim = cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM

    def make() -> dict[str, nn.Module]:
        return {"invert": InversionGates(dim, num_heads), "freq_scale_1": ResidualFrequencyScale(dim),
                "freq_scale_2": ResidualFrequencyScale(dim)}

    return make


def check_fdam(cfg: CfgNode, decoder: nn.Module) -> None:
    """Raise ConfigError where FDAM is on but no layer of the pixel decoder has it."""
    head = cfg.MODEL.SEM_SEG_HEAD
    if head.FDAM.ENABLED and not any(isinstance(module, InversionGates) for module in decoder.modules()):
        raise ConfigError(f"MODEL.SEM_SEG_HEAD.FDAM.ENABLED is True, but the pixel decoder {head.PIXEL_DECODER_NAME} "
                          f"with TRANSFORMER_ENC_LAYERS {head.TRANSFORMER_ENC_LAYERS} has no attention to put it into; "
                          "MSDeformAttnPixelDecoder and MaskDINOEncoder with at least one layer have")

"""Pixel decoders by their registry names, and the registry of the transformer decoders that follow them."""
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from detectron2.utils.registry import Registry

from ..config import ConfigError
from ..modeling.pixel_decoder import MultiScaleDeformablePixelDecoder
from .config_errors import errors_about
from .fdam import check_encoder, encoder_modulation_maker
from .freqfusion import check_units, freqfusion_maker
from .head_inputs import head_inputs

TRANSFORMER_DECODER_REGISTRY = Registry("TRANSFORMER_DECODER")
TRANSFORMER_DECODER_REGISTRY.__doc__ = """
Transformer decoders by the name under MODEL.<family>.TRANSFORMER_DECODER_NAME. The object is called with
``obj(cfg, in_channels)`` and returns a module with the call of `freqdino.modeling.meta_architecture.SegmentationHead`.
"""


def build_pixel_decoder(cfg, input_shape):
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
    check_encoder(cfg, decoder)
    return decoder


@SEM_SEG_HEADS_REGISTRY.register()
def MSDeformAttnPixelDecoder(cfg, input_shape):
    """Mask2Former's: levels coarse to fine, encoder feed-forward width 1024."""
    return _multi_scale_deformable(
        cfg, input_shape, "MASK_FORMER",
        dim_feedforward=1024,
        num_levels=len(cfg.MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES),
        order="high2low",
        min_fpn_levels=0,
    )


@SEM_SEG_HEADS_REGISTRY.register()
def MaskDINOEncoder(cfg, input_shape):
    """Mask DINO's: extra levels, either order, and one step of the top-down path in any case."""
    head = cfg.MODEL.SEM_SEG_HEAD
    return _multi_scale_deformable(
        cfg, input_shape, "MaskDINO",
        dim_feedforward=head.DIM_FEEDFORWARD,
        num_levels=head.TOTAL_NUM_FEATURE_LEVELS,
        order=head.FEATURE_ORDER,
        min_fpn_levels=1,
    )


@SEM_SEG_HEADS_REGISTRY.register()
def FreqAwareMSDeformAttnPixelDecoder2(cfg, input_shape):
    """The published name of Mask2Former's decoder with MODEL.SEM_SEG_HEAD.FREQFUSION.ENABLED."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.SEM_SEG_HEAD.FREQFUSION.ENABLED = True
    return MSDeformAttnPixelDecoder(cfg, input_shape)


@SEM_SEG_HEADS_REGISTRY.register()
def FreqAwareMSDeformAttnPixelDecoder(cfg, input_shape):
    """The same; the published ADE20K R50 configuration names it, though the published code has none of that name."""
    return FreqAwareMSDeformAttnPixelDecoder2(cfg, input_shape)


def _multi_scale_deformable(cfg, input_shape, section: str, **family_arguments) -> MultiScaleDeformablePixelDecoder:
    head, family = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL[section]
    keys = {"encoder_features": "DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES", "num_levels": "TOTAL_NUM_FEATURE_LEVELS",
            "order": "FEATURE_ORDER", "conv_dim": "CONVS_DIM", "dim": "CONVS_DIM", "common_stride": "COMMON_STRIDE",
            "num_heads": f"MODEL.{section}.NHEADS"}
    with errors_about("MODEL.SEM_SEG_HEAD", **keys):
        decoder = MultiScaleDeformablePixelDecoder(
            input_shape=input_shape,
            encoder_features=head.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES,
            conv_dim=head.CONVS_DIM,
            mask_dim=head.MASK_DIM,
            norm=head.NORM,
            num_layers=head.TRANSFORMER_ENC_LAYERS,
            num_heads=family.NHEADS,
            dropout=family.DROPOUT,
            common_stride=head.COMMON_STRIDE,
            make_fusion=freqfusion_maker(cfg),
            make_modulation=encoder_modulation_maker(cfg, num_heads=family.NHEADS),
            **family_arguments,
        )
    check_units(cfg, decoder)
    return decoder

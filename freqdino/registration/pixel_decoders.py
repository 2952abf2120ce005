"""Pixel decoders by their registry names, and the registry of the transformer decoders that follow them."""
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from detectron2.utils.registry import Registry

from ..config import ConfigError
from ..modeling.pixel_decoder import MultiScaleDeformablePixelDecoder

TRANSFORMER_DECODER_REGISTRY = Registry("TRANSFORMER_DECODER")
TRANSFORMER_DECODER_REGISTRY.__doc__ = """
Transformer decoders by the name under MODEL.<family>.TRANSFORMER_DECODER_NAME. The object is called with
``obj(cfg, in_channels)`` and returns a module with the call of `freqdino.modeling.meta_architecture.SegmentationHead`.
"""


def build_pixel_decoder(cfg, input_shape):
    """The pixel decoder named by MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME, reading the maps of IN_FEATURES."""
    head = cfg.MODEL.SEM_SEG_HEAD
    absent = [name for name in head.IN_FEATURES if name not in input_shape]
    if absent:
        raise ConfigError(f"MODEL.SEM_SEG_HEAD.IN_FEATURES names {absent}, but {cfg.MODEL.BACKBONE.NAME} gives "
                          f"{list(input_shape)}; set IN_FEATURES or the backbone's OUT_FEATURES")
    if head.PIXEL_DECODER_NAME not in SEM_SEG_HEADS_REGISTRY:
        known = [name for name, _ in SEM_SEG_HEADS_REGISTRY]
        raise ConfigError(f"MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME is {head.PIXEL_DECODER_NAME!r}; registered are {known}")
    shapes = {name: input_shape[name] for name in head.IN_FEATURES}
    return SEM_SEG_HEADS_REGISTRY.get(head.PIXEL_DECODER_NAME)(cfg, shapes)


@SEM_SEG_HEADS_REGISTRY.register()
def MSDeformAttnPixelDecoder(cfg, input_shape):
    """Mask2Former's: levels coarse to fine, encoder feed-forward width 1024."""
    family, head = cfg.MODEL.MASK_FORMER, cfg.MODEL.SEM_SEG_HEAD
    return MultiScaleDeformablePixelDecoder(
        input_shape=input_shape,
        encoder_features=head.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES,
        conv_dim=head.CONVS_DIM,
        mask_dim=head.MASK_DIM,
        norm=head.NORM,
        num_layers=head.TRANSFORMER_ENC_LAYERS,
        num_heads=family.NHEADS,
        dim_feedforward=1024,
        dropout=family.DROPOUT,
        num_levels=len(head.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES),
        order="high2low",
        common_stride=head.COMMON_STRIDE,
        min_fpn_levels=0,
    )


@SEM_SEG_HEADS_REGISTRY.register()
def MaskDINOEncoder(cfg, input_shape):
    """Mask DINO's: extra levels, either order, and one step of the top-down path in any case."""
    family, head = cfg.MODEL.MaskDINO, cfg.MODEL.SEM_SEG_HEAD
    return MultiScaleDeformablePixelDecoder(
        input_shape=input_shape,
        encoder_features=head.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES,
        conv_dim=head.CONVS_DIM,
        mask_dim=head.MASK_DIM,
        norm=head.NORM,
        num_layers=head.TRANSFORMER_ENC_LAYERS,
        num_heads=family.NHEADS,
        dim_feedforward=head.DIM_FEEDFORWARD,
        dropout=family.DROPOUT,
        num_levels=head.TOTAL_NUM_FEATURE_LEVELS,
        order=head.FEATURE_ORDER,
        common_stride=head.COMMON_STRIDE,
        min_fpn_levels=1,
    )

"""Mask2Former by its registry names: meta-architectures, heads and transformer decoder."""
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY

from freqdino.errors import ConfigError
from freqdino.modeling.criterion import SetCriterion
from freqdino.modeling.image_guided_head import ImageGuidedHead, ImageGuidedModel
from freqdino.modeling.losses import softmax_class_cost
from freqdino.modeling.mask2former_decoder import MultiScaleMaskedTransformerDecoder
from freqdino.modeling.matcher import HungarianMatcher
from freqdino.modeling.meta_architecture import MaskClassificationModel, SegmentationHead
from freqdino.modeling.post_processing import SoftmaxScores
from freqdino.registration.binding import build, register, upper
from freqdino.registration.model_parts import CRITERION_KEYS, DECODER_KEYS, MATCHER_KEYS, build_family, head_parts
from freqdino.registration.pixel_decoders import TRANSFORMER_DECODER_REGISTRY

SECTION = "MODEL.MASK_FORMER"


@register(META_ARCH_REGISTRY, "MaskFormer")
def build_mask2former(cfg: CfgNode) -> MaskClassificationModel:
    """MODEL.MASK_FORMER.* -> Mask2Former."""
    return _mask_former(cfg, MaskClassificationModel, "MaskFormerHead")


@register(META_ARCH_REGISTRY, "MaskFormerFreqAware")
def build_image_guided_mask2former(cfg: CfgNode) -> MaskClassificationModel:
    """The published name of Mask2Former with the image-guided head, `MaskFormerHeadFreqAware`."""
    return _mask_former(cfg, ImageGuidedModel, "MaskFormerHeadFreqAware")


def _mask_former(cfg, model_class, head_name):
    return build_family(cfg, SECTION, head_name, model_class, criterion=_criterion(cfg), scores=SoftmaxScores())


def _criterion(cfg):
    family = cfg.MODEL.MASK_FORMER
    weights = {"mask": family.MASK_WEIGHT, "dice": family.DICE_WEIGHT}
    names = {"weights": "*_WEIGHT"}
    matcher = build(HungarianMatcher, cfg, SECTION, MATCHER_KEYS, names, class_cost=softmax_class_cost,
                    weights={"class": family.CLASS_WEIGHT, **weights})
    return build(SetCriterion, cfg, SECTION, CRITERION_KEYS, names, matcher=matcher, class_loss="cross_entropy",
                 weights={"ce": family.CLASS_WEIGHT, **weights})


@register(SEM_SEG_HEADS_REGISTRY, "MaskFormerHead")
def build_mask2former_head(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> SegmentationHead:
    """Mask2Former's head. Raises ConfigError for the inputs of the first MaskFormer, which this decoder cannot read."""
    return SegmentationHead(**_parts(cfg, input_shape))


@register(SEM_SEG_HEADS_REGISTRY, "MaskFormerHeadFreqAware")
def build_image_guided_head(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> SegmentationHead:
    """Mask2Former's head with the last masks brought to the input's size under the guidance of the image."""
    return build(ImageGuidedHead, cfg, "MODEL.SEM_SEG_HEAD", upper("mask_dim") | {"stride": "COMMON_STRIDE"},
                 **_parts(cfg, input_shape))


def _parts(cfg, input_shape):
    family = cfg.MODEL.MASK_FORMER
    if family.TRANSFORMER_IN_FEATURE != "multi_scale_pixel_decoder":
        raise ConfigError(f"MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE is {family.TRANSFORMER_IN_FEATURE!r}, which "
                          "belongs to the first MaskFormer; Mask2Former needs multi_scale_pixel_decoder")
    return head_parts(cfg, input_shape, family)


@register(TRANSFORMER_DECODER_REGISTRY, "MultiScaleMaskedTransformerDecoder")
def build_mask2former_decoder(cfg: CfgNode, in_channels: int) -> MultiScaleMaskedTransformerDecoder:
    """DEC_LAYERS counts predictions, the one from the raw queries included: one more than there are layers."""
    return build(MultiScaleMaskedTransformerDecoder, cfg, SECTION,
                 DECODER_KEYS | upper("pre_norm") | {"num_heads": "NHEADS"}, in_channels=in_channels,
                 num_layers=cfg.MODEL.MASK_FORMER.DEC_LAYERS - 1)

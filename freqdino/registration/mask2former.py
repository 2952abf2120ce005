"""Mask2Former by its registry names: meta-architectures, heads and transformer decoder."""
from detectron2.modeling import META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY, build_sem_seg_head

from freqdino.errors import ConfigError
from freqdino.modeling.criterion import SetCriterion
from freqdino.modeling.image_guided_head import ImageGuidedHead, ImageGuidedModel
from freqdino.modeling.losses import softmax_class_cost
from freqdino.modeling.mask2former_decoder import MultiScaleMaskedTransformerDecoder
from freqdino.modeling.matcher import HungarianMatcher
from freqdino.modeling.meta_architecture import MaskClassificationModel, SegmentationHead
from freqdino.modeling.post_processing import SoftmaxScores
from freqdino.registration.backbones import build_backbone
from freqdino.registration.binding import register, with_fast_linear
from freqdino.registration.class_tables import check_num_classes
from freqdino.registration.inference import inference_of
from freqdino.registration.model_parts import (
    build_post_processing,
    check_family,
    head_parts,
    point_arguments,
    size_divisibility,
)
from freqdino.registration.pixel_decoders import TRANSFORMER_DECODER_REGISTRY


@register(META_ARCH_REGISTRY, "MaskFormer")
def build_mask2former(cfg):
    """MODEL.MASK_FORMER.* -> Mask2Former."""
    return _mask_former(cfg, MaskClassificationModel, "MaskFormerHead")


@register(META_ARCH_REGISTRY, "MaskFormerFreqAware")
def build_image_guided_mask2former(cfg):
    """The published name of Mask2Former with the image-guided head, `MaskFormerHeadFreqAware`."""
    return _mask_former(cfg, ImageGuidedModel, "MaskFormerHeadFreqAware")


def _mask_former(cfg, model_class, head_name):
    family = cfg.MODEL.MASK_FORMER
    check_num_classes(cfg)
    check_family(cfg, family, head_name)
    backbone = build_backbone(cfg)
    divisibility = size_divisibility(family, backbone)
    return with_fast_linear(cfg, model_class(
        backbone=backbone,
        sem_seg_head=build_sem_seg_head(cfg, backbone.output_shape()),
        criterion=_criterion(cfg),
        post_processing=build_post_processing(cfg, family, scores=SoftmaxScores(), rescore_by_mask=True),
        size_divisibility=divisibility,
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
        inference=inference_of(cfg, divisibility),
    ))


def _criterion(cfg):
    family = cfg.MODEL.MASK_FORMER
    weights = {"mask": family.MASK_WEIGHT, "dice": family.DICE_WEIGHT}
    matcher = HungarianMatcher(weights={"class": family.CLASS_WEIGHT, **weights}, class_cost=softmax_class_cost,
                               num_points=family.TRAIN_NUM_POINTS)
    return SetCriterion(
        num_classes=cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
        matcher=matcher,
        weights={"ce": family.CLASS_WEIGHT, **weights},
        class_loss="cross_entropy",
        no_object_weight=family.NO_OBJECT_WEIGHT,
        deep_supervision=family.DEEP_SUPERVISION,
        **point_arguments(family),
    )


@register(SEM_SEG_HEADS_REGISTRY, "MaskFormerHead")
def build_mask2former_head(cfg, input_shape):
    """Mask2Former's head. Raises ConfigError for the inputs of the first MaskFormer, which this decoder cannot read."""
    return SegmentationHead(**_parts(cfg, input_shape))


@register(SEM_SEG_HEADS_REGISTRY, "MaskFormerHeadFreqAware")
def build_image_guided_head(cfg, input_shape):
    """Mask2Former's head with the last masks brought to the input's size under the guidance of the image."""
    head = cfg.MODEL.SEM_SEG_HEAD
    return ImageGuidedHead(**_parts(cfg, input_shape), mask_dim=head.MASK_DIM, stride=head.COMMON_STRIDE)


def _parts(cfg, input_shape):
    family = cfg.MODEL.MASK_FORMER
    if family.TRANSFORMER_IN_FEATURE != "multi_scale_pixel_decoder":
        raise ConfigError(f"MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE is {family.TRANSFORMER_IN_FEATURE!r}, which "
                          "belongs to the first MaskFormer; Mask2Former needs multi_scale_pixel_decoder")
    return head_parts(cfg, input_shape, family)


@register(TRANSFORMER_DECODER_REGISTRY, "MultiScaleMaskedTransformerDecoder")
def build_mask2former_decoder(cfg, in_channels):
    """DEC_LAYERS counts predictions, the one from the raw queries included: one more than there are layers."""
    family = cfg.MODEL.MASK_FORMER
    if family.DEC_LAYERS < 1:
        raise ConfigError(f"MODEL.MASK_FORMER.DEC_LAYERS must be at least 1, got {family.DEC_LAYERS}")
    return MultiScaleMaskedTransformerDecoder(
        in_channels=in_channels,
        num_classes=cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
        hidden_dim=family.HIDDEN_DIM,
        num_queries=family.NUM_OBJECT_QUERIES,
        num_heads=family.NHEADS,
        dim_feedforward=family.DIM_FEEDFORWARD,
        num_layers=family.DEC_LAYERS - 1,
        mask_dim=cfg.MODEL.SEM_SEG_HEAD.MASK_DIM,
        pre_norm=family.PRE_NORM,
        enforce_input_proj=family.ENFORCE_INPUT_PROJ,
    )

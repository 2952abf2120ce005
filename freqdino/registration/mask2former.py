"""Mask2Former by its registry names: meta-architecture, head and transformer decoder."""
from detectron2.modeling import META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY, build_backbone, build_sem_seg_head

from ..config import ConfigError
from ..modeling import mask2former_decoder
from ..modeling.class_scores import SoftmaxScores
from ..modeling.criterion import SetCriterion
from ..modeling.losses import softmax_class_cost
from ..modeling.matcher import HungarianMatcher
from ..modeling.meta_architecture import MaskClassificationModel
from .class_tables import check_num_classes
from .model_parts import build_head, build_post_processing, check_family, point_arguments, size_divisibility
from .pixel_decoders import TRANSFORMER_DECODER_REGISTRY


@META_ARCH_REGISTRY.register()
def MaskFormer(cfg):
    """MODEL.MASK_FORMER.* -> Mask2Former."""
    family = cfg.MODEL.MASK_FORMER
    check_num_classes(cfg)
    check_family(cfg, family, "MaskFormerHead")
    backbone = build_backbone(cfg)
    return MaskClassificationModel(
        backbone=backbone,
        sem_seg_head=build_sem_seg_head(cfg, backbone.output_shape()),
        criterion=_criterion(cfg),
        post_processing=build_post_processing(cfg, family, scores=SoftmaxScores(), rescore_by_mask=True),
        size_divisibility=size_divisibility(family, backbone),
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
    )


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


@SEM_SEG_HEADS_REGISTRY.register()
def MaskFormerHead(cfg, input_shape):
    """Mask2Former's head. Raises ConfigError for the inputs of the first MaskFormer, which this decoder cannot read."""
    family = cfg.MODEL.MASK_FORMER
    if family.TRANSFORMER_IN_FEATURE != "multi_scale_pixel_decoder":
        raise ConfigError(f"MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE is {family.TRANSFORMER_IN_FEATURE!r}, which belongs to the "
                          "first MaskFormer; Mask2Former needs multi_scale_pixel_decoder")
    return build_head(cfg, input_shape, family)


@TRANSFORMER_DECODER_REGISTRY.register()
def MultiScaleMaskedTransformerDecoder(cfg, in_channels):
    """DEC_LAYERS counts predictions, the one from the raw queries included: one more than there are layers."""
    family = cfg.MODEL.MASK_FORMER
    if family.DEC_LAYERS < 1:
        raise ConfigError(f"MODEL.MASK_FORMER.DEC_LAYERS must be at least 1, got {family.DEC_LAYERS}")
    return mask2former_decoder.MultiScaleMaskedTransformerDecoder(
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

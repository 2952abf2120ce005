"""Mask DINO by its registry names: meta-architecture, head and transformer decoder."""
from detectron2.modeling import META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY, build_sem_seg_head

from freqdino.errors import ConfigError
from freqdino.modeling.losses import focal_class_cost
from freqdino.modeling.mask_dino_criterion import DENOISING_KINDS, MASK_TERMS, MaskDINOCriterion
from freqdino.modeling.mask_dino_decoder import MaskDINODecoder
from freqdino.modeling.matcher import HungarianMatcher
from freqdino.modeling.meta_architecture import MaskClassificationModel, SegmentationHead
from freqdino.modeling.post_processing import SigmoidScores, SoftmaxScores
from freqdino.modeling.query_selection import BOX_INITIALISATIONS
from freqdino.registration.backbones import build_backbone
from freqdino.registration.binding import register, with_fast_linear
from freqdino.registration.class_tables import check_num_classes, thing_classes
from freqdino.registration.inference import inference_of
from freqdino.registration.model_parts import (
    build_post_processing,
    check_family,
    head_parts,
    point_arguments,
    size_divisibility,
)
from freqdino.registration.pixel_decoders import TRANSFORMER_DECODER_REGISTRY

BOX_FRAMES = ("image", "padded")


@register(META_ARCH_REGISTRY, "MaskDINO")
def build_mask_dino(cfg):
    """MODEL.MaskDINO.* -> Mask DINO."""
    family = cfg.MODEL.MaskDINO
    check_num_classes(cfg)
    check_family(cfg, family, "MaskDINOHead")
    _check_choices(cfg)
    temperature = family.TEST.PANO_TEMPERATURE if family.TEST.PANO_TRANSFORM_EVAL else None
    scores = SoftmaxScores() if family.SEMANTIC_CE_LOSS else SigmoidScores(temperature)
    criterion = _criterion(cfg)
    learns_masks = any(term in criterion.weights or term in criterion.matcher.weights for term in MASK_TERMS)
    backbone = build_backbone(cfg)
    divisibility = size_divisibility(family, backbone)
    return with_fast_linear(cfg, MaskClassificationModel(
        backbone=backbone,
        sem_seg_head=build_sem_seg_head(cfg, backbone.output_shape()),
        criterion=criterion,
        post_processing=build_post_processing(
            cfg, family, scores=scores, rescore_by_mask=learns_masks and not family.TEST.TEST_FOUCUS_ON_BOX),
        size_divisibility=divisibility,
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
        inference=inference_of(cfg, divisibility),
        learns_masks=learns_masks,
        box_frame=family.BOX_FRAME,
    ))


def _check_choices(cfg):
    family = cfg.MODEL.MaskDINO
    choices = {"DN": DENOISING_KINDS, "BOX_FRAME": BOX_FRAMES, "INITIALIZE_BOX_TYPE": BOX_INITIALISATIONS}
    for key, known in choices.items():
        if family[key] not in known:
            raise ConfigError(f"MODEL.MaskDINO.{key} is {family[key]!r}; {', '.join(known)} are possible")
    if family.SEMANTIC_CE_LOSS and (family.TEST.PANOPTIC_ON or family.TEST.INSTANCE_ON or not family.TEST.SEMANTIC_ON):
        raise ConfigError("MODEL.MaskDINO.SEMANTIC_CE_LOSS trains a semantic model: it needs TEST.SEMANTIC_ON True, "
                          "TEST.INSTANCE_ON False and TEST.PANOPTIC_ON False")


def _criterion(cfg):
    family = cfg.MODEL.MaskDINO
    weights = {"ce": family.CLASS_WEIGHT, "mask": family.MASK_WEIGHT, "dice": family.DICE_WEIGHT,
               "bbox": family.BOX_WEIGHT, "giou": family.GIOU_WEIGHT}
    matcher = HungarianMatcher(
        weights={"class": family.COST_CLASS_WEIGHT, "mask": family.COST_MASK_WEIGHT, "dice": family.COST_DICE_WEIGHT,
                 "box": family.COST_BOX_WEIGHT, "giou": family.COST_GIOU_WEIGHT},
        class_cost=focal_class_cost,
        num_points=family.TRAIN_NUM_POINTS,
    )
    return MaskDINOCriterion(
        num_classes=cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
        matcher=matcher,
        weights={term: weight for term, weight in weights.items() if weight},
        class_loss="cross_entropy" if family.SEMANTIC_CE_LOSS else "focal",
        no_object_weight=family.NO_OBJECT_WEIGHT,
        deep_supervision=family.DEEP_SUPERVISION,
        denoising=family.DN,
        box_loss=family.BOX_LOSS,
        box_classes=thing_classes(cfg) if family.PANO_BOX_LOSS else None,
        **point_arguments(family),
    )


@register(SEM_SEG_HEADS_REGISTRY, "MaskDINOHead")
def build_mask_dino_head(cfg, input_shape):
    """Mask DINO's head."""
    return SegmentationHead(**head_parts(cfg, input_shape, cfg.MODEL.MaskDINO))


@register(TRANSFORMER_DECODER_REGISTRY, "MaskDINODecoder")
def build_mask_dino_decoder(cfg, in_channels):
    """Mask DINO's decoder; with SEMANTIC_CE_LOSS the class layer has one more output, for "no object"."""
    family, head = cfg.MODEL.MaskDINO, cfg.MODEL.SEM_SEG_HEAD
    return MaskDINODecoder(
        in_channels=in_channels,
        num_classes=head.NUM_CLASSES,
        num_class_logits=head.NUM_CLASSES + bool(family.SEMANTIC_CE_LOSS),
        hidden_dim=family.HIDDEN_DIM,
        num_queries=family.NUM_OBJECT_QUERIES,
        dim_feedforward=family.DIM_FEEDFORWARD,
        num_layers=family.DEC_LAYERS,
        mask_dim=head.MASK_DIM,
        num_levels=head.TOTAL_NUM_FEATURE_LEVELS,
        two_stage=family.TWO_STAGE,
        learn_content=family.LEARN_TGT,
        box_initialisation=family.INITIALIZE_BOX_TYPE,
        initial_prediction=family.INITIAL_PRED,
        num_denoising=family.DN_NUM if family.DN != "no" else 0,
        noise_scale=family.DN_NOISE_SCALE,
        enforce_input_proj=family.ENFORCE_INPUT_PROJ,
    )

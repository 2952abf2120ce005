"""Mask DINO by its registry names: meta-architecture, head and transformer decoder."""
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY

from freqdino.errors import ConfigError
from freqdino.modeling.losses import focal_class_cost
from freqdino.modeling.mask_dino_criterion import MASK_TERMS, MaskDINOCriterion
from freqdino.modeling.mask_dino_decoder import MaskDINODecoder
from freqdino.modeling.matcher import HungarianMatcher
from freqdino.modeling.meta_architecture import MaskClassificationModel, SegmentationHead
from freqdino.modeling.post_processing import SigmoidScores, SoftmaxScores
from freqdino.registration.binding import build, register, upper
from freqdino.registration.class_tables import thing_classes
from freqdino.registration.model_parts import CRITERION_KEYS, DECODER_KEYS, MATCHER_KEYS, build_family, head_parts
from freqdino.registration.pixel_decoders import TRANSFORMER_DECODER_REGISTRY

SECTION = "MODEL.MaskDINO"


@register(META_ARCH_REGISTRY, "MaskDINO")
def build_mask_dino(cfg: CfgNode) -> MaskClassificationModel:
    """MODEL.MaskDINO.* -> Mask DINO."""
    family = cfg.MODEL.MaskDINO
    if family.SEMANTIC_CE_LOSS and (family.TEST.PANOPTIC_ON or family.TEST.INSTANCE_ON or not family.TEST.SEMANTIC_ON):
        raise ConfigError("MODEL.MaskDINO.SEMANTIC_CE_LOSS trains a semantic model: it needs TEST.SEMANTIC_ON True, "
                          "TEST.INSTANCE_ON False and TEST.PANOPTIC_ON False")
    temperature = family.TEST.PANO_TEMPERATURE if family.TEST.PANO_TRANSFORM_EVAL else None
    scores = SoftmaxScores() if family.SEMANTIC_CE_LOSS else SigmoidScores(temperature)
    criterion = _criterion(cfg)
    learns_masks = any(term in criterion.weights or term in criterion.matcher.weights for term in MASK_TERMS)
    return build_family(cfg, SECTION, "MaskDINOHead", keys=upper("box_frame"), criterion=criterion, scores=scores,
                        rescore_by_mask=learns_masks and not family.TEST.TEST_FOUCUS_ON_BOX, learns_masks=learns_masks)


def _criterion(cfg):
    family = cfg.MODEL.MaskDINO
    weights = {"ce": family.CLASS_WEIGHT, "mask": family.MASK_WEIGHT, "dice": family.DICE_WEIGHT,
               "bbox": family.BOX_WEIGHT, "giou": family.GIOU_WEIGHT}
    costs = {term: family[f"COST_{term.upper()}_WEIGHT"] for term in ("class", "mask", "dice", "box", "giou")}
    matcher = build(HungarianMatcher, cfg, SECTION, MATCHER_KEYS, {"weights": "COST_*_WEIGHT"}, weights=costs,
                    class_cost=focal_class_cost)
    return build(
        MaskDINOCriterion, cfg, SECTION, CRITERION_KEYS | upper("box_loss") | {"denoising": "DN"},
        {"weights": "*_WEIGHT"},
        matcher=matcher,
        weights={term: weight for term, weight in weights.items() if weight},
        class_loss="cross_entropy" if family.SEMANTIC_CE_LOSS else "focal",
        box_classes=thing_classes(cfg) if family.PANO_BOX_LOSS else None,
    )


@register(SEM_SEG_HEADS_REGISTRY, "MaskDINOHead")
def build_mask_dino_head(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> SegmentationHead:
    """Mask DINO's head."""
    return SegmentationHead(**head_parts(cfg, input_shape, cfg.MODEL.MaskDINO))


@register(TRANSFORMER_DECODER_REGISTRY, "MaskDINODecoder")
def build_mask_dino_decoder(cfg: CfgNode, in_channels: int) -> MaskDINODecoder:
    """Mask DINO's decoder; with SEMANTIC_CE_LOSS the class layer has one more output, for "no object"."""
    family = cfg.MODEL.MaskDINO
    keys = DECODER_KEYS | upper("two_stage") | {
        "num_layers": "DEC_LAYERS", "num_levels": "MODEL.SEM_SEG_HEAD.TOTAL_NUM_FEATURE_LEVELS",
        "learn_content": "LEARN_TGT", "box_initialisation": "INITIALIZE_BOX_TYPE", "initial_prediction": "INITIAL_PRED",
        "num_denoising": "DN_NUM", "noise_scale": "DN_NOISE_SCALE"}
    without: dict[str, Any] = {"num_denoising": 0} if family.DN == "no" else {}
    return build(MaskDINODecoder, cfg, SECTION, keys, in_channels=in_channels,
                 num_class_logits=cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES + bool(family.SEMANTIC_CE_LOSS), **without)

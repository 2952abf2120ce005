"""Parts that both families build in the same way, from their section of the configuration (``family``)."""
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_sem_seg_head

from freqdino.config import lookup
from freqdino.errors import ConfigError
from freqdino.modeling.criterion import SetCriterion
from freqdino.modeling.meta_architecture import MaskClassificationModel
from freqdino.modeling.pixel_decoder import MultiScaleDeformablePixelDecoder
from freqdino.modeling.post_processing import PostProcessing, SigmoidScores, SoftmaxScores
from freqdino.registration.backbones import build_backbone
from freqdino.registration.binding import build, errors_about, on_its_device, upper
from freqdino.registration.class_tables import check_num_classes, thing_classes
from freqdino.registration.compilation import compile_parts
from freqdino.registration.inference import inference_of
from freqdino.registration.pixel_decoders import TRANSFORMER_DECODER_REGISTRY, build_pixel_decoder

# Arguments of the models and their parts -> keys of the family, or whole ones.
MODEL_KEYS = {"pixel_mean": "MODEL.PIXEL_MEAN", "pixel_std": "MODEL.PIXEL_STD"}
DECODER_KEYS = {"num_classes": "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "mask_dim": "MODEL.SEM_SEG_HEAD.MASK_DIM",
                "num_queries": "NUM_OBJECT_QUERIES", **upper("hidden_dim", "dim_feedforward", "enforce_input_proj")}
MATCHER_KEYS = {"num_points": "TRAIN_NUM_POINTS"}
CRITERION_KEYS = {"num_classes": "MODEL.SEM_SEG_HEAD.NUM_CLASSES", **MATCHER_KEYS, **upper(
    "no_object_weight", "deep_supervision", "oversample_ratio", "importance_sample_ratio")}
# Arguments that a batch may not go with, in the words of users.
BATCH_KEYS = {"num_classes": "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "norm": "MODEL.SEM_SEG_HEAD.NORM", "with_masks":
              "MODEL.MaskDINO's MASK_WEIGHT, DICE_WEIGHT, COST_MASK_WEIGHT and COST_DICE_WEIGHT"}
HEADS = ("MaskFormerHead", "MaskFormerHeadFreqAware", "MaskDINOHead")


def build_family(cfg: CfgNode, section: str, head_name: str, model_class: type[MaskClassificationModel] =
                 MaskClassificationModel, keys: Mapping[str, str] = {}, *, criterion: SetCriterion,
                 scores: SoftmaxScores | SigmoidScores, rescore_by_mask: bool = True, **arguments: Any
                 ) -> MaskClassificationModel:
    """The model of the family that ``section`` describes; ``keys`` and ``arguments`` as `build` takes them.

    Raises ConfigError where the head is the other family's, and for a class count that does not fit the data.
    """
    family = lookup(cfg, section)
    check_num_classes(cfg)
    if cfg.MODEL.SEM_SEG_HEAD.NAME in HEADS and cfg.MODEL.SEM_SEG_HEAD.NAME != head_name:
        raise ConfigError(f"MODEL.SEM_SEG_HEAD.NAME is {cfg.MODEL.SEM_SEG_HEAD.NAME}; MODEL.META_ARCHITECTURE "
                          f"{cfg.MODEL.META_ARCHITECTURE} goes with {head_name}")
    backbone = build_backbone(cfg)
    divisibility = backbone.size_divisibility if family.SIZE_DIVISIBILITY < 0 else family.SIZE_DIVISIBILITY
    model = on_its_device(cfg, build(
        model_class, cfg, section, {**MODEL_KEYS, **keys}, backbone=backbone, criterion=criterion,
        sem_seg_head=build_sem_seg_head(cfg, backbone.output_shape()), size_divisibility=divisibility,
        post_processing=build_post_processing(cfg, family, scores=scores, rescore_by_mask=rescore_by_mask),
        inference=inference_of(cfg, divisibility), **arguments))
    if cfg.MODEL.COMPILE:
        compile_parts(model, torch.device(cfg.MODEL.DEVICE))
    return model


def head_parts(cfg: CfgNode, input_shape: dict[str, ShapeSpec], family: CfgNode) -> dict:
    """What a head is made of: the pixel decoder and the predictor named by ``family.TRANSFORMER_DECODER_NAME``.

    Raises ConfigError for a predictor that is not registered or cannot read as many levels as the pixel decoder gives.
    """
    if family.TRANSFORMER_DECODER_NAME not in TRANSFORMER_DECODER_REGISTRY:
        raise ConfigError(f"TRANSFORMER_DECODER_NAME is {family.TRANSFORMER_DECODER_NAME!r}; registered are "
                          f"{[name for name, _ in TRANSFORMER_DECODER_REGISTRY]}")
    pixel_decoder = build_pixel_decoder(cfg, input_shape)
    predictor = TRANSFORMER_DECODER_REGISTRY.get(family.TRANSFORMER_DECODER_NAME)(cfg, cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM)
    if isinstance(pixel_decoder, MultiScaleDeformablePixelDecoder) and hasattr(predictor, "check_levels"):
        with errors_about("MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES with TOTAL_NUM_FEATURE_LEVELS "
                          f"and PIXEL_DECODER_NAME {cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME}"):
            predictor.check_levels(pixel_decoder.num_levels)
    return {"pixel_decoder": pixel_decoder, "predictor": predictor}


def build_post_processing(cfg: CfgNode, family: CfgNode, *, scores: SoftmaxScores | SigmoidScores,
                          rescore_by_mask: bool) -> PostProcessing:
    """The results that ``family.TEST`` switches on. Raises ConfigError where it switches on none."""
    test = family.TEST
    if not (test.SEMANTIC_ON or test.INSTANCE_ON or test.PANOPTIC_ON):
        raise ConfigError("TEST.SEMANTIC_ON, INSTANCE_ON and PANOPTIC_ON are all False: the model would give no result")
    return PostProcessing(
        scores=scores,
        semantic=test.SEMANTIC_ON,
        instance=test.INSTANCE_ON,
        panoptic=test.PANOPTIC_ON,
        thing_classes=thing_classes(cfg),
        object_mask_threshold=test.OBJECT_MASK_THRESHOLD,
        overlap_threshold=test.OVERLAP_THRESHOLD,
        max_instances=cfg.TEST.DETECTIONS_PER_IMAGE,
        resize_before_semantic=test.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE or test.INSTANCE_ON or test.PANOPTIC_ON,
        rescore_by_mask=rescore_by_mask,
    )

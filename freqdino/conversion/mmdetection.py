"""mmdetection's Faster R-CNN, Mask R-CNN and Panoptic FPN, plain, with FDConv or with FreqFusion -> Detectron2's.

Names: OpenMMLab's conventions. The two projects compute the same with the same weights: anchors (three ratios at one
size a level, around pixel corners, in one order), one logit an anchor, box deltas (standard deviations 0.1 and 0.2 are
the weights 10 and 5), background as the last class, RoIAlign with half-pixel shift, assignment of boxes to levels.
What differs is the background of Panoptic FPN's semantic head: last there, first (as "things") here.
FDConv keeps its names inside each convolution. How FreqFusion's FPN is called in its published checkpoints is not known
here; this table reads ``neck.freqfusions.<i>``, counted from the coarsest pair as in the published Mask2Former.
"""
import dataclasses

import torch

from freqdino.conversion.openmmlab import FOREIGN_RECIPES, LEFT
from freqdino.conversion.resnet import resnet_requirements, resnet_rules
from freqdino.conversion.rules import NETWORK, RGB_INPUT, Family, Requirement, Rule


def counted(template: str, first: int):
    """A name of the model's with ``{}`` for the match's number, counted from ``first``, and the rest of the match."""
    return lambda match: f"{template.format(int(match[1]) + first)}.{match[2]}"


def things_first(tensor: torch.Tensor) -> torch.Tensor:
    """(stuff classes, things) -> (things, stuff classes), of a weight's or bias's rows."""
    return tensor.roll(1, 0)


def semantic_layer(name: str):
    """Detectron2's levels have an upsampling after each convolution, which takes a number of its own."""
    return lambda match: f"sem_seg_head.p{int(match[1]) + 2}.{2 * int(match[2])}.{name}{match[3]}"


RULES = (
    *resnet_rules(r"backbone\.", f"{NETWORK}."),
    Rule(r"neck\.lateral_convs\.(\d)\.conv\.(\w+)", counted("backbone.fpn_lateral{}", first=2)),
    Rule(r"neck\.fpn_convs\.(\d)\.conv\.(\w+)", counted("backbone.fpn_output{}", first=2)),
    Rule(r"rpn_head\.rpn_conv\.(\w+)", r"proposal_generator.rpn_head.conv.\1"),
    Rule(r"rpn_head\.rpn_cls\.(\w+)", r"proposal_generator.rpn_head.objectness_logits.\1"),
    Rule(r"rpn_head\.rpn_reg\.(\w+)", r"proposal_generator.rpn_head.anchor_deltas.\1"),
    Rule(r"roi_head\.bbox_head\.shared_fcs\.(\d+)\.(\w+)", counted("roi_heads.box_head.fc{}", first=1)),
    Rule(r"roi_head\.bbox_head\.fc_cls\.(\w+)", r"roi_heads.box_predictor.cls_score.\1"),
    Rule(r"roi_head\.bbox_head\.fc_reg\.(\w+)", r"roi_heads.box_predictor.bbox_pred.\1"),
    Rule(r"roi_head\.mask_head\.convs\.(\d+)\.conv\.(\w+)", counted("roi_heads.mask_head.mask_fcn{}", first=1)),
    Rule(r"roi_head\.mask_head\.upsample\.(\w+)", r"roi_heads.mask_head.deconv.\1"),
    Rule(r"roi_head\.mask_head\.conv_logits\.(\w+)", r"roi_heads.mask_head.predictor.\1"),
    Rule(r"semantic_head\.conv_upsample_layers\.(\d)\.conv\.(\d)\.conv\.(\w+)", semantic_layer("")),
    Rule(r"semantic_head\.conv_upsample_layers\.(\d)\.conv\.(\d)\.gn\.(\w+)", semantic_layer("norm.")),
    Rule(r"semantic_head\.conv_logits\.(\w+)", r"sem_seg_head.predictor.\1", things_first),
)
FREQFUSION_RULE = Rule(r"neck\.freqfusions?\.(\d+)\.(.+)", r"backbone.fpn_fusions.\1.\2")

MASKS, SEMANTIC = r"roi_head\.mask_head\.", r"semantic_head\."
REQUIREMENTS = (
    *RGB_INPUT,
    *resnet_requirements(r"backbone\."),
    Requirement("MODEL.FPN.FUSE_TYPE", "sum"),
    Requirement("MODEL.ANCHOR_GENERATOR.NAME", "DefaultAnchorGenerator"),
    Requirement("MODEL.ANCHOR_GENERATOR.SIZES", [[32], [64], [128], [256], [512]]),
    Requirement("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[0.5, 1.0, 2.0]]),
    Requirement("MODEL.ANCHOR_GENERATOR.OFFSET", 0.0),
    Requirement("MODEL.RPN.IN_FEATURES", ["p2", "p3", "p4", "p5", "p6"]),
    Requirement("MODEL.RPN.BBOX_REG_WEIGHTS", [1.0, 1.0, 1.0, 1.0]),
    Requirement("MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p3", "p4", "p5"]),
    Requirement("MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", [10.0, 10.0, 5.0, 5.0]),
    Requirement("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIAlignV2"),
    Requirement("MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", 0),
    Requirement("MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", False),
    Requirement("MODEL.ROI_MASK_HEAD.POOLER_TYPE", "ROIAlignV2", MASKS),
    Requirement("MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO", 0, MASKS),
    Requirement("MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", 14, MASKS),
    Requirement("MODEL.SEM_SEG_HEAD.IN_FEATURES", ["p2", "p3", "p4", "p5"], SEMANTIC),
    Requirement("MODEL.SEM_SEG_HEAD.COMMON_STRIDE", 4, SEMANTIC),
)

DETECTORS = Family(
    title="mmdetection's R-CNN detectors, plain or with FDConv",
    markers=(r"backbone\.layer1\.", r"neck\.lateral_convs\.", r"rpn_head\.", r"roi_head\."),
    rules=RULES,
    left=LEFT,
    requirements=(*REQUIREMENTS, Requirement("MODEL.FPN.UPSAMPLER", "nearest",
                                             backbone="build_resnet_freqfusion_fpn_backbone")),
    hints={
        r"(cls_score|bbox_pred|mask_head\.predictor)\.": "MODEL.ROI_HEADS.NUM_CLASSES",
        r"bbox_pred\.": "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG, where one box serves all classes",
        r"sem_seg_head\.predictor\.": "MODEL.SEM_SEG_HEAD.NUM_CLASSES: the stuff classes and one for all things",
        r"\.res4\.": "MODEL.RESNETS.DEPTH",
        r"\.(dft_weight|KSM_\w+|FBM)": "MODEL.BACKBONE.FDCONV.ENABLED and KERNEL_NUM",
        r"\.mask_head\.": "MODEL.MASK_ON",
        r"fpn_fusions": "MODEL.FPN.UPSAMPLER; units of another name in the file: --rename",
    },
    foreign_recipes=FOREIGN_RECIPES,
)
FREQFUSION = dataclasses.replace(
    DETECTORS,
    title="mmdetection's R-CNN detectors with FreqFusion",
    markers=(*DETECTORS.markers, r"neck\.freqfusions?\.\d+\."),
    rules=(*RULES, FREQFUSION_RULE),
    requirements=REQUIREMENTS,
    note="FreqFusion's units are taken to be counted from the coarsest pair of levels, as in its Mask2Former. All have "
         "the same shapes: if evaluation disagrees with the published result, exchange them by --rename.",
)

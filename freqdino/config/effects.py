"""Which configuration keys have an effect, of Detectron2's and the project's: read, read somewhere, ignored or refused.

Every key belongs to exactly one rule of `RULES`. `keys_without_effect` says for a configuration which changed keys
nobody reads; configs/KEYS.md has all of them.
"""
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

from freqdino.config.keys import IGNORED_KEYS, lookup

MASK_FORMERS = ("MaskFormer", "MaskFormerFreqAware")
FAMILIES = (*MASK_FORMERS, "MaskDINO")
RCNN = ("GeneralizedRCNN", "PanopticFPN")
PROPOSING = (*RCNN, "ProposalNetwork")
FDCONV = "fdconv"
# Heads of SemanticSegmentor that are not DeepLab's.
OTHER_HEADS = ("SemSegFPNHead", "UPerNetHead", "SegFormerHead", "LightHamHead")
# Those of them that read MODEL.SEM_SEG_HEAD.FREQFUSION.
HEADS_WITH_FREQFUSION = ("LightHamHead",)
# Backbones that read no key of a ResNet -> the section of their own.
OTHER_BACKBONES = {"D2SwinTransformer": "SWIN", "build_vit_backbone": "VIT", "build_fdam_vit_backbone": "VIT",
                   "build_mit_backbone": "MIT", "build_mscan_backbone": "MSCAN",
                   "build_timm_backbone": "TIMM"}


@dataclass(frozen=True)
class Rule:
    """``keys``: names, or patterns with a ``*``. ``status``: read, ignored or refused. ``where``: in words, where they
    are read or why they are not. ``reads(cfg)``: whether they are read there; None: always, or never if ignored."""

    keys: tuple[str, ...]
    status: str
    where: str
    reads: Callable[[CfgNode], bool] | None = None


def _model(*names: str) -> Callable[[CfgNode], bool]:
    """Whether the meta-architecture is one of ``names``, or none that is known here."""
    def reads(cfg):
        name = cfg.MODEL.META_ARCHITECTURE
        known = name in META_ARCH_REGISTRY and META_ARCH_REGISTRY.get(name).__module__.startswith(
            ("detectron2.", "freqdino."))
        return name in names or not known
    return reads


def _backbone(section: str) -> Callable[[CfgNode], bool]:
    """Whether the backbone reads this section; one that is not known here reads all."""
    def reads(cfg):
        name = cfg.MODEL.BACKBONE.NAME
        known = name in OTHER_BACKBONES or name.startswith("build_") and "resnet" in name
        return not known or OTHER_BACKBONES.get(name, "RESNETS") == section
    return reads


def _deeplab_layout(key: str, plain: object) -> Callable[[CfgNode], bool]:
    """Read by DeepLab's ResNet; ``plain`` is what the other ResNets have anyway."""
    return lambda cfg: "deeplab" in cfg.MODEL.BACKBONE.NAME or cfg.MODEL.RESNETS[key] == plain


def recipe(cfg: CfgNode) -> str:
    """The augmentation recipe of INPUT.DATASET_MAPPER_NAME, told from the name: jitter, detr or crop."""
    name = cfg.INPUT.DATASET_MAPPER_NAME
    return "jitter" if name.endswith("_lsj") else "detr" if name.endswith(("_detr", "_separated")) else "crop"


def _recipes(*names: str) -> Callable[[CfgNode], bool]:
    return lambda cfg: recipe(cfg) in names


def _on(switch: str, also: Callable[[CfgNode], bool] = lambda cfg: True) -> Callable[[CfgNode], bool]:
    return lambda cfg: bool(lookup(cfg, switch)) and also(cfg)


def _schedulers(*names: str) -> Callable[[CfgNode], bool]:
    return lambda cfg: cfg.SOLVER.LR_SCHEDULER_NAME in names


RULES = (
    Rule(("VERSION", "MODEL.DEVICE", "MODEL.META_ARCHITECTURE", "MODEL.WEIGHTS", "MODEL.WEIGHTS_PARTIAL",
          "MODEL.OPERATORS",
          "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "MODEL.BACKBONE.NAME", "MODEL.BACKBONE.FREEZE_AT", "INPUT.FORMAT",
          "INPUT.DATASET_MAPPER_NAME", "INPUT.RANDOM_FLIP", "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST",
          "DATASETS.TRAIN", "DATASETS.TEST", "OUTPUT_DIR", "SEED", "CUDNN_BENCHMARK"), "read", "always"),
    Rule(("DATALOADER.NUM_WORKERS", "DATALOADER.ASPECT_RATIO_GROUPING", "DATALOADER.SAMPLER_TRAIN",
          "DATALOADER.FILTER_EMPTY_ANNOTATIONS", "SOLVER.LR_SCHEDULER_NAME", "SOLVER.MAX_ITER", "SOLVER.BASE_LR",
          "SOLVER.WEIGHT_DECAY*", "SOLVER.WARMUP_*", "SOLVER.CHECKPOINT_PERIOD", "SOLVER.IMS_PER_BATCH",
          "SOLVER.REFERENCE_WORLD_SIZE", "SOLVER.BIAS_LR_FACTOR", "SOLVER.CLIP_GRADIENTS.ENABLED", "SOLVER.OPTIMIZER",
          "SOLVER.AMP.ENABLED", "SOLVER.BACKBONE_MULTIPLIER", "SOLVER.FREQ_SCALE_MULTIPLIER", "SOLVER.LAYER_DECAY",
          "SOLVER.FDCONV_RATE", "SOLVER.FDCONV_MULTIPLIER",
          "SOLVER.EPOCHS", "SOLVER.CHECKPOINT_EPOCHS", "SOLVER.CHECKPOINT_KEEP", "TEST.EVAL_EPOCHS", "TEST.KEEP_BEST",
          "TEST.VALIDATION_LOSS", "SOLVER.ACCUMULATE", "SOLVER.ACTIVATION_CHECKPOINTING", "MODEL_EMA.ENABLED",
          "INPUT.EXTRA_AUGMENTATIONS", "OUTPUT_WRITERS"), "read", "in training"),
    Rule(("SOLVER.EARLY_STOP_PATIENCE",), "read", "in training with TEST.KEEP_BEST", _on("TEST.KEEP_BEST")),
    Rule(("DATASETS.SPLIT",), "read", "by train_net.py; beside DATASETS.TEST it is refused"),
    Rule(("DATALOADER.SKIP_UNREADABLE",), "read", "when data sets are read"),
    Rule(("TEST.EXPECTED_RESULTS", "TEST.EVAL_PERIOD", "TEST.AUG.ENABLED", "TEST.PRECISE_BN.ENABLED",
          "TEST.GROUP_BY_SIZE", "TEST.SLIDING_WINDOW*"), "read", "in evaluation"),
    Rule(("TEST.DETECTIONS_PER_IMAGE", "TEST.BOUNDARY_AP"), "read", "by models that predict instances",
         _model(*FAMILIES, *RCNN, "RetinaNet")),
    # Models
    Rule(("MODEL.COMPILE",), "read", "by MODEL.META_ARCHITECTURE MaskFormer and MaskDINO", _model(*FAMILIES)),
    Rule(("MODEL.MASK_FORMER.*",), "read", "by MODEL.META_ARCHITECTURE MaskFormer", _model(*MASK_FORMERS)),
    Rule(("MODEL.MaskDINO.*",), "read", "by MODEL.META_ARCHITECTURE MaskDINO", _model("MaskDINO")),
    Rule(tuple(f"MODEL.SEM_SEG_HEAD.{name}" for name in ("NAME", "IN_FEATURES", "NUM_CLASSES", "CONVS_DIM", "NORM",
                                                         "COMMON_STRIDE")),
         "read", "by models with a segmentation head", _model(*FAMILIES, "PanopticFPN", "SemanticSegmentor")),
    Rule(("MODEL.SEM_SEG_HEAD.IGNORE_VALUE", "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT"), "read",
         "by MODEL.META_ARCHITECTURE SemanticSegmentor and PanopticFPN", _model("PanopticFPN", "SemanticSegmentor")),
    Rule(("MODEL.SEM_SEG_HEAD.UPSAMPLER",), "read", "by MODEL.SEM_SEG_HEAD.NAME SegFormerHead; refused beside another",
         lambda cfg: (cfg.MODEL.SEM_SEG_HEAD.NAME == "SegFormerHead"
                      and _model("PanopticFPN", "SemanticSegmentor")(cfg))),
    Rule(tuple(f"MODEL.SEM_SEG_HEAD.{name}" for name in ("LOSS_TYPE", "PROJECT_*", "ASPP_*",
                                                         "USE_DEPTHWISE_SEPARABLE_CONV")),
         "read", "by DeepLab's heads in MODEL.META_ARCHITECTURE SemanticSegmentor",
         lambda cfg: _model("SemanticSegmentor")(cfg) and cfg.MODEL.SEM_SEG_HEAD.NAME not in OTHER_HEADS),
    Rule(tuple(f"MODEL.SEM_SEG_HEAD.{name}" for name in (
        "MASK_DIM", "FULL_PRECISION", "PIXEL_DECODER_NAME", "TRANSFORMER_ENC_LAYERS", "FDAM.ENABLED",
        "DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES")),
         "read", "by MODEL.META_ARCHITECTURE MaskFormer and MaskDINO", _model(*FAMILIES)),
    Rule(("MODEL.SEM_SEG_HEAD.FREQFUSION.ENABLED",), "read", "by MODEL.META_ARCHITECTURE MaskFormer and MaskDINO, and "
         f"by MODEL.SEM_SEG_HEAD.NAME {', '.join(HEADS_WITH_FREQFUSION)}",
         lambda cfg: cfg.MODEL.SEM_SEG_HEAD.NAME in HEADS_WITH_FREQFUSION or _model(*FAMILIES)(cfg)),
    Rule(("MODEL.SEM_SEG_HEAD.HAM.*",), "read", "by MODEL.SEM_SEG_HEAD.NAME LightHamHead",
         lambda cfg: cfg.MODEL.SEM_SEG_HEAD.NAME == "LightHamHead"),
    Rule(tuple(f"MODEL.SEM_SEG_HEAD.{name}" for name in ("DIM_FEEDFORWARD", "FEATURE_ORDER",
                                                         "TOTAL_NUM_FEATURE_LEVELS")),
         "read", "by MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME MaskDINOEncoder",
         lambda cfg: _model(*FAMILIES)(cfg) and not cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME.endswith(
             ("MSDeformAttnPixelDecoder", "MSDeformAttnPixelDecoder2"))),
    Rule(("MODEL.SEM_SEG_HEAD.FREQFUSION.*",), "read", "with MODEL.SEM_SEG_HEAD.FREQFUSION.ENABLED, or a pixel decoder "
         "whose name sets it",
         lambda cfg: cfg.MODEL.SEM_SEG_HEAD.FREQFUSION.ENABLED or "Freq" in cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME),
    Rule(("MODEL.MASK_ON",), "read", "by MODEL.META_ARCHITECTURE GeneralizedRCNN and PanopticFPN", _model(*RCNN)),
    Rule(("MODEL.PROPOSAL_GENERATOR.*", "MODEL.RPN.*"), "read",
         "by MODEL.META_ARCHITECTURE GeneralizedRCNN, PanopticFPN and ProposalNetwork", _model(*PROPOSING)),
    Rule(("MODEL.ANCHOR_GENERATOR.*",), "read", "by the models with anchors: those, and RetinaNet",
         _model(*PROPOSING, "RetinaNet")),
    Rule(("MODEL.ANCHOR_GENERATOR.ANGLES",), "read", "by MODEL.ANCHOR_GENERATOR.NAME RotatedAnchorGenerator",
         lambda cfg: cfg.MODEL.ANCHOR_GENERATOR.NAME != "DefaultAnchorGenerator"),
    Rule(("MODEL.ROI_BOX_HEAD.FED_LOSS_*",), "read", "with MODEL.ROI_BOX_HEAD.USE_FED_LOSS",
         _on("MODEL.ROI_BOX_HEAD.USE_FED_LOSS", _model(*RCNN))),
    Rule(("MODEL.ROI_HEADS.*", "MODEL.ROI_BOX_HEAD.*"), "read",
         "by MODEL.META_ARCHITECTURE GeneralizedRCNN and PanopticFPN", _model(*RCNN)),
    Rule(("MODEL.ROI_BOX_CASCADE_HEAD.*",), "read", "by MODEL.ROI_HEADS.NAME CascadeROIHeads",
         lambda cfg: _model(*RCNN)(cfg) and cfg.MODEL.ROI_HEADS.NAME not in ("Res5ROIHeads", "StandardROIHeads")),
    Rule(("MODEL.ROI_MASK_HEAD.*",), "read", "with MODEL.MASK_ON", _on("MODEL.MASK_ON", _model(*RCNN))),
    Rule(("MODEL.PANOPTIC_FPN.*",), "read", "by MODEL.META_ARCHITECTURE PanopticFPN", _model("PanopticFPN")),
    Rule(("MODEL.RETINANET.*",), "read", "by MODEL.META_ARCHITECTURE RetinaNet", _model("RetinaNet")),
    Rule(("VIS_PERIOD",), "read", "in training: pictures of samples and predictions in TensorBoard; Detectron2's "
         "detectors add their proposals"),
    # Backbones
    Rule(("MODEL.BACKBONE.FDCONV.ENABLED", "MODEL.BACKBONE.FDAM.ENABLED", "MODEL.FPN.UPSAMPLER"), "read",
         "by this project's backbones; refused beside another"),
    Rule(("MODEL.BACKBONE.DYNAMIC_CONV.NAME",), "read", "by this project's backbones, all but fdconv by its ResNets; "
         "refused beside another"),
    Rule(("MODEL.BACKBONE.FDCONV.KERNEL_NUM",), "read", "with MODEL.BACKBONE.FDCONV.ENABLED",
         lambda cfg: "fdconv" in cfg.MODEL.BACKBONE.NAME or dynamic_conv(cfg) == FDCONV),
    Rule(("MODEL.BACKBONE.DYNAMIC_CONV.NUM",), "read", "with another MODEL.BACKBONE.DYNAMIC_CONV.NAME than fdconv, "
         "which refuses it", lambda cfg: bool(cfg.MODEL.BACKBONE.DYNAMIC_CONV.NAME)),
    Rule(("MODEL.BACKBONE.DYNAMIC_CONV.ANNEAL",), "read", "in training, with MODEL.BACKBONE.DYNAMIC_CONV.NAME dyconv, "
         "odconv and kernel_warehouse",
         lambda cfg: cfg.MODEL.BACKBONE.DYNAMIC_CONV.NAME in ("dyconv", "odconv", "kernel_warehouse")),
    Rule(("MODEL.RESNETS.STEM_TYPE",), "read", "by DeepLab's ResNet; basic is what the others have",
         _deeplab_layout("STEM_TYPE", "basic")),
    Rule(("MODEL.RESNETS.RES5_MULTI_GRID",), "read", "by DeepLab's ResNet; [1, 1, 1] is what the others have",
         _deeplab_layout("RES5_MULTI_GRID", [1, 1, 1])),
    Rule(("MODEL.RESNETS.RES4_DILATION",), "read", "by DeepLab's ResNet", _deeplab_layout("RES4_DILATION", 1)),
    Rule(("MODEL.RESNETS.*",), "read", "by the backbones that are ResNets", _backbone("RESNETS")),
    Rule(("MODEL.FPN.IN_FEATURES", "MODEL.FPN.OUT_CHANNELS", "MODEL.FPN.NORM", "MODEL.FPN.FUSE_TYPE"), "read",
         "by the backbones with a feature pyramid",
         lambda cfg: "fpn" in cfg.MODEL.BACKBONE.NAME or not _known_backbone(cfg)),
    Rule(("MODEL.SWIN.*",), "read", "by MODEL.BACKBONE.NAME D2SwinTransformer", _backbone("SWIN")),
    Rule(("MODEL.VIT.*",), "read", "by MODEL.BACKBONE.NAME build_vit_backbone", _backbone("VIT")),
    Rule(("MODEL.MIT.*",), "read", "by MODEL.BACKBONE.NAME build_mit_backbone", _backbone("MIT")),
    Rule(("MODEL.MSCAN.*",), "read", "by MODEL.BACKBONE.NAME build_mscan_backbone", _backbone("MSCAN")),
    Rule(("MODEL.TIMM.PRETRAINED",), "read", "in training, by MODEL.BACKBONE.NAME build_timm_backbone, where "
         "MODEL.WEIGHTS is empty", _backbone("TIMM")),
    Rule(("MODEL.TIMM.*",), "read", "by MODEL.BACKBONE.NAME build_timm_backbone", _backbone("TIMM")),
    # Training pictures
    Rule(("INPUT.IMAGE_SIZE", "INPUT.MIN_SCALE", "INPUT.MAX_SCALE"), "read",
         "by the mappers with large-scale jitter, INPUT.DATASET_MAPPER_NAME *_lsj", _recipes("jitter")),
    Rule(("INPUT.MIN_SIZE_TRAIN", "INPUT.MIN_SIZE_TRAIN_SAMPLING", "INPUT.MAX_SIZE_TRAIN", "INPUT.CROP.ENABLED"),
         "read", "by the mappers without large-scale jitter, whose key is INPUT.IMAGE_SIZE", _recipes("crop", "detr")),
    Rule(("INPUT.CROP.TYPE", "INPUT.CROP.SIZE"), "read", "with INPUT.CROP.ENABLED, by the mappers without large-scale "
         "jitter", _on("INPUT.CROP.ENABLED", _recipes("crop", "detr"))),
    Rule(("INPUT.CROP.SINGLE_CATEGORY_MAX_AREA",), "read", "with INPUT.CROP.ENABLED, by INPUT.DATASET_MAPPER_NAME "
         "mask_former_* and MaskDINO_semantic", _on("INPUT.CROP.ENABLED", _recipes("crop"))),
    Rule(("INPUT.COLOR_AUG_SSD", "INPUT.SIZE_DIVISIBILITY"), "read", "by INPUT.DATASET_MAPPER_NAME mask_former_* and "
         "MaskDINO_semantic", _recipes("crop")),
    # Optimiser and schedule
    Rule(("SOLVER.MOMENTUM", "SOLVER.NESTEROV"), "read", "by SOLVER.OPTIMIZER SGD",
         lambda cfg: cfg.SOLVER.OPTIMIZER == "SGD"),
    Rule(("SOLVER.STEPS",), "read", "by SOLVER.LR_SCHEDULER_NAME WarmupMultiStepLR", _schedulers("WarmupMultiStepLR")),
    Rule(("SOLVER.GAMMA",), "read", "by SOLVER.LR_SCHEDULER_NAME WarmupMultiStepLR and WarmupStepWithFixedGammaLR",
         _schedulers("WarmupMultiStepLR", "WarmupStepWithFixedGammaLR")),
    Rule(("SOLVER.NUM_DECAYS",), "read", "by SOLVER.LR_SCHEDULER_NAME WarmupStepWithFixedGammaLR",
         _schedulers("WarmupStepWithFixedGammaLR")),
    Rule(("SOLVER.BASE_LR_END",), "read", "by SOLVER.LR_SCHEDULER_NAME WarmupCosineLR", _schedulers("WarmupCosineLR")),
    Rule(("SOLVER.POLY_LR_*",), "read", "by SOLVER.LR_SCHEDULER_NAME WarmupPolyLR", _schedulers("WarmupPolyLR")),
    Rule(("SOLVER.RESCALE_INTERVAL",), "read", "by every SOLVER.LR_SCHEDULER_NAME but WarmupPolyLR",
         lambda cfg: cfg.SOLVER.LR_SCHEDULER_NAME != "WarmupPolyLR"),
    Rule(("SOLVER.CLIP_GRADIENTS.*",), "read", "with SOLVER.CLIP_GRADIENTS.ENABLED",
         _on("SOLVER.CLIP_GRADIENTS.ENABLED")),
    Rule(("SOLVER.AMP.DTYPE",), "read", "with SOLVER.AMP.ENABLED", _on("SOLVER.AMP.ENABLED")),
    Rule(("MODEL_EMA.DECAY",), "read", "with MODEL_EMA.ENABLED", _on("MODEL_EMA.ENABLED")),
    Rule(("DATALOADER.REPEAT_THRESHOLD",), "read", "by DATALOADER.SAMPLER_TRAIN RepeatFactorTrainingSampler",
         lambda cfg: cfg.DATALOADER.SAMPLER_TRAIN == "RepeatFactorTrainingSampler"),
    Rule(("TEST.AUG.*",), "read", "with TEST.AUG.ENABLED", _on("TEST.AUG.ENABLED")),
    Rule(("TEST.PRECISE_BN.NUM_ITER",), "read", "with TEST.PRECISE_BN.ENABLED", _on("TEST.PRECISE_BN.ENABLED")),
    # Nowhere
    Rule(("INPUT.MASK_FORMAT",), "ignored", "polygons and RLE are both read, and masks are bit masks always"),
    Rule(("GLOBAL.HACK",), "ignored", "nothing reads it, in Detectron2 neither"),
    Rule(("DATASETS.PROPOSAL_FILES_*", "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_*"), "ignored",
         "proposals from files are refused, see MODEL.LOAD_PROPOSALS"),
    Rule(("MODEL.ROI_KEYPOINT_HEAD.*", "TEST.KEYPOINT_OKS_SIGMAS"), "ignored",
         "keypoints are refused, see MODEL.KEYPOINT_ON"),
    *(Rule((key,), "ignored", f"as in the published code: {why}") for key, why in IGNORED_KEYS.items()),
    Rule(("MODEL.KEYPOINT_ON",), "refused", "True: the mappers read no keypoints"),
    Rule(("MODEL.LOAD_PROPOSALS",), "refused", "True: the mappers read no proposals from files"),
)


def dynamic_conv(cfg: CfgNode) -> str:
    """The dynamic convolution of the backbone, "" for none; MODEL.BACKBONE.FDCONV.ENABLED is another name of one."""
    return FDCONV if cfg.MODEL.BACKBONE.FDCONV.ENABLED else cfg.MODEL.BACKBONE.DYNAMIC_CONV.NAME


def _known_backbone(cfg: CfgNode) -> bool:
    return not all(_backbone(section)(cfg) for section in ("RESNETS", "SWIN"))


def rules_of(key: str) -> list[Rule]:
    """The rules that name ``key``, or where none does, those with the longest pattern for it: one."""
    found = {rule: max(map(len, patterns)) for rule in RULES
             if (patterns := [pattern for pattern in rule.keys if fnmatchcase(key, pattern)])}
    exact = [rule for rule in found if key in rule.keys]
    return exact or [rule for rule, length in found.items() if length == max(found.values())]


def keys_without_effect(cfg: CfgNode, keys: Iterable[str]) -> dict[str, str]:
    """Of ``keys`` those that ``cfg`` gives nobody to read -> where they are read, or why they are not."""
    found = {}
    for key in keys:
        for rule in rules_of(key)[:1]:
            if rule.status == "ignored" or rule.reads is not None and not rule.reads(cfg):
                found[key] = rule.where if rule.status == "ignored" else f"read {rule.where}"
    return found


def flat_keys(node: CfgNode, prefix: str = "") -> Iterator[str]:
    """The dotted names of all values."""
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from flat_keys(value, f"{prefix}{key}.")
        else:
            yield prefix + key

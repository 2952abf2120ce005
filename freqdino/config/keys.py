"""Every configuration key of the project with its default: Mask2Former's, Mask DINO's and Swin's, and our own.

Names and defaults are those of the published Mask2Former (arXiv 2112.01527) and Mask DINO (arXiv 2206.02777) projects,
so that their YAML files load unmodified. The two differ in two defaults only (``PIXEL_DECODER_NAME`` and
``DATASET_MAPPER_NAME``); one set serves both, since each family sets its own in YAML.
"""
from typing import Any

from detectron2.config import CfgNode, get_cfg
from detectron2.projects.deeplab import add_deeplab_config

import freqdino

# Published keys that the published code never reads, with the reason why a value for them changes nothing.
IGNORED_KEYS = {
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS": "NHEADS of the family rules",
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS": "the encoder always samples 4 points",
    "MODEL.SEM_SEG_HEAD.NUM_FEATURE_LEVELS": "TOTAL_NUM_FEATURE_LEVELS rules",
    "MODEL.MASK_FORMER.ENC_LAYERS": "it belongs to the first MaskFormer's decoder",
    "MODEL.MaskDINO.ENC_LAYERS": "it belongs to the first MaskFormer's decoder",
    "MODEL.MaskDINO.PRE_NORM": "Mask DINO's layers are post-norm",
    "MODEL.MaskDINO.PRED_CONV": "nothing reads it",
    "MODEL.MaskDINO.EVAL_FLAG": "nothing reads it",
    "Default_loading": "nothing reads it",
}
# Meta-architecture -> the section of its own, with the TEST switches.
FAMILY_SECTIONS = {"MaskFormer": "MODEL.MASK_FORMER", "MaskDINO": "MODEL.MaskDINO",
                   "MaskFormerFreqAware": "MODEL.MASK_FORMER"}


# Keys that MODEL.MASK_FORMER and MODEL.MaskDINO have in common, with the same default.
FAMILY = {
    "DEEP_SUPERVISION": True,
    "NO_OBJECT_WEIGHT": 0.1,
    "NHEADS": 8,
    "DROPOUT": 0.1,                     # deformable encoder only
    "DIM_FEEDFORWARD": 2048,
    "ENC_LAYERS": 0,
    "DEC_LAYERS": 6,
    "PRE_NORM": False,
    "HIDDEN_DIM": 256,
    "NUM_OBJECT_QUERIES": 100,
    "ENFORCE_INPUT_PROJ": False,
    "SIZE_DIVISIBILITY": 32,
    "TRAIN_NUM_POINTS": 12544,
    "OVERSAMPLE_RATIO": 3.0,
    "IMPORTANCE_SAMPLE_RATIO": 0.75,
}
# The part of TEST that both families have, with the same default.
FAMILY_TEST = {
    "SEMANTIC_ON": True,
    "INSTANCE_ON": False,
    "PANOPTIC_ON": False,
    "OBJECT_MASK_THRESHOLD": 0.0,
    "OVERLAP_THRESHOLD": 0.0,
    "SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE": False,
}
# Section -> what it has beside Detectron2's keys.
SECTIONS: dict[str, dict[str, Any]] = {
    "MODEL": {
        "WEIGHTS_PARTIAL": False,               # True: load what fits of a checkpoint, list the rest, go on
        "OPERATORS": "auto",                    # sparse operators: auto, torch, or fused kernels on CUDA
        "COMPILE": False,                       # True: torch.compile where there is a compiler
    },
    "INPUT": {
        "DATASET_MAPPER_NAME": "mask_former_semantic",
        "COLOR_AUG_SSD": False,
        "SIZE_DIVISIBILITY": -1,
        "IMAGE_SIZE": 1024,                 # large-scale jitter: side of the square crop
        "MIN_SCALE": 0.1,
        "MAX_SCALE": 2.0,
        "EXTRA_AUGMENTATIONS": [],          # Detectron2's, before the mapper's: [[RandomBrightness, 0.8, 1.2], ...]
    },
    "DATASETS": {"SPLIT": 0.0},                 # share of the training pictures to learn from, the others to evaluate
    "DATALOADER": {"SKIP_UNREADABLE": False},   # True: what cannot be decoded is left out, and counted
    "SOLVER": {
        "OPTIMIZER": "ADAMW",
        "BACKBONE_MULTIPLIER": 0.1,
        "WEIGHT_DECAY_EMBED": 0.0,
        "FREQ_SCALE_MULTIPLIER": 1.0,       # learning rate of FDAM's frequency scaling, on top of other factors
        "FDCONV_RATE": "published",         # published | equal: steps of the spatial weight as a plain convolution's
        "FDCONV_MULTIPLIER": 1.0,           # learning rate of FDConv's coefficients, on top of other factors
        "ACCUMULATE": 1,                    # parts of IMS_PER_BATCH, one after the other, that a step is made of
        "ACTIVATION_CHECKPOINTING": False,  # all backbones, encoder, decoders; USE_CHECKPOINT: one backbone alone
        "LAYER_DECAY": 1.0,                 # factor from each block of a ViT to the one below it
        "EPOCHS": 0,                        # of the training pictures; above 0 it sets MAX_ITER, STEPS and the warm-up
        "CHECKPOINT_EPOCHS": 0,             # above 0 it sets CHECKPOINT_PERIOD
        "CHECKPOINT_KEEP": 0,               # how many checkpoints to resume from stay; 0: all
        "EARLY_STOP_PATIENCE": 0,           # evaluations without a better one that end the training; 0: never
    },
    "SOLVER.AMP": {"DTYPE": "float16"},         # float16 | bfloat16
    "TEST": {
        "BOUNDARY_AP": False,               # instance masks by Boundary AP too, as boundary/AP (arXiv 2103.16562)
        "VALIDATION_LOSS": False,           # the losses of training on the first test set with each evaluation
        "EVAL_EPOCHS": 0,                   # above 0 it sets EVAL_PERIOD
        "KEEP_BEST": "",                    # the metric, as in segm/AP, whose best weights go to model_best.pth
        "GROUP_BY_SIZE": True,              # only pictures of one padded size run together; False: as published
        "SLIDING_WINDOW": {                 # of semantic models: one number or [height, width], in pixels of the input
            "ENABLED": False,
            "SIZE": None,                   # commonly that of the training crop
            "STRIDE": None,                 # at most SIZE, commonly two thirds of it
        },
    },
    "MODEL_EMA": {"ENABLED": False, "DECAY": 0.9997},           # the average of the weights over training
    "MODEL.SEM_SEG_HEAD": {
        "MASK_DIM": 256,
        "FULL_PRECISION": False,            # True: the pixel decoder computes in float32 under SOLVER.AMP, as published
        "PIXEL_DECODER_NAME": "MaskDINOEncoder",
        "TRANSFORMER_ENC_LAYERS": 0,
        "DIM_FEEDFORWARD": 1024,
        "FEATURE_ORDER": "high2low",        # high2low | low2high
        "NUM_FEATURE_LEVELS": 3,
        "TOTAL_NUM_FEATURE_LEVELS": 4,
        "DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES": ["res3", "res4", "res5"],
        "DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS": 4,
        "DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS": 8,
        # The values are those of FreqFusion's Mask2Former (arXiv 2408.12879).
        "FREQFUSION": {
            "ENABLED": False,
            "LOWPASS_KERNEL": 5,
            "HIGHPASS_KERNEL": 3,
            "COMPRESSED_CHANNELS": None,    # None: a quarter of CONVS_DIM; of the channels fused in LightHamHead
            "FEATURE_RESAMPLE": True,       # the offset generator
            "CHECKPOINT": False,            # compute activations again in the backward pass instead of keeping them
        },
        "FDAM": {"ENABLED": False},
        # SegNeXt's factorisation (arXiv 2209.08575); as wide as the head.
        "HAM": {
            "BASES": 16,
            "FIXED_BASES": True,            # False: evaluation draws its bases anew in every call, as published
        },
        "UPSAMPLER": "bilinear",            # of SegFormerHead: bilinear (published), or another of MODEL.FPN's
    },
    # The number of groups is that of FDConv's ResNet-50 (arXiv 2503.18783).
    "MODEL.BACKBONE": {"FDCONV": {"ENABLED": False, "KERNEL_NUM": 64}, "FDAM": {"ENABLED": False}},
    "MODEL.BACKBONE.DYNAMIC_CONV": {
        "NAME": "",                         # condconv | dyconv | odconv | kernel_warehouse | fdconv, as FDCONV.ENABLED
        "NUM": 0,                           # experts, kernels, kernels, ratio of the bank; 0: 8, 4, 1, 1
        "ANNEAL": 0.1,                      # share of SOLVER.MAX_ITER after which temperatures are at their end
    },
    # What build_resnet_freqfusion_fpn_backbone reads (arXiv 2408.12879): freqfusion | nearest | bilinear | deconv |
    # pixelshuffle | carafe | indexnet | a2u | fade | fade_lite | sapa_b | sapa_d | dysample_static | dysample |
    # dysample_s.
    "MODEL.FPN": {"UPSAMPLER": "freqfusion"},
    "MODEL.MASK_FORMER": {
        **FAMILY,
        "CLASS_WEIGHT": 1.0,
        "DICE_WEIGHT": 1.0,
        "MASK_WEIGHT": 20.0,
        "TRANSFORMER_IN_FEATURE": "res5",
        "TRANSFORMER_DECODER_NAME": "MultiScaleMaskedTransformerDecoder",
        "TEST": FAMILY_TEST,
    },
    "MODEL.MaskDINO": {
        **FAMILY,
        "CLASS_WEIGHT": 4.0,
        "DICE_WEIGHT": 5.0,
        "MASK_WEIGHT": 5.0,
        "BOX_WEIGHT": 5.0,
        "GIOU_WEIGHT": 2.0,
        "COST_CLASS_WEIGHT": 4.0,
        "COST_DICE_WEIGHT": 5.0,
        "COST_MASK_WEIGHT": 5.0,
        "COST_BOX_WEIGHT": 5.0,
        "COST_GIOU_WEIGHT": 2.0,
        "BOX_LOSS": True,
        "PANO_BOX_LOSS": False,
        "SEMANTIC_CE_LOSS": False,
        "BOX_FRAME": "image",               # image (published) | padded: the frame that true boxes are divided by
        "DN": "seg",                        # no | standard | seg
        "DN_NOISE_SCALE": 0.4,
        "DN_NUM": 100,
        "INITIALIZE_BOX_TYPE": "no",        # no | bitmask | mask2box
        "INITIAL_PRED": True,
        "LEARN_TGT": False,
        "TWO_STAGE": True,
        "PRED_CONV": False,
        "EVAL_FLAG": 1,
        "TRANSFORMER_DECODER_NAME": "MaskDINODecoder",
        "TEST": {
            **FAMILY_TEST,
            "PANO_TRANSFORM_EVAL": True,
            "PANO_TEMPERATURE": 0.06,
            "TEST_FOUCUS_ON_BOX": False,
        },
    },
    "MODEL.SWIN": {
        "PRETRAIN_IMG_SIZE": 224,
        "PATCH_SIZE": 4,
        "EMBED_DIM": 96,
        "DEPTHS": [2, 2, 6, 2],
        "NUM_HEADS": [3, 6, 12, 24],
        "WINDOW_SIZE": 7,
        "MLP_RATIO": 4.0,
        "QKV_BIAS": True,
        "QK_SCALE": None,
        "DROP_RATE": 0.0,
        "ATTN_DROP_RATE": 0.0,
        "DROP_PATH_RATE": 0.3,
        "APE": False,
        "PATCH_NORM": True,
        "OUT_FEATURES": ["res2", "res3", "res4", "res5"],
        "USE_CHECKPOINT": False,
    },
    # By default DeiT-S; every published DeiT has patches of 16 pixels.
    "MODEL.VIT": {
        "IMG_SIZE": 512,                    # side of the images that the position embedding is laid out for
        "EMBED_DIM": 384,
        "DEPTH": 12,
        "NUM_HEADS": 6,
        "INIT_VALUES": 1e-4,                # where LayerScale starts; weights without LayerScale set it to 1
        "DROP_PATH_RATE": 0.0,
        "OUT_INDICES": [3, 5, 7, 11],       # the blocks of res2, res3, res4, res5
        "NECK_NORM": "LN",                  # LN | BN | SyncBN | GN, between the neck's two convolutions of res2
        "USE_CHECKPOINT": False,
    },
    # By default MiT-B0 (arXiv 2105.15203).
    "MODEL.MIT": {
        "EMBED_DIMS": [32, 64, 160, 256],
        "DEPTHS": [2, 2, 2, 2],
        "DROP_PATH_RATE": 0.1,
        "USE_CHECKPOINT": False,
    },
    # SegNeXt's encoder (arXiv 2209.08575).
    "MODEL.MSCAN": {
        "SIZE": "T",                        # T | S | B | L
        "EMBED_DIMS": None,                 # these three are SIZE's where they are None
        "DEPTHS": None,
        "DROP_PATH_RATE": None,
        "NORM": "BN",
        "USE_CHECKPOINT": False,
    },
    # Any network of timm that has maps of strides 4, 8, 16 and 32, and its plain vision transformers; weights come from
    # MODEL.WEIGHTS.
    "MODEL.TIMM": {
        "NAME": "convnext_tiny",
        "PRETRAINED": False,                # True with MODEL.WEIGHTS "": timm's weights, as MODEL.WEIGHTS timm://<NAME>
        "DROP_PATH_RATE": 0.0,              # 0: as timm has it for this network
        "USE_CHECKPOINT": False,
    },
}


def add_freqdino_config(cfg: CfgNode) -> None:
    """Add every key of Mask2Former, Mask DINO, DeepLab and FreqDINO to a Detectron2 configuration, in place.

    The first call fills Detectron2's registries and catalogs, so that what the keys name is there.
    """
    freqdino.register()
    add_deeplab_config(cfg)
    for name, keys in SECTIONS.items():
        section = cfg
        for part in name.split("."):
            section = section.setdefault(part, CfgNode())
        section.update(CfgNode(keys))
    cfg.Default_loading = True
    cfg.OUTPUT_WRITERS = ("console", "json", "tensorboard")     # of a training's metrics; and mlflow


def default_config() -> CfgNode:
    """Every key of Detectron2 and the project with its default."""
    cfg = get_cfg()
    add_freqdino_config(cfg)
    return cfg


def lookup(cfg: CfgNode, key: str) -> Any:
    """The value under a dotted key."""
    for name in key.split("."):
        cfg = cfg[name]
    return cfg

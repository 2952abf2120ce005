"""configs/: the heads of Detectron2's SemanticSegmentor: settings.

The settings are OpenMMLab's of UPerNet (arXiv 1807.10221), SegFormer (arXiv 2105.15203) and SegNeXt (arXiv 2209.08575),
and FDAM's of its DeiT III.
`test_configs.py` has what holds for every leaf, `test_config_models.py` builds each and counts its parameters.
"""
from pathlib import Path

import pytest

from freqdino.config import default_config
from helpers.config_leaves import SEMANTIC_SEGMENTORS, changes, flatten, resolved

CITYSCAPES = [leaf for leaf in SEMANTIC_SEGMENTORS if leaf.startswith("cityscapes/")]

SHORT_EDGES = [int(scale / 10 * 512) for scale in range(5, 21)]
# What the parts of a leaf's name do not say as elsewhere: FDConv by the name of a builder that Detectron2 knows.
R50 = {"MODEL.WEIGHTS": "detectron2://ImageNetPretrained/torchvision/R-50.pkl", "MODEL.RESNETS.NORM": "SyncBN"}
OWN = {"upernet_r50": R50, "upernet_deit3_b_fdam": {"MODEL.VIT.NECK_NORM": "SyncBN"},
       "segnext_mscan_b": {"MODEL.SEM_SEG_HEAD.CONVS_DIM": 512, "MODEL.SEM_SEG_HEAD.HAM.BASES": 64},
       "segnext_mscan_l": {"MODEL.SEM_SEG_HEAD.CONVS_DIM": 1024, "MODEL.SEM_SEG_HEAD.HAM.BASES": 64},
       "upernet_r50_fdconv": {**R50, "MODEL.BACKBONE.FDCONV.ENABLED": False,
                              "MODEL.BACKBONE.NAME": "build_fdconv_resnet_backbone"}}
EVERY_LEAF = {
    "DATASETS.TRAIN": ["ade20k_sem_seg_train"], "DATASETS.TEST": ["ade20k_sem_seg_val"],
    "INPUT.FORMAT": "RGB", "INPUT.COLOR_AUG_SSD": True, "INPUT.CROP.ENABLED": True, "INPUT.CROP.TYPE": "absolute",
    "INPUT.CROP.SIZE": [512, 512], "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA": 0.75, "INPUT.SIZE_DIVISIBILITY": 512,
    "INPUT.MIN_SIZE_TRAIN": SHORT_EDGES, "INPUT.MAX_SIZE_TRAIN": 2048, "INPUT.MIN_SIZE_TEST": 512,
    "INPUT.MAX_SIZE_TEST": 2048, "TEST.AUG.MIN_SIZES": [256, 384, 512, 640, 768, 896], "TEST.AUG.MAX_SIZE": 3584,
    "MODEL.META_ARCHITECTURE": "SemanticSegmentor", "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 150, "MODEL.SEM_SEG_HEAD.NORM": "SyncBN",
    "MODEL.SEM_SEG_HEAD.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "SOLVER.LR_SCHEDULER_NAME": "WarmupPolyLR", "SOLVER.MAX_ITER": 160_000, "TEST.EVAL_PERIOD": 16_000,
    # Of the other families: what no part of these models reads, or reads of a ResNet alone.
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": 6, "MODEL.BACKBONE.FREEZE_AT": 0, "MODEL.RESNETS.STEM_TYPE": "basic",
    "MODEL.RESNETS.STRIDE_IN_1X1": False, "MODEL.RESNETS.RES5_MULTI_GRID": [1, 1, 1],
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
}
HEADS = {"upernet": {"MODEL.SEM_SEG_HEAD.NAME": "UPerNetHead", "MODEL.SEM_SEG_HEAD.CONVS_DIM": 512},
         "segformer": {"MODEL.SEM_SEG_HEAD.NAME": "SegFormerHead", "MODEL.SEM_SEG_HEAD.CONVS_DIM": 256},
         "segnext": {"MODEL.SEM_SEG_HEAD.NAME": "LightHamHead", "MODEL.SEM_SEG_HEAD.CONVS_DIM": 256,
                     "MODEL.SEM_SEG_HEAD.NORM": "GN", "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": 8,
                     "MODEL.SEM_SEG_HEAD.IN_FEATURES": ["res3", "res4", "res5"]}}
ADAMW = {"SOLVER.WEIGHT_DECAY": 0.01, "SOLVER.POLY_LR_POWER": 1.0, "SOLVER.WARMUP_ITERS": 1500,
         "SOLVER.WARMUP_FACTOR": 1e-6}
SCHEDULES = {
    "r50": {"SOLVER.OPTIMIZER": "SGD", "SOLVER.BASE_LR": 0.01, "SOLVER.BACKBONE_MULTIPLIER": 1.0,
            "SOLVER.WEIGHT_DECAY": 5e-4, "SOLVER.WEIGHT_DECAY_NORM": 5e-4, "SOLVER.WARMUP_ITERS": 0},
    "deit": {**ADAMW, "SOLVER.BASE_LR": 6e-5, "SOLVER.BACKBONE_MULTIPLIER": 1.0},
    "mit": {**ADAMW, "SOLVER.BASE_LR": 6e-4, "SOLVER.BACKBONE_MULTIPLIER": 0.1},     # 6e-5 of the backbone
}
SCHEDULES["mscan"] = SCHEDULES["mit"]


@pytest.mark.parametrize("leaf", [leaf for leaf in SEMANTIC_SEGMENTORS if leaf not in CITYSCAPES])
def test_a_leaf_is_its_recipe_and_nothing_else(leaf):
    head, _, backbone = Path(leaf).stem.partition("_")
    schedule = next(settings for kind, settings in SCHEDULES.items() if backbone.startswith(kind))
    expected = {**flatten(default_config()), **EVERY_LEAF, **HEADS[head], **schedule, **changes(leaf),
                **OWN.get(f"{head}_{backbone}", {})}
    assert {key: value for key, value in resolved(leaf).items() if value != expected[key]} == {}


@pytest.mark.parametrize("leaf", CITYSCAPES)
def test_cityscapes_is_evaluated_in_windows(leaf):
    """SegFormer's and SegNeXt's recipe: crops of 1024 x 1024, windows of that size in evaluation, 768 apart; 8 images a
    step."""
    head = HEADS[Path(leaf).stem.partition("_")[0]]
    edges = [int(scale / 10 * 1024) for scale in range(5, 21)]
    windows = {
        "DATASETS.TRAIN": ["cityscapes_fine_sem_seg_train"], "DATASETS.TEST": ["cityscapes_fine_sem_seg_val"],
        "INPUT.CROP.SIZE": [1024, 1024], "INPUT.SIZE_DIVISIBILITY": 1024, "INPUT.MIN_SIZE_TRAIN": edges,
        "INPUT.MAX_SIZE_TRAIN": 4096, "INPUT.MIN_SIZE_TEST": 1024, "INPUT.MAX_SIZE_TEST": 2048,
        "TEST.AUG.MIN_SIZES": [512, 768, 1024, 1280, 1536, 1792], "TEST.AUG.MAX_SIZE": 4096,
        "TEST.SLIDING_WINDOW.ENABLED": True, "TEST.SLIDING_WINDOW.SIZE": [1024, 1024],
        "TEST.SLIDING_WINDOW.STRIDE": [768, 768], "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 19,
        "MODEL.RESNETS.NORM": "SyncBN", "SOLVER.IMS_PER_BATCH": 8}
    expected = {**flatten(default_config()), **EVERY_LEAF, **head, **SCHEDULES["mit"], **changes(leaf), **windows}
    assert {key: value for key, value in resolved(leaf).items() if value != expected[key]} == {}

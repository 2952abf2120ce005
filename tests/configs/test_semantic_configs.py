"""configs/: the heads of Detectron2's SemanticSegmentor: settings, published numbers and parameters by hand.

The settings are OpenMMLab's of UPerNet (arXiv 1807.10221) and SegFormer (arXiv 2105.15203), and FDAM's of its DeiT III;
the numbers FDAM's (arXiv 2507.12006) and FDConv's (arXiv 2503.18783). `test_configs.py` has what holds for every leaf,
`test_config_models.py` builds each and counts its parameters.
"""
import pytest

from helpers.config_leaves import FDAM_IN_BLOCKS, MIT_B0, SEMANTIC_SEGMENTORS, TRANSFORMERS, defaults, flatten, resolved
from helpers.parameter_counts import HEAD_PARAMETERS, MIT_WIDTHS, mit_parameters
from helpers.paths import CONFIGS

# Second line of the leaf where a number is published.
SAID = {
    "upernet_deit_s": "mIoU 42.9, FDAM's baseline",
    "upernet_deit_s_fdam": "mIoU 44.3 (baseline 42.9)",
    "upernet_deit3_b_fdam": None,
    "upernet_r50": None,
    "upernet_r50_fdconv": "mIoU +3.1 % (no baseline stated)",
    "segformer_mit_b0": "mIoU 37.4, FDAM's baseline",
    "segformer_mit_b0_fdam": "mIoU 39.8 (baseline 37.4)",
}
LEAVES = {name: f"ade20k/semantic/{name}.yaml" for name in SAID}
CITYSCAPES = "cityscapes/semantic/segformer_mit_b0.yaml"

SHORT_EDGES = [int(scale / 10 * 512) for scale in range(5, 21)]
R50 = {"MODEL.WEIGHTS": "detectron2://ImageNetPretrained/torchvision/R-50.pkl", "MODEL.RESNETS.NORM": "SyncBN"}
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
         "segformer": {"MODEL.SEM_SEG_HEAD.NAME": "SegFormerHead", "MODEL.SEM_SEG_HEAD.CONVS_DIM": 256}}
BACKBONES = {
    "deit_s": TRANSFORMERS["deit_s"],
    "deit_s_fdam": TRANSFORMERS["deit_s_fdam"],
    "deit3_b_fdam": {**TRANSFORMERS["deit3_b_fdam"], "MODEL.VIT.NECK_NORM": "SyncBN"},
    "r50": R50,
    "r50_fdconv": {**R50, "MODEL.BACKBONE.NAME": "build_fdconv_resnet_backbone"},
    "mit_b0": MIT_B0,
    "mit_b0_fdam": {**MIT_B0, **FDAM_IN_BLOCKS},
}
ADAMW = {"SOLVER.WEIGHT_DECAY": 0.01, "SOLVER.POLY_LR_POWER": 1.0, "SOLVER.WARMUP_ITERS": 1500,
         "SOLVER.WARMUP_FACTOR": 1e-6}
SCHEDULES = {
    "r50": {"SOLVER.OPTIMIZER": "SGD", "SOLVER.BASE_LR": 0.01, "SOLVER.BACKBONE_MULTIPLIER": 1.0,
            "SOLVER.WEIGHT_DECAY": 5e-4, "SOLVER.WEIGHT_DECAY_NORM": 5e-4, "SOLVER.WARMUP_ITERS": 0},
    "deit": {**ADAMW, "SOLVER.BASE_LR": 6e-5, "SOLVER.BACKBONE_MULTIPLIER": 1.0},
    "mit": {**ADAMW, "SOLVER.BASE_LR": 6e-4, "SOLVER.BACKBONE_MULTIPLIER": 0.1},     # 6e-5 of the backbone
}


def test_tables_name_every_leaf():
    assert [*sorted(LEAVES.values()), CITYSCAPES] == SEMANTIC_SEGMENTORS
    assert HEAD_PARAMETERS.keys() == LEAVES.keys()


@pytest.mark.parametrize("name", LEAVES)
def test_a_leaf_is_its_recipe_and_nothing_else(name):
    head, _, backbone = name.partition("_")
    schedule = next(settings for kind, settings in SCHEDULES.items() if backbone.startswith(kind))
    expected = {**flatten(defaults()), **EVERY_LEAF, **HEADS[head], **schedule, **BACKBONES[backbone]}
    assert {key: value for key, value in resolved(LEAVES[name]).items() if value != expected[key]} == {}


def test_cityscapes_is_evaluated_in_windows():
    """SegFormer's recipe: crops of 1024 x 1024, windows of that size in evaluation, 768 apart; 8 images a step."""
    edges = [int(scale / 10 * 1024) for scale in range(5, 21)]
    windows = {
        "DATASETS.TRAIN": ["cityscapes_fine_sem_seg_train"], "DATASETS.TEST": ["cityscapes_fine_sem_seg_val"],
        "INPUT.CROP.SIZE": [1024, 1024], "INPUT.SIZE_DIVISIBILITY": 1024, "INPUT.MIN_SIZE_TRAIN": edges,
        "INPUT.MAX_SIZE_TRAIN": 4096, "INPUT.MIN_SIZE_TEST": 1024, "INPUT.MAX_SIZE_TEST": 2048,
        "TEST.AUG.MIN_SIZES": [512, 768, 1024, 1280, 1536, 1792], "TEST.AUG.MAX_SIZE": 4096,
        "TEST.SLIDING_WINDOW.ENABLED": True, "TEST.SLIDING_WINDOW.SIZE": [1024, 1024],
        "TEST.SLIDING_WINDOW.STRIDE": [768, 768], "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 19,
        "MODEL.RESNETS.NORM": "SyncBN", "SOLVER.IMS_PER_BATCH": 8}
    expected = {**flatten(defaults()), **EVERY_LEAF, **HEADS["segformer"], **SCHEDULES["mit"], **MIT_B0, **windows}
    assert {key: value for key, value in resolved(CITYSCAPES).items() if value != expected[key]} == {}


@pytest.mark.parametrize("name", LEAVES)
def test_a_leaf_says_what_is_published(name):
    second = (CONFIGS / LEAVES[name]).read_text().splitlines()[1]
    assert second.startswith(f"# Published: {SAID[name]}" if SAID[name] else "# ")
    assert SAID[name] or "Published: " not in second


def test_published_parameters():
    """OpenMMLab's UPerNet with R50 has 66.5 M; FDAM's table 52.1 M of a DeiT-S without neck; SegFormer's 3.8 M."""
    deit = 12 * (12 * 384 ** 2 + 13 * 384) + 32 * 32 * 384 + 16 * 16 * 3 * 384 + 384
    assert round((HEAD_PARAMETERS["upernet_deit_s"] + deit) / 1e6, 1) == 52.1
    assert round((HEAD_PARAMETERS["upernet_r50"] + 23_508_032) / 1e6, 1) == 66.5
    assert round((HEAD_PARAMETERS["segformer_mit_b0"] + mit_parameters(MIT_WIDTHS, fdam=False)) / 1e6, 1) == 3.8

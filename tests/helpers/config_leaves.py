"""The leaves of configs/: which published recipe each stands for, how it differs from it, and what it resolves to.

``RECIPES``: leaf -> (file in golden/facts/published_configs, entry), from configs/leaves.json. The settings there are
flat dictionaries of the keys that differ from the defaults.
"""
import json
import re
from pathlib import Path

from freqdino.config import default_config, merge_config_file
from helpers.paths import CONFIGS

LEAVES = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.glob("*/*/*.yaml"))
_SECTIONS = json.loads((CONFIGS / "leaves.json").read_text())["leaves"]
FACTS_OF_LEAVES = {f"{leaf}.yaml": facts for leaves in _SECTIONS.values() for leaf, facts in leaves.items()}
# Parameters of the models: those of the published projects, or worked out by hand where a model is ours.
PARAMETERS = {leaf: facts["parameters"] for leaf, facts in FACTS_OF_LEAVES.items()}
RECIPES = {leaf: facts["recipe"].split("/", 1) for leaf, facts in FACTS_OF_LEAVES.items() if "recipe" in facts}
# Detectron2's own; `test_detector_configs.py` holds them against its model zoo and the published tables.
DETECTORS = [leaf for leaf in LEAVES if Path(leaf).name.startswith(("faster_rcnn", "mask_rcnn", "panoptic_fpn"))]
# Heads of Detectron2's SemanticSegmentor; `test_semantic_configs.py` holds them against their recipes.
SEMANTIC_SEGMENTORS = [leaf for leaf in LEAVES if Path(leaf).name.startswith(
    ("upernet", "segformer", "segnext"))]
# For own data; `test_own_configs.py` holds them against the leaves of the published recipes. Their classes are counted.
OWN = [leaf for leaf in LEAVES if leaf.startswith("own/")]
OWN_CLASSES = 80                            # with which configs/leaves.json counts their parameters

# What the parts of a leaf's name change in the recipe. The 12-epoch schedule is our own, with boxes in the model's
# frame; so is the place of a module or of a backbone in a published recipe.
VIT = {"MODEL.BACKBONE.NAME": "build_vit_backbone"}
TIMM_VIT = {"MODEL.BACKBONE.NAME": "build_timm_backbone", "MODEL.TIMM.DROP_PATH_RATE": 0.1, "SOLVER.LAYER_DECAY": 0.95}
CHANGES = {
    "12ep": {"SOLVER.MAX_ITER": 88500, "SOLVER.STEPS": [81125], "MODEL.MaskDINO.BOX_FRAME": "padded"},
    "freqfusion": {"MODEL.SEM_SEG_HEAD.FREQFUSION.ENABLED": True},
    "fdconv": {"MODEL.BACKBONE.FDCONV.ENABLED": True},
    "encfdam": {"MODEL.SEM_SEG_HEAD.FDAM.ENABLED": True},
    "fdam": {"MODEL.BACKBONE.FDAM.ENABLED": True, "SOLVER.FREQ_SCALE_MULTIPLIER": 2.0},
    "deit_t": {**VIT, "MODEL.WEIGHTS": "deit_tiny_patch16_224.pth", "MODEL.VIT.EMBED_DIM": 192,
               "MODEL.VIT.NUM_HEADS": 3, "MODEL.VIT.DROP_PATH_RATE": 0.1},
    "deit_s": {**VIT, "MODEL.WEIGHTS": "deit_small_patch16_224.pth", "MODEL.VIT.DROP_PATH_RATE": 0.1},
    "deit3_b": {**VIT, "MODEL.WEIGHTS": "deit3_base_patch16_384.pth", "MODEL.VIT.EMBED_DIM": 768,
                "MODEL.VIT.NUM_HEADS": 12, "MODEL.VIT.DROP_PATH_RATE": 0.15, "SOLVER.LAYER_DECAY": 0.95},
    "dinov2_s": {**TIMM_VIT, "MODEL.WEIGHTS": "timm://vit_small_patch14_reg4_dinov2.lvd142m",
                 "MODEL.TIMM.NAME": "vit_small_patch14_reg4_dinov2"},
    "dinov3_s": {**TIMM_VIT, "MODEL.WEIGHTS": "timm://vit_small_patch16_dinov3.lvd1689m",
                 "MODEL.TIMM.NAME": "vit_small_patch16_dinov3"},
    "convnext_t": {"MODEL.WEIGHTS": "convnext_tiny.fb_in1k.safetensors", "MODEL.BACKBONE.NAME": "build_timm_backbone",
                   "MODEL.TIMM.DROP_PATH_RATE": 0.4},
    "mit_b0": {"MODEL.WEIGHTS": "mit_b0.pth", "MODEL.BACKBONE.NAME": "build_mit_backbone"},
    **{f"mscan_{size}": {"MODEL.WEIGHTS": f"mscan_{size}.pth", "MODEL.BACKBONE.NAME": "build_mscan_backbone",
                         "MODEL.MSCAN.NORM": "SyncBN", "MODEL.MSCAN.SIZE": size.upper()} for size in "tsbl"},
}


def changes(leaf):
    """How a leaf differs from its recipe."""
    changed = {}
    for part, settings in CHANGES.items():
        if re.search(f"_{part}[_.]", leaf):
            changed.update(settings)
    if RECIPES.get(leaf, [""])[0] == "freqfusion":      # there a decoder of another name, here a switch
        changed["MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME"] = "MSDeformAttnPixelDecoder"
    if leaf == "coco/panoptic/mask2former_swin_l_freqfusion.yaml":      # the published file names Swin-B's weights
        changed["MODEL.WEIGHTS"] = "swin_large_patch4_window12_384_22k.pkl"
    return changed


def counted(leaf):
    """Options with which a leaf's model can be built without data."""
    return ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", OWN_CLASSES) if leaf in OWN else ()


def flatten(node, prefix=""):
    """{dotted key: value} of a nested mapping, tuples as lists."""
    flat = {}
    for key, value in node.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def resolved(leaf):
    """The flat values of a leaf before the device is settled, which would switch mixed precision off on the CPU."""
    cfg = default_config()
    merge_config_file(cfg, str(CONFIGS / leaf))
    return flatten(cfg)

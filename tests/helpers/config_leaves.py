"""The leaves of configs/: which published entry each stands for, how it differs from it, and what it resolves to.

``PUBLISHED``: leaf -> (file in golden/facts/published_configs, entry). The settings there are flat dictionaries of the
keys that differ from the defaults.
"""
import json
from pathlib import Path

from detectron2.config import get_cfg

from freqdino.config import add_freqdino_config, merge_config_file
from helpers.paths import CONFIGS

LEAVES = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.glob("*/*/*.yaml"))
# Detectron2's own; `test_detector_configs.py` holds them against its model zoo and the published tables.
DETECTORS = [leaf for leaf in LEAVES if Path(leaf).name.startswith(("faster_rcnn", "mask_rcnn", "panoptic_fpn"))]
# Heads of Detectron2's SemanticSegmentor; `test_semantic_configs.py` holds them against their recipes.
SEMANTIC_SEGMENTORS = [leaf for leaf in LEAVES if Path(leaf).name.startswith(("upernet", "segformer"))]
# Leaf -> parameters of its model: those of the published projects, or worked out by hand where it is ours.
PARAMETERS = {f"{leaf}.yaml": facts["parameters"]
              for leaves in json.loads((CONFIGS / "leaves.json").read_text())["leaves"].values()
              for leaf, facts in leaves.items()}

# leaf -> (file in published_configs, entry)
PUBLISHED = {
    **{f"coco/{task}/mask2former_{backbone}.yaml": ("m2f", f"coco/{task}-segmentation/{entry}.yaml")
       for task in ("instance", "panoptic")
       for backbone, entry in {
           "r50": "maskformer2_R50_bs16_50ep",
           "r101": "maskformer2_R101_bs16_50ep",
           "swin_t": "swin/maskformer2_swin_tiny_bs16_50ep",
           "swin_s": "swin/maskformer2_swin_small_bs16_50ep",
           "swin_b": "swin/maskformer2_swin_base_IN21k_384_bs16_50ep",
           "swin_l": "swin/maskformer2_swin_large_IN21k_384_bs16_100ep",
       }.items()},
    **{f"ade20k/semantic/mask2former_{backbone}.yaml": ("m2f", f"ade20k/semantic-segmentation/{entry}.yaml")
       for backbone, entry in {
           "r50": "maskformer2_R50_bs16_160k",
           "r101": "maskformer2_R101_bs16_90k",
           "swin_t": "swin/maskformer2_swin_tiny_bs16_160k",
           "swin_s": "swin/maskformer2_swin_small_bs16_160k",
           "swin_b": "swin/maskformer2_swin_base_IN21k_384_bs16_160k_res640",
           "swin_l": "swin/maskformer2_swin_large_IN21k_384_bs16_160k_res640",
       }.items()},
    **{f"ade20k/{task}/mask2former_r50.yaml": ("m2f", f"ade20k/{task}-segmentation/maskformer2_R50_bs16_160k.yaml")
       for task in ("instance", "panoptic")},
    **{f"cityscapes/{task}/mask2former_r50.yaml":
           ("m2f", f"cityscapes/{task}-segmentation/maskformer2_R50_bs16_90k.yaml")
       for task in ("instance", "panoptic", "semantic")},
    **{f"coco/{leaf}.yaml": ("maskdino", f"coco/{entry}.yaml")
       for leaf, entry in {
           "instance/maskdino_r50_3s": "instance-segmentation/maskdino_R50_bs16_50ep_3s",
           "instance/maskdino_r50_3s_down1": "instance-segmentation/maskdino_R50_bs16_50ep_3s_dowsample1_2048",
           "instance/maskdino_r50_3s_down1_bitmask":
               "instance-segmentation/maskdino_R50_bs16_50ep_3s_dowsample1_2048_bitmask",
           "instance/maskdino_r50_3s_down2": "instance-segmentation/maskdino_R50_bs16_50ep_3s_dowsample2",
           "instance/maskdino_r50_4s": "instance-segmentation/maskdino_R50_bs16_50ep_4s_dowsample1_2048",
           "instance/maskdino_swin_l": "instance-segmentation/swin/maskdino_R50_bs16_50ep_4s_dowsample1_2048",
           "panoptic/maskdino_r50": "panoptic-segmentation/maskdino_R50_bs16_50ep_3s_dowsample1_2048",
           "panoptic/maskdino_swin_l": "panoptic-segmentation/swin/maskdino_R50_bs16_50ep_4s_dowsample1_2048",
           "instance/maskdino_r50_12ep": "instance-segmentation/maskdino_R50_bs16_50ep_3s",
           "panoptic/maskdino_r50_12ep": "panoptic-segmentation/maskdino_R50_bs16_50ep_3s_dowsample1_2048",
       }.items()},
    **{f"{dataset}/semantic/maskdino_r50.yaml": ("maskdino", f"{dataset}/semantic-segmentation/{entry}.yaml")
       for dataset, entry in {"ade20k": "maskdino_R50_bs16_160k_steplr",
                              "cityscapes": "maskdino_R50_bs16_90k_steplr"}.items()},
    **{f"{leaf}_freqfusion.yaml": ("freqfusion", f"{entry}.yaml")
       for leaf, entry in {
           "coco/panoptic/mask2former_r50": "coco/panoptic-segmentation/maskformer2_FreqFusion_R50_bs16_50ep",
           "coco/panoptic/mask2former_r101": "coco/panoptic-segmentation/maskformer2_FreqFusion_R101_bs16_50ep",
           "coco/panoptic/mask2former_swin_l":
               "coco/panoptic-segmentation/swin/maskformer2_FreqFusion_swin_large_IN21k_384_bs16_100ep",
           "ade20k/semantic/mask2former_r50": "ade20k/semantic-segmentation/maskformer2_FreqAware_R50_bs16_160k",
           "ade20k/semantic/mask2former_swin_b":
               "ade20k/semantic-segmentation/swin/maskformer2_FreqAware_swin_base_IN21k_384_bs16_160k_res640",
           "ade20k/semantic/mask2former_swin_l":
               "ade20k/semantic-segmentation/swin/maskformer2_FreqAware_swin_large_IN21k_384_bs16_160k_res640",
           "cityscapes/semantic/mask2former_r50":
               "cityscapes/semantic-segmentation/maskformer2_FreqAware_R50_bs16_90k",
           "cityscapes/semantic/mask2former_r101":
               "cityscapes/semantic-segmentation/maskformer2_FreqAware_R101_bs16_90k",
           "cityscapes/semantic/mask2former_swin_b":
               "cityscapes/semantic-segmentation/swin/maskformer2_FreqAware_swin_base_IN21k_384_bs16_90k",
           "cityscapes/semantic/mask2former_swin_l":
               "cityscapes/semantic-segmentation/swin/maskformer2_FreqAware_swin_large_IN21k_384_bs16_90k",
       }.items()},
}
# The 12-epoch recipes are our own: the published models under a shorter schedule, boxes in the model's frame.
SHORT_SCHEDULE = {"SOLVER.MAX_ITER": 88500, "SOLVER.STEPS": [81125], "MODEL.MaskDINO.BOX_FRAME": "padded"}
# FreqFusion is a switch of either model's pixel decoder here, a decoder of another name there.
FREQFUSION = {"MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": "MSDeformAttnPixelDecoder",
              "MODEL.SEM_SEG_HEAD.FREQFUSION.ENABLED": True}
DIFFERENCES = {
    **{f"coco/{task}/maskdino_r50_12ep.yaml": SHORT_SCHEDULE for task in ("instance", "panoptic")},
    **{leaf: FREQFUSION for leaf, (family, _) in PUBLISHED.items() if family == "freqfusion"},
    "coco/panoptic/mask2former_swin_l_freqfusion.yaml":     # the published file names Swin-B's weights for Swin-L
        {**FREQFUSION, "MODEL.WEIGHTS": "swin_large_patch4_window12_384_22k.pkl"},
}

# Ours to combine with published recipes: frequency modules with R50's ...
MODULES = {"freqfusion": "MODEL.SEM_SEG_HEAD.FREQFUSION.ENABLED", "fdconv": "MODEL.BACKBONE.FDCONV.ENABLED",
           "encfdam": "MODEL.SEM_SEG_HEAD.FDAM.ENABLED"}
WITH_MODULES = {
    f"{plain}_{suffix}.yaml": f"{plain}.yaml"
    for plain in ("ade20k/semantic/mask2former_r50", "coco/instance/mask2former_r50", "coco/instance/maskdino_r50_12ep",
                  "coco/panoptic/maskdino_r50_12ep")
    for suffix in (*MODULES, "freqfusion_fdconv_encfdam")
    if f"{plain}_{suffix}.yaml" not in PUBLISHED
}
# ... transformers in R50's place, plain or with FDAM in their blocks ...
VIT = {"MODEL.BACKBONE.NAME": "build_vit_backbone"}
FDAM_IN_BLOCKS = {"MODEL.BACKBONE.FDAM.ENABLED": True, "SOLVER.FREQ_SCALE_MULTIPLIER": 2.0}
DEIT_S = {**VIT, "MODEL.WEIGHTS": "deit_small_patch16_224.pth", "MODEL.VIT.DROP_PATH_RATE": 0.1}
TRANSFORMERS = {
    "deit_s": DEIT_S,
    "deit_t_fdam": {**VIT, **FDAM_IN_BLOCKS, "MODEL.WEIGHTS": "deit_tiny_patch16_224.pth", "MODEL.VIT.EMBED_DIM": 192,
                    "MODEL.VIT.NUM_HEADS": 3, "MODEL.VIT.DROP_PATH_RATE": 0.1},
    "deit_s_fdam": {**DEIT_S, **FDAM_IN_BLOCKS},
    "deit3_b_fdam": {**VIT, **FDAM_IN_BLOCKS, "MODEL.WEIGHTS": "deit3_base_patch16_384.pth", "MODEL.VIT.EMBED_DIM": 768,
                     "MODEL.VIT.NUM_HEADS": 12, "MODEL.VIT.DROP_PATH_RATE": 0.15, "SOLVER.LAYER_DECAY": 0.95},
}
WITH_TRANSFORMERS = {
    **{f"ade20k/semantic/mask2former_{deit}.yaml": ("ade20k/semantic/mask2former_r50.yaml", deit)
       for deit in TRANSFORMERS},
    **{f"{place}_{deit}.yaml": (f"{place}_{r50}.yaml", deit)
       for place, r50 in {"ade20k/semantic/maskdino": "r50", "coco/instance/mask2former": "r50",
                          "coco/instance/maskdino": "r50_3s"}.items()
       for deit in ("deit_s_fdam", "deit3_b_fdam")},
}
# ... and the other backbones, leaf -> (plain leaf, differences): Swin with modules, ConvNeXt and MiT in R50's place.
FDCONV = {"MODEL.BACKBONE.FDCONV.ENABLED": True}
CONVNEXT_T = {"MODEL.WEIGHTS": "convnext_tiny.fb_in1k.safetensors", "MODEL.BACKBONE.NAME": "build_timm_backbone",
              "MODEL.TIMM.DROP_PATH_RATE": 0.4}
MIT_B0 = {"MODEL.WEIGHTS": "mit_b0.pth", "MODEL.BACKBONE.NAME": "build_mit_backbone"}
WITH_BACKBONES = {
    **{f"ade20k/semantic/mask2former_{backbone}.yaml": (f"ade20k/semantic/mask2former_{plain}.yaml", differences)
       for backbone, (plain, differences) in {
           "swin_t_fdam": ("swin_t", FDAM_IN_BLOCKS), "swin_b_fdam": ("swin_b", FDAM_IN_BLOCKS),
           "swin_t_fdconv": ("swin_t", FDCONV),
           "convnext_t": ("r50", CONVNEXT_T), "convnext_t_fdconv": ("r50", {**CONVNEXT_T, **FDCONV}),
           "mit_b0": ("r50", MIT_B0), "mit_b0_fdam": ("r50", {**MIT_B0, **FDAM_IN_BLOCKS}),
       }.items()},
    "coco/instance/maskdino_convnext_t_12ep_fdconv.yaml":
        ("coco/instance/maskdino_r50_12ep.yaml", {**SHORT_SCHEDULE, **CONVNEXT_T, **FDCONV}),
}
for leaf, plain in WITH_MODULES.items():
    PUBLISHED[leaf] = PUBLISHED[plain]
    switches = {key: True for module, key in MODULES.items() if module in leaf}
    DIFFERENCES[leaf] = {**DIFFERENCES.get(plain, {}), **switches}
for leaf, (plain, deit) in WITH_TRANSFORMERS.items():
    PUBLISHED[leaf], DIFFERENCES[leaf] = PUBLISHED[plain], TRANSFORMERS[deit]
for leaf, (plain, differences) in WITH_BACKBONES.items():
    PUBLISHED[leaf], DIFFERENCES[leaf] = PUBLISHED[plain], differences


def flatten(node, prefix=""):
    """{dotted key: value} of a nested mapping, tuples as lists."""
    flat = {}
    for key, value in node.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def defaults():
    cfg = get_cfg()
    add_freqdino_config(cfg)
    return cfg


def resolved(leaf):
    """The flat values of a leaf before the device is settled, which would switch mixed precision off on the CPU."""
    cfg = defaults()
    merge_config_file(cfg, str(CONFIGS / leaf))
    return flatten(cfg)

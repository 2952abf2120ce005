"""configs/: how the files compose, and that every leaf resolves to the published settings.

The published settings are flat dictionaries of the keys that differ from the defaults; they are looked for under the
environment variable FREQDINO_FACTS, then ../shared/facts beside the repository. Without them the tests by hand remain.
"""
import json
import math
import os
from fractions import Fraction
from pathlib import Path

import pytest
from detectron2.config import get_cfg

from freqdino.config.keys import add_freqdino_config
from freqdino.config.loading import load_config, merge_config_file, read_yaml

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
FACTS = Path(os.environ.get("FREQDINO_FACTS", ROOT.parent / "shared" / "facts"))
BASES = sorted((CONFIGS / "_base_").glob("*.yaml"))
LEAVES = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.glob("*/*/*.yaml"))
# Detectron2's own; `test_detector_configs.py` holds them against its model zoo and the published tables.
DETECTORS = [leaf for leaf in LEAVES if Path(leaf).name.startswith(("faster_rcnn", "mask_rcnn", "panoptic_fpn"))]
# Heads of Detectron2's SemanticSegmentor; `test_semantic_configs.py` holds them against their recipes.
SEMANTIC_SEGMENTORS = [leaf for leaf in LEAVES if Path(leaf).name.startswith(("upernet", "segformer"))]

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
           "fdam": "MODEL.SEM_SEG_HEAD.FDAM.ENABLED"}
WITH_MODULES = {
    f"{plain}_{suffix}.yaml": f"{plain}.yaml"
    for plain in ("ade20k/semantic/mask2former_r50", "coco/instance/mask2former_r50", "coco/instance/maskdino_r50_12ep",
                  "coco/panoptic/maskdino_r50_12ep")
    for suffix in (*MODULES, "freqfusion_fdconv_fdam")
    if f"{plain}_{suffix}.yaml" not in PUBLISHED
}
# ... transformers in R50's place, plain or with FDAM in their blocks ...
FDAM_VIT = {"MODEL.BACKBONE.NAME": "build_fdam_vit_backbone", "SOLVER.FREQ_SCALE_MULTIPLIER": 2.0}
DEIT_S = {"MODEL.WEIGHTS": "deit_small_patch16_224.pth", "MODEL.VIT.DROP_PATH_RATE": 0.1}
TRANSFORMERS = {
    "deit_s": {**DEIT_S, "MODEL.BACKBONE.NAME": "build_vit_backbone"},
    "deit_t_fdam": {**FDAM_VIT, "MODEL.WEIGHTS": "deit_tiny_patch16_224.pth", "MODEL.VIT.EMBED_DIM": 192,
                    "MODEL.VIT.NUM_HEADS": 3, "MODEL.VIT.DROP_PATH_RATE": 0.1},
    "deit_s_fdam": {**FDAM_VIT, **DEIT_S},
    "deit3_b_fdam": {**FDAM_VIT, "MODEL.WEIGHTS": "deit3_base_patch16_384.pth", "MODEL.VIT.EMBED_DIM": 768,
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
FDAM_IN_BLOCKS = {"MODEL.BACKBONE.FDAM.ENABLED": True, "SOLVER.FREQ_SCALE_MULTIPLIER": 2.0}
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

CLASSES = {
    "coco/instance": 80, "coco/panoptic": 80 + 53,
    "ade20k/semantic": 150, "ade20k/instance": 100, "ade20k/panoptic": 100 + 50,
    "cityscapes/semantic": 19, "cityscapes/instance": 8, "cityscapes/panoptic": 8 + 11,
}
COCO_IMAGES, BATCH = 118_000, 16


def flatten(node, prefix=""):
    """{dotted key: value} of a nested mapping, tuples as lists."""
    flat = {}
    for key, value in node.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def bases_of(path):
    """The files that ``_BASE_`` of ``path`` names."""
    named = read_yaml(str(path)).get("_BASE_", [])
    return [(path.parent / base).resolve() for base in ([named] if isinstance(named, str) else named)]


def merge_order(path):
    """``path`` and all its bases in the order of merging, independently of the loader."""
    return [file for base in bases_of(path) for file in merge_order(base)] + [path]


def own_values(path):
    values = read_yaml(str(path))
    values.pop("_BASE_", None)
    return flatten(values)


def defaults():
    cfg = get_cfg()
    add_freqdino_config(cfg)
    return cfg


def resolved(leaf):
    """The flat values of a leaf before the device is settled, which would switch mixed precision off on the CPU."""
    cfg = defaults()
    merge_config_file(cfg, str(CONFIGS / leaf))
    return flatten(cfg)


@pytest.mark.parametrize("leaf", LEAVES)
def test_leaf_loads_for_training(leaf):
    cfg = load_config(str(CONFIGS / leaf), ["SOLVER.IMS_PER_BATCH", "2"])
    assert cfg.SOLVER.IMS_PER_BATCH == 2


@pytest.mark.parametrize("leaf", LEAVES)
def test_leaf_is_short_and_opens_with_its_command(leaf):
    lines = (CONFIGS / leaf).read_text().splitlines()
    assert lines[0] == f"# python train_net.py --config-file configs/{leaf} --num-gpus 8"
    assert len(lines) <= 15
    assert all(len(line) <= 120 for line in lines)


@pytest.mark.parametrize("base", BASES, ids=lambda path: path.name)
def test_base_says_what_it_is(base):
    assert base.name.split("_")[0] in ("data", "model", "schedule")
    assert base.read_text().startswith("# ")


def test_every_base_is_used():
    used = {file for path in CONFIGS.rglob("*.yaml") if path not in BASES for file in merge_order(path)}
    assert [base.name for base in BASES if base.resolve() not in used] == []


@pytest.mark.parametrize("leaf", LEAVES)
def test_no_base_is_merged_twice(leaf):
    """A base merged again by a later file would undo what stands between the two."""
    order = merge_order((CONFIGS / leaf).resolve())
    assert len(set(order)) == len(order)


@pytest.mark.parametrize("leaf", LEAVES)
def test_every_value_of_every_layer_changes_something(leaf):
    values = flatten(defaults())
    for file in merge_order((CONFIGS / leaf).resolve()):
        said = own_values(file)
        repeated = [key for key, value in said.items() if values[key] == value]
        assert repeated == [], f"{file.name} repeats what holds already"
        values.update(said)


def test_no_two_files_say_the_same():
    said = {}
    for path in [*BASES, *(CONFIGS / leaf for leaf in LEAVES)]:
        content = json.dumps([[str(base) for base in bases_of(path)], own_values(path)])
        assert content not in said, f"{path.name} repeats {said.get(content)}"
        said[content] = path.name


@pytest.mark.parametrize("leaf", PUBLISHED)
def test_facts_worked_out_by_hand(leaf):
    values = resolved(leaf)
    dataset, task, name = leaf.split("/")
    mask_dino = name.startswith("maskdino")
    family = "MODEL.MaskDINO" if mask_dino else "MODEL.MASK_FORMER"
    guided = dataset == "cityscapes" and "swin" in name and "freqfusion" in name
    assert values["MODEL.META_ARCHITECTURE"] == (
        "MaskDINO" if mask_dino else "MaskFormerFreqAware" if guided else "MaskFormer")
    assert values["MODEL.SEM_SEG_HEAD.FREQFUSION.ENABLED"] == ("freqfusion" in name)
    assert values["MODEL.BACKBONE.FDCONV.ENABLED"] == ("fdconv" in name)
    # A transformer has FDAM in its blocks, DeiT by the name of its builder; a ResNet's model in its deformable encoder.
    assert values["MODEL.SEM_SEG_HEAD.FDAM.ENABLED"] == ("fdam" in name and "r50" in name)
    assert values["MODEL.BACKBONE.FDAM.ENABLED"] == ("fdam" in name and ("swin" in name or "mit" in name))
    assert (values["MODEL.BACKBONE.NAME"] == "build_fdam_vit_backbone") == ("fdam" in name and "deit" in name)
    assert values["MODEL.SEM_SEG_HEAD.NUM_CLASSES"] == CLASSES[f"{dataset}/{task}"]
    assert all(name.startswith(dataset) for key in ("TRAIN", "TEST") for name in values[f"DATASETS.{key}"])
    assert values[f"{family}.TEST.INSTANCE_ON"] == (task != "semantic")
    assert values["SOLVER.IMS_PER_BATCH"] == BATCH
    assert (values["SOLVER.BASE_LR"], values["SOLVER.CLIP_GRADIENTS.CLIP_VALUE"]) == (1e-4, 0.01)
    swin_l_on_coco = dataset == "coco" and "swin_l" in name
    if mask_dino:
        queries = 100 if task == "semantic" else 300
    else:
        queries = 200 if swin_l_on_coco else 100
    assert values[f"{family}.NUM_OBJECT_QUERIES"] == queries
    if dataset != "coco":
        assert values["SOLVER.MAX_ITER"] == {"ade20k": 160_000, "cityscapes": 90_000}[dataset]
        return
    if swin_l_on_coco and "freqfusion" in name:      # published as 100 epochs: batches of 12
        epochs = Fraction(100 * BATCH, 12)
    else:
        epochs = 12 if "12ep" in name else 100 if swin_l_on_coco and not mask_dino else 50
    iterations = math.floor(Fraction(epochs * COCO_IMAGES, BATCH))
    drops = [Fraction(11, 12)] if epochs == 12 else [Fraction(8, 9), Fraction(26, 27)]
    assert values["SOLVER.MAX_ITER"] == iterations
    assert len(values["SOLVER.STEPS"]) == len(drops)
    assert all(abs(step - drop * iterations) <= 2 for step, drop in zip(values["SOLVER.STEPS"], drops))


def test_table_of_published_entries_is_complete():
    assert sorted([*PUBLISHED, *DETECTORS, *SEMANTIC_SEGMENTORS]) == LEAVES


@pytest.mark.parametrize("leaf", PUBLISHED)
def test_leaf_equals_the_published_settings(leaf):
    """No exception but the differences listed: keys that nothing reads and weights' names are as published too."""
    family, entry = PUBLISHED[leaf]
    path = FACTS / "published_configs" / f"{family}.json"
    if not path.is_file():
        pytest.skip(f"{path} is not there; set FREQDINO_FACTS")
    expected = {**json.loads(path.read_text())[entry], **DIFFERENCES.get(leaf, {})}
    values, default = resolved(leaf), flatten(defaults())
    assert {key: values[key] for key in expected} == expected
    changed = {key: value for key, value in values.items() if value != default[key]}
    assert {key: value for key, value in changed.items() if key not in expected} == {}


def test_readme_lists_every_leaf_with_its_published_result():
    readme = (CONFIGS / "README.md").read_text()
    rows = {line.split("](")[1].split(")")[0]: line for line in readme.splitlines() if line.startswith("| [")}
    assert sorted(rows) == LEAVES
    for leaf, row in rows.items():
        said = (CONFIGS / leaf).read_text().partition("# Published: ")[2].partition("\n")[0]
        for remark in (", FDAM", ", Mask2Former", ", the baseline", "; not yet reproduced"):
            said = said.split(remark)[0]
        assert said in row and (said or "| – |" in row), f"{leaf}: {said!r} is not in {row}"


@pytest.mark.parametrize("leaf", LEAVES)
def test_leaves_with_frequency_modules_or_a_result_say_that_nobody_has_reproduced_them(leaf):
    text = (CONFIGS / leaf).read_text()
    has_result = "# Published: " in text or "# No published result" in text
    assert ("not yet reproduced" in text) == (has_result or any(f"_{module}" in leaf for module in MODULES))

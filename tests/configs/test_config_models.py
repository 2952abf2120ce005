"""configs/: the model that every leaf builds has the published parameters, and the published state dict key by key.

Models are made on the device "meta", so that no weight is allocated or initialised. The parameter counts are those of
the published projects; the manifests (state dict key -> shape and dtype) are looked for as in `test_configs.py`.
"""
import contextlib
import functools
import json
import math
import os
from pathlib import Path

import pytest
import torch
from configs.test_configs import WITH_BACKBONES, WITH_MODULES, WITH_TRANSFORMERS
from configs.test_detector_configs import PARAMETERS as DETECTORS
from configs.test_semantic_configs import HEAD_PARAMETERS, MIT_WIDTHS, fdam_parameters, mit_parameters
from detectron2.modeling import META_ARCH_REGISTRY
from torch.overrides import TorchFunctionMode

from freqdino.config.loading import load_config

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
FACTS = Path(os.environ.get("FREQDINO_FACTS", ROOT.parent / "shared" / "facts"))
LEAVES = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.glob("*/*/*.yaml"))

PARAMETERS = {
    "ade20k/instance/mask2former_r50.yaml": 43_975_397,
    "ade20k/panoptic/mask2former_r50.yaml": 43_988_247,
    "ade20k/semantic/mask2former_r101.yaml": 63_033_495,
    "ade20k/semantic/mask2former_r50.yaml": 43_988_247,
    "ade20k/semantic/mask2former_r50_freqfusion.yaml": 44_301_549,
    "ade20k/semantic/mask2former_swin_b.yaml": 106_922_191,
    "ade20k/semantic/mask2former_swin_b_freqfusion.yaml": 107_235_493,
    "ade20k/semantic/mask2former_swin_l.yaml": 215_488_779,
    "ade20k/semantic/mask2former_swin_l_freqfusion.yaml": 215_802_081,
    "ade20k/semantic/mask2former_swin_s.yaml": 68_757_537,
    "ade20k/semantic/mask2former_swin_t.yaml": 47_439_633,
    "ade20k/semantic/maskdino_r50.yaml": 43_812_299,
    "cityscapes/instance/mask2former_r50.yaml": 44_004_873,
    "cityscapes/panoptic/mask2former_r50.yaml": 44_007_700,
    "cityscapes/semantic/mask2former_r101_freqfusion.yaml": 63_313_130,
    "cityscapes/semantic/mask2former_r50.yaml": 44_007_700,
    "cityscapes/semantic/mask2former_r50_freqfusion.yaml": 44_321_002,
    "cityscapes/semantic/mask2former_swin_b_freqfusion.yaml": 107_212_002,
    "cityscapes/semantic/mask2former_swin_l_freqfusion.yaml": 215_778_590,
    "cityscapes/semantic/maskdino_r50.yaml": 43_798_216,
    "coco/instance/mask2former_r101.yaml": 62_910_161,
    "coco/instance/mask2former_r50.yaml": 43_970_257,
    "coco/instance/mask2former_swin_b.yaml": 106_904_201,
    "coco/instance/mask2former_swin_l.yaml": 215_521_989,
    "coco/instance/mask2former_swin_s.yaml": 68_739_547,
    "coco/instance/mask2former_swin_t.yaml": 47_421_643,
    "coco/instance/maskdino_r50_12ep.yaml": 43_816_436,
    "coco/instance/maskdino_r50_3s.yaml": 43_816_436,
    "coco/instance/maskdino_r50_3s_down1.yaml": 52_058_004,
    "coco/instance/maskdino_r50_3s_down1_bitmask.yaml": 52_058_004,
    "coco/instance/maskdino_r50_3s_down2.yaml": 49_867_060,
    "coco/instance/maskdino_r50_4s.yaml": 47_404_948,
    "coco/instance/maskdino_swin_l.yaml": 222_799_144,
    "coco/panoptic/mask2former_r101.yaml": 62_923_782,
    "coco/panoptic/mask2former_r101_freqfusion.yaml": 63_237_084,
    "coco/panoptic/mask2former_r50.yaml": 43_983_878,
    "coco/panoptic/mask2former_r50_freqfusion.yaml": 44_297_180,
    "coco/panoptic/mask2former_swin_b.yaml": 106_917_822,
    "coco/panoptic/mask2former_swin_l.yaml": 215_535_610,
    "coco/panoptic/mask2former_swin_l_freqfusion.yaml": 215_848_912,
    "coco/panoptic/mask2former_swin_s.yaml": 68_753_168,
    "coco/panoptic/mask2former_swin_t.yaml": 47_435_264,
    "coco/panoptic/maskdino_r50.yaml": 52_085_193,
    "coco/panoptic/maskdino_r50_12ep.yaml": 52_085_193,
    "coco/panoptic/maskdino_swin_l.yaml": 222_826_333,
}


def fdconv_cost(in_channels, out_channels, kernel, kernel_num=64):
    """Parameters that FDConv has more than a plain convolution: KSM global and local, FBM, padding of the transform."""
    hidden, positions = max(in_channels // 16, 16), kernel ** 2
    heads = in_channels + out_channels + kernel_num + (positions if kernel > 1 else 0)
    ksm_global = in_channels * hidden + 2 * hidden + 2 + (hidden + 1) * heads
    ksm_local = 2 * in_channels + out_channels * positions * (round(math.log2(in_channels) / 2 + 0.5) // 2 * 2 + 1)
    bands = 3 * (9 * in_channels + 1) if kernel == 3 else 0
    rows, columns = out_channels * kernel, in_channels * kernel
    return ksm_global + ksm_local + bands + rows * (2 * (columns // 2 + 1) - columns)


def r50_fdconv_cost():
    """The three convolutions of R50's 16 bottlenecks."""
    total, channels = 0, 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for _ in range(blocks):
            total += (fdconv_cost(channels, width, 1) + fdconv_cost(width, width, 3)
                      + fdconv_cost(width, 4 * width, 1))
            channels = 4 * width
    return total


def transformer_parameters(width, heads, fdam):
    """12 blocks, the position embedding of 32 × 32 patches, the patches' projection, the neck."""
    block = 12 * width ** 2 + 15 * width        # qkv, proj, MLP with biases; two normalisations, two LayerScales
    if fdam:
        block += fdam_parameters(width, heads)
    neck = 3 * (4 * width ** 2 + width) + 2 * width
    return 12 * block + 32 * 32 * width + 16 * 16 * 3 * width + width + neck


def swin_cost(width, depths, cost):
    """``cost(width, heads)`` of each block; heads have 32 channels."""
    return sum(blocks * cost(width << stage, (width << stage) // 32) for stage, blocks in enumerate(depths))


def swin_fdconv_cost(width, heads):
    """qkv, proj and the MLP of a block."""
    return sum(fdconv_cost(*channels, 1) for channels in (
        (width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)))


def convnext_parameters(widths, depths, fdconv):
    """Four stages: patches and their normalisation; blocks of a 7 × 7 convolution by channel, LayerNorm, MLP, scale."""
    total, channels, patch, norm = 0, 3, 4, widths[0]
    for width, blocks in zip(widths, depths):
        block = 50 * width + 2 * width + (8 * width ** 2 + 5 * width) + width
        if fdconv:
            block += fdconv_cost(width, 4 * width, 1) + fdconv_cost(4 * width, width, 1)
        total += channels * width * patch ** 2 + width + 2 * norm + blocks * block
        channels, patch, norm = width, 2, width
    return total


def with_backbone(plain, parameters, widths):
    """Of the model that the R50 leaf ``plain`` becomes with a backbone of these ``parameters`` and map widths."""
    inputs = 256 * sum(width - channels for width, channels in zip(widths, R50_CHANNELS))
    return PARAMETERS[plain] - R50_BACKBONE + inputs + parameters


R50_BACKBONE = 23_454_912                       # its convolutions; frozen normalisations have buffers alone
R50_CHANNELS = (256, 512, 1024, 2048)
FUSION = 104_434
COSTS = {"freqfusion": 3 * FUSION, "fdconv": r50_fdconv_cost(), "fdam": 175_236}
for leaf in WITH_MODULES.keys() - PARAMETERS.keys():
    added = sum(cost for module, cost in COSTS.items() if f"_{module}" in leaf)
    if "panoptic/maskdino" in leaf and "freqfusion" in leaf:
        added += FUSION                         # for the encoder's extra level
    PARAMETERS[leaf] = PARAMETERS[WITH_MODULES[leaf]] + added
for leaf, (plain, deit) in WITH_TRANSFORMERS.items():
    width, heads = {"deit_t": (192, 3), "deit_s": (384, 6), "deit3_b": (768, 12)}[deit.removesuffix("_fdam")]
    parameters = transformer_parameters(width, heads, fdam=deit.endswith("_fdam"))
    PARAMETERS[leaf] = with_backbone(plain, parameters, 4 * (width,))
SWIN_COSTS = {"swin_t_fdam": swin_cost(96, (2, 2, 6, 2), fdam_parameters),
              "swin_b_fdam": swin_cost(128, (2, 2, 18, 2), fdam_parameters),
              "swin_t_fdconv": swin_cost(96, (2, 2, 6, 2), swin_fdconv_cost)}
CONVNEXT_T = {"widths": (96, 192, 384, 768), "depths": (3, 3, 9, 3)}
for leaf, (plain, _) in WITH_BACKBONES.items():
    if "swin" in leaf:
        PARAMETERS[leaf] = PARAMETERS[plain] + SWIN_COSTS[Path(leaf).stem.removeprefix("mask2former_")]
    elif "convnext_t" in leaf:
        parameters = convnext_parameters(**CONVNEXT_T, fdconv="fdconv" in leaf)
        PARAMETERS[leaf] = with_backbone(plain, parameters, CONVNEXT_T["widths"])
    else:
        PARAMETERS[leaf] = with_backbone(plain, mit_parameters(MIT_WIDTHS, fdam="fdam" in leaf), MIT_WIDTHS)

PARAMETERS.update(DETECTORS)
R50_NORMS = 53_120                              # scales and shifts, where normalisations are trained
SEMANTIC_BACKBONES = {
    "deit_s": transformer_parameters(384, 6, fdam=False), "deit_s_fdam": transformer_parameters(384, 6, fdam=True),
    "deit3_b_fdam": transformer_parameters(768, 12, fdam=True), "r50": R50_BACKBONE + R50_NORMS,
    "r50_fdconv": R50_BACKBONE + R50_NORMS + COSTS["fdconv"], "mit_b0": mit_parameters(MIT_WIDTHS, fdam=False),
    "mit_b0_fdam": mit_parameters(MIT_WIDTHS, fdam=True),
}
for name, head in HEAD_PARAMETERS.items():
    PARAMETERS[f"ade20k/semantic/{name}.yaml"] = head + SEMANTIC_BACKBONES[name.partition("_")[2]]

MANIFESTS = {
    "ade20k/semantic/mask2former_r50.yaml": "m2f_ade_sem_r50",
    "ade20k/semantic/mask2former_r50_freqfusion.yaml": "freqfusion_ade_sem_r50",
    "ade20k/semantic/mask2former_swin_b_freqfusion.yaml": "freqfusion_ade_sem_swinb",
    "ade20k/semantic/maskdino_r50.yaml": "maskdino_ade_sem_r50",
    "cityscapes/semantic/mask2former_r101_freqfusion.yaml": "freqfusion_city_sem_r101",
    "cityscapes/semantic/mask2former_r50_freqfusion.yaml": "freqfusion_city_sem_r50",
    "cityscapes/semantic/mask2former_swin_b_freqfusion.yaml": "freqfusion_city_sem_swinb",
    "cityscapes/semantic/maskdino_r50.yaml": "maskdino_cityscapes_sem_r50",
    "coco/instance/mask2former_r50.yaml": "m2f_coco_ins_r50",
    "coco/instance/mask2former_swin_t.yaml": "m2f_coco_ins_swint",
    "coco/instance/maskdino_r50_3s.yaml": "maskdino_coco_ins_r50_3s",
    "coco/instance/maskdino_r50_3s_down1.yaml": "maskdino_coco_ins_r50_3s_d1",
    "coco/instance/maskdino_r50_3s_down1_bitmask.yaml": "maskdino_coco_ins_r50_3s_d1_bitmask",
    "coco/instance/maskdino_r50_3s_down2.yaml": "maskdino_coco_ins_r50_3s_d2",
    "coco/instance/maskdino_r50_4s.yaml": "maskdino_coco_ins_r50_4s",
    "coco/instance/maskdino_swin_l.yaml": "maskdino_coco_ins_swinl",
    "coco/panoptic/mask2former_r101_freqfusion.yaml": "freqfusion_coco_pan_r101",
    "coco/panoptic/mask2former_r50.yaml": "m2f_coco_pan_r50",
    "coco/panoptic/mask2former_r50_freqfusion.yaml": "freqfusion_coco_pan_r50",
    "coco/panoptic/mask2former_swin_l.yaml": "m2f_coco_pan_swinl",
    "coco/panoptic/maskdino_r50.yaml": "maskdino_coco_pan_r50",
    "coco/panoptic/maskdino_swin_l.yaml": "maskdino_coco_pan_swinl",
}


class EmptyWeights(TorchFunctionMode):
    """Parameters and buffers on the device "meta".

    ``torch.device("meta")`` will not do: it takes ``torch.linspace`` too, whose values Swin reads at construction.
    """

    MAKERS = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in self.MAKERS and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


@functools.cache
def summary(leaf, options=()):
    """The number of parameters of a leaf's model, and its state dict as {key: (shape, dtype)}."""
    cfg = load_config(str(CONFIGS / leaf), options)
    # timm's networks are tried on an image when they are made, which FDConv does not do on the device "meta".
    tried = cfg.MODEL.BACKBONE.NAME == "build_timm_backbone" and cfg.MODEL.BACKBONE.FDCONV.ENABLED
    with contextlib.nullcontext() if tried else EmptyWeights():
        model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    count = sum(parameter.numel() for parameter in model.parameters())
    return count, {key: (list(value.shape), str(value.dtype).removeprefix("torch."))
                   for key, value in model.state_dict().items()}


def skip_where_unregistered(leaf):
    if "/maskdino_" in leaf and "MaskDINO" not in META_ARCH_REGISTRY:
        pytest.skip("the meta-architecture MaskDINO is not registered")


def test_costs_are_the_published_ones():
    assert abs(COSTS["fdconv"] - 3_647_000) < 0.005 * 3_647_000
    # FDAM's paper: + 0.1 M for attention inversion and + 0.5 M for frequency scaling in DeiT-S.
    assert abs(transformer_parameters(384, 6, True) - transformer_parameters(384, 6, False) - 0.6e6) < 0.05e6


def test_tables_name_every_leaf():
    assert sorted(PARAMETERS) == LEAVES
    assert set(MANIFESTS) <= set(LEAVES)


@pytest.mark.parametrize("leaf", LEAVES)
def test_leaf_builds_with_the_published_number_of_parameters(leaf):
    skip_where_unregistered(leaf)
    assert summary(leaf)[0] == PARAMETERS[leaf]


@pytest.mark.parametrize("leaf", [leaf for leaf in LEAVES
                                  if "mask2former" in leaf and leaf.endswith("_freqfusion.yaml")
                                  and leaf.replace("_freqfusion", "") in LEAVES])
def test_cost_of_freqfusion(leaf):
    plain = leaf.replace("_freqfusion", "")
    assert PARAMETERS[leaf] - PARAMETERS[plain] == COSTS["freqfusion"]


@pytest.mark.parametrize("leaf", sorted(MANIFESTS))
def test_state_dict_equals_the_published_one(leaf):
    skip_where_unregistered(leaf)
    path = FACTS / "manifests" / f"{MANIFESTS[leaf]}.json"
    if not path.is_file():
        pytest.skip(f"{path} is not there; set FREQDINO_FACTS")
    expected = {key: (entry["shape"], entry["dtype"]) for key, entry in json.loads(path.read_text()).items()}
    actual = summary(leaf)[1]
    assert sorted(actual) == sorted(expected)
    assert {key: value for key, value in actual.items() if value != expected[key]} == {}


@pytest.mark.parametrize("leaf", [leaf for leaf in LEAVES if "mask2former" in leaf and
                                  "_freqfusion" in leaf and "swin_l" not in leaf])
def test_published_decoder_names_mean_the_switch(leaf):
    names = ("FreqAwareMSDeformAttnPixelDecoder", "FreqAwareMSDeformAttnPixelDecoder2")
    name = names["ade20k" not in leaf or "swin" in leaf]
    options = ("MODEL.SEM_SEG_HEAD.FREQFUSION.ENABLED", False, "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", name)
    assert summary(leaf, options) == summary(leaf)


def test_readme_gives_the_parameters_that_a_module_adds():
    section = (CONFIGS / "README.md").read_text().split("## What they cost")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if ".yaml) |" in line]
    assert {row.split()[1] for row in rows} == {"FreqFusion", "FDConv", "FDAM"}
    for row in rows:
        leaf = row.split("](")[1].split(")")[0]
        plain = leaf.replace(f"_{row.split()[1].lower()}", "")
        assert plain != leaf and f"| +{PARAMETERS[leaf] - PARAMETERS[plain]:,} |" in row


def test_readme_gives_the_number_of_parameters():
    readme = (CONFIGS / "README.md").read_text()
    rows = {line.split("](")[1].split(")")[0]: line for line in readme.splitlines() if line.startswith("| [")}
    assert {leaf: f"| {count:,} |" in rows[leaf] for leaf, count in PARAMETERS.items()} == dict.fromkeys(LEAVES, True)

"""configs/: the model that every leaf builds has the published parameters, and the published state dict key by key.

Models are made on the device "meta", so that no weight is allocated or initialised. The parameter counts are those of
the published projects; the manifests (state dict key -> shape and dtype) lie in golden/facts.
"""
import contextlib
import functools
import json

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY
from torch.overrides import TorchFunctionMode

from freqdino.config import load_config
from helpers.config_leaves import LEAVES
from helpers.parameter_counts import COSTS, PARAMETERS, transformer_parameters
from helpers.paths import CONFIGS, FACTS

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


def test_costs_are_the_published_ones():
    assert abs(COSTS["fdconv"] - 3_647_000) < 0.005 * 3_647_000
    # FDAM's paper: + 0.1 M for attention inversion and + 0.5 M for frequency scaling in DeiT-S.
    assert abs(transformer_parameters(384, 6, True) - transformer_parameters(384, 6, False) - 0.6e6) < 0.05e6


def test_tables_name_every_leaf():
    assert sorted(PARAMETERS) == LEAVES
    assert set(MANIFESTS) <= set(LEAVES)


@pytest.mark.parametrize("leaf", LEAVES)
def test_leaf_builds_with_the_published_number_of_parameters(leaf):
    assert summary(leaf)[0] == PARAMETERS[leaf]


@pytest.mark.parametrize("leaf", [leaf for leaf in LEAVES
                                  if "mask2former" in leaf and leaf.endswith("_freqfusion.yaml")
                                  and leaf.replace("_freqfusion", "") in LEAVES])
def test_cost_of_freqfusion(leaf):
    plain = leaf.replace("_freqfusion", "")
    assert PARAMETERS[leaf] - PARAMETERS[plain] == COSTS["freqfusion"]


@pytest.mark.parametrize("leaf", sorted(MANIFESTS))
def test_state_dict_equals_the_published_one(leaf):
    manifest = json.loads((FACTS / "manifests" / f"{MANIFESTS[leaf]}.json").read_text())
    expected = {key: (entry["shape"], entry["dtype"]) for key, entry in manifest.items()}
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

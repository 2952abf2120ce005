"""configs/: the model that every leaf builds has the published parameters, and the published state dict key by key.

Models are made on the device "meta", so that no weight is allocated or initialised. The parameter counts are those of
configs/leaves.json; the manifests (state dict key -> shape and dtype) lie in golden/facts.
"""
import contextlib
import functools
import json

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY
from torch.overrides import TorchFunctionMode

from freqdino.config import load_config
from helpers.config_leaves import LEAVES, PARAMETERS, counted
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
    cfg = load_config(str(CONFIGS / leaf), (*counted(leaf), *options))
    # timm's networks are tried on an image when they are made, which FDConv does not do on the device "meta".
    tried = cfg.MODEL.BACKBONE.NAME == "build_timm_backbone" and cfg.MODEL.BACKBONE.FDCONV.ENABLED
    with contextlib.nullcontext() if tried else EmptyWeights():
        model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    count = sum(parameter.numel() for parameter in model.parameters())
    return count, {key: (list(value.shape), str(value.dtype).removeprefix("torch."))
                   for key, value in model.state_dict().items()}


@pytest.mark.parametrize(("plain", "addition", "published", "digits"), [
    ("ade20k/semantic/mask2former_r50", "freqfusion", 313_302, 0),      # of FreqFusion's authors' Mask2Former
    ("ade20k/semantic/segnext_mscan_t", "freqfusion", 257_380, 0),      # of their SegNeXt
    ("ade20k/semantic/mask2former_r50", "fdconv", 3.6e6, -5),           # their papers' tables
    ("ade20k/semantic/mask2former_deit_s", "fdam", 0.6e6, -5),
    ("coco/panoptic/panoptic_fpn_r50", "deconv", 1.8e6, -5),
    ("coco/panoptic/panoptic_fpn_r50", "pixelshuffle", 7.1e6, -5),
    ("coco/panoptic/panoptic_fpn_r50", "carafe", 0.2e6, -5),
    ("coco/panoptic/panoptic_fpn_r50", "indexnet", 6.3e6, -5),
    ("coco/panoptic/panoptic_fpn_r50", "fade", 0.1e6, -5),
    ("coco/panoptic/panoptic_fpn_r50", "sapa_b", 0.1e6, -5),
    ("coco/panoptic/panoptic_fpn_r50", "dysample_s", 6.2e3, -2),
    ("coco/panoptic/panoptic_fpn_r50", "dysample", 49.2e3, -2),
    ("coco/panoptic/panoptic_fpn_r50", "freqfusion", 0.3e6, -5),
])
def test_an_addition_costs_what_is_published(plain, addition, published, digits):
    assert round(PARAMETERS[f"{plain}_{addition}.yaml"] - PARAMETERS[f"{plain}.yaml"], digits) == published


# Upsampler -> parameters of a module of 256 channels; what the papers' tables print of three, four and six of them, and
# what they count besides or not: FADE's gate is in, A2U's biases and normalisations are not.
UPSAMPLERS = {
    "nearest": (0, ()), "bilinear": (0, ()),
    "deconv": (590_080, ("1.8 M",)), "pixelshuffle": (2_360_320, ("7.1 M",)),
    "carafe": (74_148, ("0.222 M", "0.297 M", "0.445 M")),
    "indexnet": (2_100_224, ("6.30 M", "8.40 M", "12.60 M")),
    "a2u": (9_728 + 1_062, ()),
    "fade": (47_257 + 257, ("0.143 M", "0.190 M", "0.285 M")),
    "fade_lite": (13_075 + 257, ("40 K", "53 K", "80 K")),
    "sapa_b": (17_472, ("52.4 K", "69.9 K", "0.105 M")),
    "sapa_d": (139_808, ("0.419 M", "0.559 M", "0.839 M")),
    "dysample_static": (8_224, ("24.7 K", "32.9 K", "49.3 K")),
    "dysample": (16_384 + 32, ("49.2 K",)), "dysample_s": (2_048 + 16, ("6.2 K",)),
    "freqfusion": (104_434, ("0.3 M",)),
}


@pytest.mark.parametrize("name", UPSAMPLERS)
def test_upsamplers_cost_what_is_published(name):
    """Three in a pyramid, six in SegFormer's head; the published detectors' pyramid has four, ours has three."""
    module, published = UPSAMPLERS[name]
    for leaf, key, count in (("coco/panoptic/panoptic_fpn_r50.yaml", "MODEL.FPN.UPSAMPLER", 3),
                             ("ade20k/semantic/segformer_mit_b0.yaml", "MODEL.SEM_SEG_HEAD.UPSAMPLER", 6)):
        assert summary(leaf, (key, name))[0] - PARAMETERS[leaf] == count * module
    for count, printed in zip((3, 4, 6), published):
        digits, unit = printed.split()
        decimals = len(digits.partition(".")[2])
        assert f"{count * module / {'K': 1e3, 'M': 1e6}[unit]:.{decimals}f}" == digits


def test_published_sizes():
    """Of Panoptic FPN with the scales and shifts of the batch normalisations, which are frozen buffers here; FDAM's
    table has a UPerNet on a DeiT-S without neck and LayerScale; OpenMMLab's, SegFormer's and SegNeXt's."""
    for depth, blocks, published in (("r50", (3, 4, 6, 3), 46.0), ("r101", (3, 4, 23, 3), 65.0)):
        channels = 64 + sum(count * 6 * width + 4 * width for count, width in zip(blocks, (64, 128, 256, 512)))
        count = PARAMETERS[f"coco/panoptic/panoptic_fpn_{depth}.yaml"] + 2 * channels
        assert round(count / 1e6, 1) == published
    neck = 3 * (4 * 384 ** 2 + 384) + 2 * 384 + 12 * 2 * 384
    for leaf, added, published in (("upernet_deit_s", neck, 52.1), ("upernet_r50", 0, 66.5),
                                   ("segformer_mit_b0", 0, 3.8)):
        assert round((PARAMETERS[f"ade20k/semantic/{leaf}.yaml"] - added) / 1e6, 1) == published
    for size, published in (("t", 4.26), ("s", 13.93), ("b", 27.64), ("l", 48.93)):
        assert round(PARAMETERS[f"ade20k/semantic/segnext_mscan_{size}.yaml"] / 1e6, 2) == published


def test_tables_name_every_leaf():
    assert sorted(PARAMETERS) == LEAVES
    assert set(MANIFESTS) <= set(LEAVES)


@pytest.mark.parametrize("leaf", LEAVES)
def test_leaf_builds_with_the_published_number_of_parameters(leaf):
    assert summary(leaf)[0] == PARAMETERS[leaf]


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

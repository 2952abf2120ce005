"""What is held against a whole configuration before anything is built: unknown names, switches that nobody reads."""
import pytest
from detectron2.modeling import BACKBONE_REGISTRY

from freqdino.config import load_config
from freqdino.config.checks import FREQUENCY_BACKBONES, FREQUENCY_IN_OUR_MODELS, check_names
from freqdino.errors import ConfigError

KEYS = ["MODEL.SEM_SEG_HEAD.NORM", "MODEL.RESNETS.NORM", "MODEL.FPN.NORM", "MODEL.ROI_BOX_HEAD.NORM",
        "MODEL.ROI_MASK_HEAD.NORM"]


@pytest.mark.parametrize("key", KEYS)
def test_unknown_normalisation(key):
    for name in ("BN", "SyncBN", "FrozenBN", "GN", "LN", "nnSyncBN", ""):
        load_config(opts=[key, name])
    with pytest.raises(ConfigError, match=f"{key} is 'InstanceNorm'; Detectron2 knows BN, SyncBN"):
        load_config(opts=[key, "InstanceNorm"])


def test_the_backbones_that_read_the_switches_are_those_that_are_registered_here():
    load_config()
    ours = {name for name, builder in BACKBONE_REGISTRY if builder.__module__.startswith("freqdino.")}
    assert ours | set(FREQUENCY_IN_OUR_MODELS) == set(FREQUENCY_BACKBONES)


def test_an_upsampler_that_the_backbone_does_not_read():
    with pytest.raises(ConfigError, match="MODEL.FPN.UPSAMPLER is carafe, but the backbone build_resnet_fpn_backbone"):
        load_config(opts=["MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.FPN.UPSAMPLER", "carafe"])


def test_an_upsampler_that_the_head_does_not_read():
    with pytest.raises(ConfigError, match="MODEL.SEM_SEG_HEAD.UPSAMPLER is carafe, but the head UPerNetHead does not"):
        load_config(opts=["MODEL.SEM_SEG_HEAD.NAME", "UPerNetHead", "MODEL.SEM_SEG_HEAD.UPSAMPLER", "carafe"])
    load_config(opts=["MODEL.SEM_SEG_HEAD.NAME", "SegFormerHead", "MODEL.SEM_SEG_HEAD.UPSAMPLER", "carafe"])


@pytest.mark.parametrize("key, name, nearest", [
    ("MODEL.META_ARCHITECTURE", "MaskFormr", "MaskFormer"), ("MODEL.BACKBONE.NAME", "D2Swin", "D2SwinTransformer"),
    ("MODEL.BACKBONE.NAME", "build_resnet50_backbone", "build_resnet_backbone"),
    ("MODEL.ROI_HEADS.NAME", "StandartROIHeads", "StandardROIHeads")])
def test_a_part_that_nobody_has_registered(key, name, nearest):
    check_names(load_config())
    with pytest.raises(ConfigError, match=f"{key} is '{name}', which is not registered; the nearest are {nearest}"):
        check_names(load_config(opts=[key, name]))


def test_a_part_that_the_model_does_not_have_need_not_be_registered():
    check_names(load_config(opts=["MODEL.SEM_SEG_HEAD.NAME", "SomebodysHead"]))

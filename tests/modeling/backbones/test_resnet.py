"""FDConv and frequency scaling in Detectron2's ResNets: which layers, what they cost, what stays trainable."""
import copy

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import build_resnet_backbone
from torch import nn

from freqdino.config import load_config
from freqdino.frequency import FDConv, FrequencyScale
from freqdino.modeling.backbones.resnet import add_fdconv, add_frequency_scale
from helpers.modules import count


def resnet(depth=18, **options):
    cfg = load_config(opts=["MODEL.RESNETS.DEPTH", str(depth), "MODEL.BACKBONE.FREEZE_AT", "0",
                            "MODEL.RESNETS.RES2_OUT_CHANNELS", "64" if depth < 50 else "256",
                            "MODEL.RESNETS.OUT_FEATURES", "['res2', 'res3', 'res4', 'res5']"])
    cfg.MODEL.RESNETS.update(options)
    return build_resnet_backbone(cfg, ShapeSpec(channels=3))


def convolutions(model, kind):
    return {name for name, module in model.named_modules() if type(module) is kind}


@pytest.mark.parametrize(("depth", "converted"), [(18, 2 * 8), (34, 2 * 16), (50, 3 * 16), (101, 3 * 33)])
def test_fdconv_takes_the_convolutions_of_all_branches(depth, converted):
    model = resnet(depth).to("meta")
    add_fdconv(model, kernel_num=64)
    names = convolutions(model, FDConv)
    assert len(names) == converted
    assert {name.rpartition(".")[2] for name in names} == {"conv1", "conv2", *(["conv3"] if depth >= 50 else [])}
    plain = {name for name, module in model.named_modules() if type(module).__name__ == "Conv2d"
             and not any(name.startswith(f"{other}.") for other in names)}
    assert {name.rpartition(".")[2] for name in plain} == {"shortcut", "conv1"}
    assert [name for name in plain if name.endswith("conv1")] == ["stem.conv1"]


def test_cost_of_fdconv_in_resnet50():
    """The published +3.647 million parameters; frozen batch norms are buffers and not counted on either side."""
    model = resnet(50).to("meta")
    before = count(model)
    add_fdconv(model, kernel_num=64)
    assert count(model) - before == pytest.approx(3.647e6, rel=0.005)


def test_cost_of_frequency_scaling_in_resnet50():
    """A block of C channels.

    4 filters for C / 16 channels of 14 x 8 values, an MLP C -> C / 16 -> 64, 2 of its activation.
    """
    model = resnet(50).to("meta")
    before = count(model)
    add_frequency_scale(model)
    expected = sum(blocks * (4 * (width // 16) * 14 * 8 + width * (width // 16) + (width // 16) * 64 + 2)
                   for blocks, width in ((3, 256), (4, 512), (6, 1024), (3, 2048)))
    assert count(model) - before == expected == 1_740_832


@torch.no_grad()
def test_function_stays():
    model = resnet().eval()
    image = torch.randn(1, 3, 64, 96)
    plain = model(image)
    add_fdconv(model, kernel_num=64)
    for name, feature_map in model(image).items():
        torch.testing.assert_close(feature_map, plain[name], rtol=1e-3, atol=1e-3)
    add_frequency_scale(model)
    for name, feature_map in model(image).items():
        torch.testing.assert_close(feature_map, plain[name], rtol=1e-2, atol=1e-2)


@torch.no_grad()
def test_frequency_scaling_stands_before_the_shortcut_is_added():
    model = resnet(50).eval()
    add_frequency_scale(model)
    scale = model.res2[0].freq_scale
    scale.complex_weights.normal_()
    x = torch.randn(1, 64, 8, 12)
    block = copy.deepcopy(model.res2[0])
    branch = block.conv3.forward(block.conv2(block.conv1(x).relu()).relu())
    expected = (branch + FrequencyScale.forward(scale, branch) + block.shortcut(x)).relu()
    torch.testing.assert_close(model.res2[0](x), expected, rtol=1e-4, atol=1e-4)
    assert len(convolutions(model, type(scale))) == 16


def test_modulation_is_trainable_in_frozen_stages():
    model = resnet(NORM="BN").freeze(2)
    add_fdconv(model, kernel_num=64)
    add_frequency_scale(model)
    trainable = {name for name, parameter in model.res2.named_parameters() if parameter.requires_grad}
    assert trainable == {name for name, _ in model.res2.named_parameters()
                         if any(part in name for part in (".KSM_", ".FBM.", ".freq_scale."))}
    assert isinstance(model.res2[0].conv1.norm, FrozenBatchNorm2d)
    assert isinstance(model.res2[0].conv1.KSM_Global.bn, nn.BatchNorm2d)
    assert all(parameter.requires_grad for parameter in model.res3.parameters())


def test_number_of_groups_that_no_layer_has_room_for():
    with pytest.raises(ValueError, match="res2.0.conv1: kernel_num must lie between 1 and"):
        add_fdconv(resnet(), kernel_num=10**6)

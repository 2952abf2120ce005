"""convert_to_fdconv on networks of torchvision and timm: all built without memory, some run."""
import pytest
import timm
import torch
import torchvision
from torch import nn

from freqdino.frequency import FDConv, convert_to_fdconv

TORCHVISION = ("resnet18 resnext50_32x4d wide_resnet50_2 vgg13_bn vgg11_bn mobilenet_v2 mobilenet_v3_small "
               "efficientnet_b0 shufflenet_v2_x1_0 squeezenet1_1 mnasnet0_5 googlenet alexnet maxvit_t").split()
TIMM = ("resnet10t resnetv2_50 convnext_atto edgenext_xx_small mobilevit_xxs mobilenetv4_conv_small efficientvit_b0 "
        "fastvit_t8 mambaout_femto repvgg_a0 hrnet_w18_small dla34 cspresnet50 regnetx_002 tinynet_e levit_conv_128s "
        "poolformer_s12 coatnet_0_rw_224 starnet_s1 skresnet18 resnest14d lcnet_050 rexnet_100 focalnet_tiny_srf "
        "hgnetv2_b0 swiftformer_xs").split()
RUN = ["resnet18", "shufflenet_v2_x1_0", "mnasnet0_5", "squeezenet1_1", "resnet10t", "lcnet_050", "mobilevit_xxs",
       "edgenext_xx_small", "levit_conv_128s", "efficientvit_b0"]
SIZE = {"levit_conv_128s": 224}


def network(name):
    if name in TORCHVISION:
        return torchvision.models.get_model(name, weights=None)
    return timm.create_model(name)


@pytest.mark.parametrize("name", TORCHVISION + TIMM)
def test_without_memory(name):
    """Every convolution that FDConv serves is one then, or part of one."""
    with torch.device("meta"):
        model = network(name)
    layers = {model.get_submodule(name) for name in convert_to_fdconv(model, kernel_num=4)}
    assert layers and all(isinstance(layer, FDConv) and layer.dft_weight.is_meta for layer in layers)
    inside = {part for layer in layers for part in layer.modules()}
    assert all(layer in inside for layer in model.modules() if isinstance(layer, nn.Conv2d)
               and min(layer.in_channels, layer.out_channels) > 16 and set(layer.kernel_size) <= {1, 3})


@torch.no_grad()
@pytest.mark.parametrize("name", RUN)
def test_the_function_stays(name):
    torch.manual_seed(0)
    model = network(name).eval()
    x = torch.randn(2, 3, *[SIZE.get(name, 64)] * 2)
    expected = model(x)
    assert convert_to_fdconv(model, kernel_num=4)
    assert (model(x) - expected).abs().max() <= 1e-3 * expected.abs().max()

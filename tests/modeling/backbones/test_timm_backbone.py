"""Networks of timm as backbones: timm's keys and maps, any size of image, frequency modules, what is refused."""
import copy
import math
import pickle

import pytest
import timm
import torch
from detectron2.layers import ShapeSpec
from torch import nn

from freqdino.frequency import FDConv, FDLinear, ResidualFrequencyScale
from freqdino.modeling.backbones.timm_backbone import add_fdconv, add_frequency_scale, timm_backbone
from helpers.behaviour import replica
from helpers.modules import randomised
from helpers.refusals import refuses

NAMES = ["res2", "res3", "res4", "res5"]
# name -> channels of its maps.
NETWORKS = {"test_convnext": (24, 32, 48, 64), "test_resnet": (32, 48, 192, 96), "test_efficientnet": (24, 32, 48, 64),
            "pvt_v2_b0": (32, 64, 160, 256)}


def backbone(name="test_convnext", **options):
    torch.manual_seed(0)
    return timm_backbone(name, **{"in_chans": 3, "drop_path_rate": 0.0, "activation_checkpointing": False, **options})


def names_of(module, *kinds):
    return {name for name, part in module.network.named_modules() if isinstance(part, kinds)}


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_names_and_sizes(name):
    network = backbone(name).eval()
    assert network.output_shape() == {level: ShapeSpec(channels=channels, stride=stride)
                                      for level, channels, stride in zip(NAMES, NETWORKS[name], (4, 8, 16, 32))}
    assert network.size_divisibility == 32
    for height, width in ((97, 65), (64, 96), (1, 33)):
        maps = network(torch.randn(2, 3, height, width))
        assert list(maps) == NAMES
        for level, shape in network.output_shape().items():
            assert maps[level].shape == (2, shape.channels, math.ceil(height / shape.stride),
                                         math.ceil(width / shape.stride))


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_maps_are_those_of_timm(name):
    network = randomised(backbone(name)).eval()
    source = timm.create_model(name, features_only=True).eval()
    last = {stride: index for index, stride in enumerate(source.feature_info.reduction())}
    # timm's own extractor writes dots of the first level as underscores.
    state = network.state_dict()
    source.load_state_dict({key: state[key if key in state else key.replace("_", ".", 1)]
                            for key in source.state_dict()})
    image = torch.randn(1, 3, 64, 96)
    expected = source(image)
    for level, feature_map in network(image).items():
        torch.testing.assert_close(feature_map, expected[last[network.output_shape()[level].stride]])


@torch.no_grad()
def test_timms_swin_takes_images_of_any_size():
    network = backbone("swin_tiny_patch4_window7_224").eval()
    source = timm.create_model("swin_tiny_patch4_window7_224", features_only=True).eval()
    source.load_state_dict({key.replace("layers.", "layers_"): value for key, value in network.state_dict().items()})
    image = torch.randn(1, 3, 224, 224)
    for feature_map, expected in zip(network(image).values(), source(image), strict=True):
        torch.testing.assert_close(feature_map, expected.permute(0, 3, 1, 2))
    shapes = [tuple(feature_map.shape[1:]) for feature_map in network(image[..., :97, :65]).values()]
    assert shapes == [(96, 25, 17), (192, 13, 9), (384, 7, 5), (768, 4, 3)]


@torch.no_grad()
def test_padding_is_of_zeros_at_the_right_and_bottom():
    network = randomised(backbone()).eval()
    image, padded = torch.randn(1, 3, 50, 70), torch.zeros(1, 3, 64, 96)
    padded[:, :, :50, :70] = image
    maps, expected = network(image), network(padded)
    for level, stride in zip(NAMES, (4, 8, 16, 32)):
        assert torch.equal(maps[level], expected[level][..., :math.ceil(50 / stride), :math.ceil(70 / stride)])


@pytest.mark.parametrize("name", NETWORKS)
def test_keys_are_those_of_timm_without_the_classifier(name):
    network, source = backbone(name).state_dict(), timm.create_model(name).state_dict()
    assert network.keys() < source.keys()
    heads = {key.partition(".")[0] for key in source.keys() - network.keys()}
    assert heads <= {"head", "fc", "classifier", "conv_head", "bn2", "norm_pre"}
    assert all(network[key].shape == source[key].shape for key in network)


def test_a_state_dict_with_timms_names_loads_strictly_wherever_the_backbone_stands():
    source, target = nn.Sequential(randomised(backbone("test_resnet"))), nn.Sequential(backbone("test_resnet"))
    state = source.state_dict()
    assert [*state] == [f"0.{key}" for key in source[0].network.state_dict()]
    target.load_state_dict(state)
    assert all(torch.equal(value, target[0].network.state_dict()[key[2:]]) for key, value in state.items())
    assert [*state] == [*source.state_dict()]
    with pytest.raises(RuntimeError, match=r'(?s)Missing key.*"0.network.conv1.1.weight".*Unexpected key.*"other"'):
        target.load_state_dict({"other": state.pop("0.conv1.1.weight"), **state})


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_is_used(name):
    network = backbone(name, drop_path_rate=0.1 if name != "test_efficientnet" else 0.0).train()
    sum(x.square().mean() for x in network(torch.randn(2, 3, 65, 33)).values()).backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


def test_options():
    assert backbone(in_chans=5).eval()(torch.randn(1, 5, 32, 32))["res2"].shape == (1, 24, 8, 8)
    network = backbone(activation_checkpointing=True, drop_path_rate=0.3)
    assert network.network.stages[0].grad_checkpointing
    assert network.network.stages[3].blocks[-1].drop_path.drop_prob == pytest.approx(0.3)
    assert network.training


def test_activation_checkpointing_keeps_gradients():
    image = torch.randn(1, 3, 32, 64)
    gradients = []
    for activation_checkpointing in (False, True):
        network = randomised(backbone(activation_checkpointing=activation_checkpointing)).train()
        add_fdconv(network, kernel_num=4)
        sum(x.square().mean() for x in network(image).values()).backward()
        gradients.append({name: parameter.grad for name, parameter in network.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_fdconv_in_convnext_takes_the_linear_layers_of_its_blocks():
    network = backbone("convnext_tiny").to("meta")
    assert {conv.kernel_size for conv in network.modules() if isinstance(conv, nn.Conv2d)} == {(4, 4), (2, 2), (7, 7)}
    small = backbone()
    add_fdconv(small, kernel_num=16)
    blocks = [f"stages.{stage}.blocks.{index}" for stage, part in enumerate(small.network.stages)
              for index in range(len(part.blocks))]
    assert names_of(small, FDLinear) == {f"{block}.mlp.{layer}" for block in blocks for layer in ("fc1", "fc2")}
    assert names_of(small, FDConv) == set()


def test_fdconv_in_convnext_with_convolutions_in_its_mlp():
    network = backbone("convnext_atto")
    add_fdconv(network, kernel_num=16)
    assert names_of(network, FDConv) == {f"stages.{stage}.blocks.{index}.mlp.{layer}" for stage, depth in
                                         enumerate((2, 2, 6, 2)) for index in range(depth) for layer in ("fc1", "fc2")}
    assert names_of(network, FDLinear) == set()


def test_fdconv_in_resnet_takes_the_branches():
    network = backbone("resnet14t")         # three convolutions in its stem
    add_fdconv(network, kernel_num=16)
    assert isinstance(network.network.conv1, nn.Sequential) and network.network.layer1[0].downsample is not None
    assert names_of(network, FDConv) == {f"layer{stage}.0.{conv}" for stage in (1, 2, 3, 4)
                                         for conv in ("conv1", "conv2", "conv3")}


def test_squeeze_and_excitation_stays_plain():
    network = backbone("regnety_002")
    add_fdconv(network, kernel_num=16)
    assert names_of(network, FDConv) and not any(".se." in name for name in names_of(network, FDConv))


@pytest.mark.parametrize("name", ["test_convnext2", "test_resnet"])
def test_frequency_modules_start_neutral_and_train(name):
    network = randomised(backbone(name, drop_path_rate=0.1)).eval()
    image = torch.randn(2, 3, 40, 65)
    with torch.no_grad():
        plain = network(image)
        add_fdconv(network, kernel_num=16)
        add_frequency_scale(network)
        for level, feature_map in network.eval()(image).items():
            scale = plain[level].abs().max()
            torch.testing.assert_close(feature_map / scale, plain[level] / scale, rtol=1e-3, atol=1e-3)
    network.train()
    sum(x.square().mean() for x in network(image).values()).backward()
    assert [name for name, parameter in network.named_parameters()
            if parameter.grad is None or not parameter.grad.isfinite().all()] == []


@pytest.mark.parametrize("name", ["test_convnext2", "test_resnet"])
@torch.no_grad()
def test_frequency_scaling_stands_before_the_shortcut_is_added(name):
    network = randomised(backbone(name)).eval()
    blocks = {block_name: block for block_name, block in network.network.named_modules()
              if type(block).__name__ in ("ConvNeXtBlock", "BasicBlock", "Bottleneck")}
    seen = {}
    for block_name, block in blocks.items():
        block.drop_path = nn.Identity()
        block.drop_path.register_forward_hook(
            lambda module, inputs, output, block_name=block_name: seen.update({block_name: inputs[0].shape}))
    network(torch.randn(1, 3, 64, 32))
    add_frequency_scale(network)
    assert names_of(network, ResidualFrequencyScale) == {f"{block_name}.freq_scale" for block_name in blocks}
    for block_name, block in blocks.items():
        assert block.freq_scale.dim == seen[block_name][1]
        branch = torch.randn(1, block.freq_scale.dim, 3, 4)
        assert torch.equal(block.drop_path(branch), block.freq_scale(branch)) and not [*block.drop_path.children()]


@torch.no_grad()
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network)), replica])
def test_a_copy_shares_nothing(copied):
    network = randomised(backbone("test_convnext2")).eval()
    add_frequency_scale(network)
    image = torch.randn(1, 3, 33, 40)
    expected, other = network(image), copied(network)
    for parameter in network.parameters():
        parameter.zero_()
    assert all(torch.equal(feature_map, expected[level]) for level, feature_map in other(image).items())
    assert isinstance(other.network, timm.models.convnext.ConvNeXt)


test_networks_that_are_no_backbone = refuses(backbone, [
    ("convnext_tinny", r"timm \S+ has no network 'convnext_tinny'; the nearest are convnext_tiny, "),
    ("@", "has no network '@'; timm.list_models"),
    ("hf_hub:someone/something", "has no network 'hf_hub:someone/something'"),
    ("test_vit_relpos",
     "timm's test_vit_relpos gives no feature pyramid: a backbone needs maps of strides 4, 8, 16, 32, this network has "
     "16. .*convnext_tiny.* plain vision transformer of timm's VisionTransformer or Eva, such as vit_small"),
    ("levit_128s", "levit_128s gives no feature pyramid: .* this network has 16, 32, 64"),
    ("maxvit_tiny_tf_224",
     "timm's maxvit_tiny_tf_224 is no backbone for images of any size: an image of 64 × 96 pixels fails with: height "
     r"\(16\) must be divisible by window \(7\); take one that is, such as convnext_tiny"),
])


def test_options_that_a_network_does_not_have():
    with pytest.raises(ValueError, match="timm's vgg11 cannot be built with in_chans 3 and drop_path_rate 0.1: "):
        backbone("vgg11", drop_path_rate=0.1)
    with pytest.raises(ValueError, match="timm's dla46_c has no activation checkpointing"):
        backbone("dla46_c", activation_checkpointing=True)


def test_frequency_modules_without_a_place():
    with pytest.raises(ValueError, match="FDConv serves: 1 × 1 or 3 × 3, with more than 16 channels; .*Swin"):
        add_fdconv(backbone("mambaout_femto"), kernel_num=16)
    add_fdconv(backbone("edgenext_xx_small"), kernel_num=16)    # asks a convolution for its weight's type and device
    network = backbone("test_efficientnet")
    block = network.network.get_submodule("blocks.2.0")
    block.register_forward_hook(lambda block, inputs, output: output * block.conv_pwl.weight.std())
    with pytest.raises(ValueError, match="needs more of its layers than their results: an image of 64 × 96 .*"
                                         "FDConv has no weight to compute with"):
        add_fdconv(network, kernel_num=16)
    with pytest.raises(ValueError, match="has a place in ResNets and ConvNeXts; this network has blocks of neither; .*"
                                         "the backbones D2SwinTransformer, build_mit_backbone"):
        add_frequency_scale(backbone("test_efficientnet"))
    with pytest.raises(ValueError, match="stages.0.blocks.0: dim must be a multiple of group, got group 16 and dim 24"):
        add_frequency_scale(backbone("test_convnext"))
    with pytest.raises(ValueError, match="stages.0.blocks.0.mlp.fc1: kernel_num must lie between"):
        add_fdconv(backbone("test_convnext"), kernel_num=10**6)


@pytest.mark.parametrize("name, nearest", [
    ("swin_tiny", "swin_tiny_patch4_window7_224"), ("ConvNeXt_Tiny", "convnext_tiny"), ("resnet-50", "resnet50"),
    ("timm/convnext_tiny.fb_in22k", "convnext_tiny"), ("dinov2", "vit_base_patch14_dinov2")])
def test_the_nearest_name_comes_first(name, nearest):
    with pytest.raises(ValueError, match=f"has no network '{name}'; the nearest are {nearest}"):
        timm_backbone(name, in_chans=3, drop_path_rate=0.0, activation_checkpointing=False)

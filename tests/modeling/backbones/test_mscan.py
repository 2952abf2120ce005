"""MSCAN: published keys and parameter counts, a block against a slow formula, FDAM and FDConv in it, any image size."""
import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from torch import nn

from freqdino.frequency import FDConv, FrequencyScale
from freqdino.modeling.backbones import MSCAN
from freqdino.modeling.backbones.mscan import (
    SIZES,
    ConvolutionalAttention,
    MSCABlock,
    add_fdconv,
    add_frequency_scale,
)
from helpers.modules import count, randomised
from helpers.refusals import refuses

SMALL = {"embed_dims": (32, 32, 48, 64), "depths": (1, 2, 1, 1), "drop_path_rate": 0.0}
NAMES = ["res2", "res3", "res4", "res5"]


def mscan(**options):
    return MSCAN(**{**SMALL, **options})


@pytest.mark.parametrize(("size", "parameters"), [("T", 3_903_584), ("S", 13_450_176), ("B", 26_277_824),
                                                  ("L", 44_636_864)])
def test_published_parameter_counts(size, parameters):
    with torch.device("meta"):
        assert count(MSCAN(size=size)) == parameters


def test_parameters_of_each_stage_of_the_smallest():
    network = MSCAN()
    for stage, published in enumerate(((5_184, 26_112, 83_584), (18_624, 91_136, 292_160), (92_640, 307_840, 1_632_160),
                                       (369_408, 762_880, 1_895_680)), start=1):
        embedding, blocks, norm = (network.get_submodule(f"{part}{stage}") for part in ("patch_embed", "block", "norm"))
        assert (count(embedding), count(blocks[0]), count(embedding) + count(blocks) + count(norm)) == published


@pytest.mark.parametrize(("size", "depths", "rate"), [("T", (3, 3, 5, 2), 0.1), ("S", (2, 2, 4, 2), 0.1),
                                                      ("B", (3, 3, 12, 3), 0.1), ("L", (3, 5, 27, 3), 0.3)])
def test_stochastic_depth_grows_to_the_last_block(size, depths, rate):
    assert SIZES[size].depths == depths
    network = MSCAN(size, embed_dims=(2, 2, 2, 2))
    rates = [module.drop_path.probability for module in network.modules() if isinstance(module, MSCABlock)]
    assert rates == pytest.approx([rate * i / (sum(depths) - 1) for i in range(sum(depths))])


def test_published_keys():
    convolutions = ["attn.proj_1", "attn.proj_2", "mlp.fc1", "mlp.dwconv.dwconv", "mlp.fc2", *(
        f"attn.spatial_gating_unit.conv{name}" for name in ("0", "0_1", "0_2", "1_1", "1_2", "2_1", "2_2", "3"))]
    statistics = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    block = {f"{name}.{kind}" for name in convolutions for kind in ("weight", "bias")} | {
        f"norm{i}.{kind}" for i in (1, 2) for kind in statistics} | {"layer_scale_1", "layer_scale_2"}
    expected = {f"block{stage}.0.{key}" for stage in (1, 2, 3, 4) for key in block}
    expected |= {f"norm{stage}.{kind}" for stage in (1, 2, 3, 4) for kind in ("weight", "bias")}
    for conv, norm in (("patch_embed1.proj.0", "patch_embed1.proj.1"), ("patch_embed1.proj.3", "patch_embed1.proj.4"),
                       *((f"patch_embed{stage}.proj", f"patch_embed{stage}.norm") for stage in (2, 3, 4))):
        expected |= {f"{conv}.weight", f"{conv}.bias", *(f"{norm}.{kind}" for kind in statistics)}
    assert set(mscan(depths=(1, 1, 1, 1)).state_dict()) == expected


def test_shapes_of_the_strips():
    """The 1 × k convolution comes first."""
    gate = mscan().block1[0].attn.spatial_gating_unit
    assert gate.conv0.weight.shape == (32, 1, 5, 5)
    for index, length in enumerate((7, 11, 21)):
        assert gate.get_submodule(f"conv{index}_1").weight.shape == (32, 1, 1, length)
        assert gate.get_submodule(f"conv{index}_2").weight.shape == (32, 1, length, 1)


def test_start():
    torch.manual_seed(0)
    network = MSCAN()
    assert network.norm1.eps == 1e-5
    assert (network.block3[4].layer_scale_2 == 0.01).all()
    # N(0, 2 / (kernel area · output channels of a group)): a depth-wise one has one output channel.
    for name, deviation in (("block3.0.mlp.fc1", (2 / 640) ** 0.5), ("patch_embed4.proj", (2 / (9 * 256)) ** 0.5),
                            ("block4.0.mlp.dwconv.dwconv", (2 / 9) ** 0.5)):
        conv = network.get_submodule(name)
        assert not conv.bias.any() and conv.weight.std().item() == pytest.approx(deviation, rel=0.05)


@pytest.mark.parametrize(("height", "width"), [(97, 65), (64, 96), (1, 1), (5, 33)])
@torch.no_grad()
def test_names_and_sizes(height, width):
    network = mscan().eval()
    add_frequency_scale(network)
    maps = network(torch.randn(2, 3, height, width))
    assert list(maps) == NAMES
    for (name, shape), channels in zip(network.output_shape().items(), SMALL["embed_dims"]):
        assert shape.channels == channels
        assert maps[name].shape == (2, channels, *(math.ceil(size / shape.stride) for size in (height, width))), name


def test_shapes_that_the_heads_are_built_from():
    network = mscan(in_chans=4)
    assert network.output_shape() == {
        "res2": ShapeSpec(channels=32, stride=4), "res3": ShapeSpec(channels=32, stride=8),
        "res4": ShapeSpec(channels=48, stride=16), "res5": ShapeSpec(channels=64, stride=32)}
    assert network.size_divisibility == 32
    assert network.eval()(torch.randn(1, 4, 32, 32))["res5"].shape == (1, 64, 1, 1)


def gelu(x):
    return x * (1 + torch.erf(x / 2 ** 0.5)) / 2


def pointwise(conv, x):
    """A 1 × 1 convolution of a map (C, H, W)."""
    return torch.einsum("oc,chw->ohw", conv.weight[:, :, 0, 0], x) + conv.bias[:, None, None]


def slow_depthwise(weight, bias, x):
    """Each channel of x (C, H, W) with its filter of odd sides, outside of the map zeros, pixel by pixel."""
    channels, height, width = x.shape
    rows, columns = weight.shape[2:]
    result = bias[:, None, None].repeat(1, height, width)
    for i in range(height):
        for j in range(width):
            for row in range(rows):
                for column in range(columns):
                    y, z = i + row - rows // 2, j + column - columns // 2
                    if 0 <= y < height and 0 <= z < width:
                        result[:, i, j] += weight[:, 0, row, column] * x[:, y, z]
    return result


def slow_attention(attention, x):
    """x (C, H, W); conv0, then a row and a column filter of each length."""
    state = attention.spatial_gating_unit.state_dict()

    def by(name, x):
        return slow_depthwise(state[f"{name}.weight"], state[f"{name}.bias"], x)

    inner = gelu(pointwise(attention.proj_1, x))
    near = by("conv0", inner)
    gathered = near + sum(by(f"conv{i}_2", by(f"conv{i}_1", near)) for i in range(3))
    return pointwise(attention.proj_2, inner * pointwise(attention.spatial_gating_unit.conv3, gathered)) + x


@torch.no_grad()
def test_attention_against_a_slow_formula():
    torch.manual_seed(0)
    attention = randomised(ConvolutionalAttention(6).double(), std=0.5)
    x = torch.randn(2, 6, 9, 12, dtype=torch.float64)
    expected = torch.stack([slow_attention(attention, image) for image in x])
    torch.testing.assert_close(attention(x), expected, rtol=1e-10, atol=1e-10)


def batch_norm(norm, x):
    scale = norm.weight / (norm.running_var + 1e-5).sqrt()
    return (x - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]


@pytest.mark.parametrize("fdam", [False, True])
@torch.no_grad()
def test_network_against_a_slow_formula(fdam):
    """Stages 1 and 2: scales of branches, what is normalised when, and that a stage reads the normalised map."""
    torch.manual_seed(0)
    network = mscan(embed_dims=(16, 16, 16, 16))
    if fdam:
        add_frequency_scale(network)
    network = randomised(network.double(), std=0.3).eval()
    for name, buffer in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    image = torch.randn(1, 3, 40, 56, dtype=torch.float64)
    maps = network(image)
    stem = network.patch_embed1.proj
    x = batch_norm(stem[4], stem[3](gelu(batch_norm(stem[1], stem[0](image)[0]))[None])[0])
    for stage, name in ((1, "res2"), (2, "res3")):
        if stage == 2:
            x = batch_norm(network.patch_embed2.norm, network.patch_embed2.proj(x[None])[0])
        for block in network.get_submodule(f"block{stage}"):
            branch = slow_attention(block.attn, batch_norm(block.norm1, x))
            x = x + block.layer_scale_1[:, None, None] * (scaled(block.freq_scale_1, branch) if fdam else branch)
            hidden, conv = pointwise(block.mlp.fc1, batch_norm(block.norm2, x)), block.mlp.dwconv.dwconv
            branch = pointwise(block.mlp.fc2, gelu(slow_depthwise(conv.weight, conv.bias, hidden)))
            x = x + block.layer_scale_2[:, None, None] * (scaled(block.freq_scale_2, branch) if fdam else branch)
        norm = network.get_submodule(f"norm{stage}")
        variance, mean = torch.var_mean(x, dim=0, correction=0)
        x = (x - mean) / (variance + 1e-5).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]
        torch.testing.assert_close(maps[name][0], x, rtol=1e-9, atol=1e-9)


def scaled(scale, branch):
    return branch + FrequencyScale.forward(scale, branch[None])[0]


def test_gradients_of_attention():
    torch.manual_seed(0)
    attention = ConvolutionalAttention(2).double()
    assert torch.autograd.gradcheck(attention, torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True))


def fdconv(network):
    add_fdconv(network, kernel_num=4)


@pytest.mark.parametrize("additions", [(add_frequency_scale,), (fdconv,), (fdconv, add_frequency_scale)],
                         ids=["FDAM", "FDConv", "both"])
def test_frequency_modules_start_neutral_and_train(additions):
    torch.manual_seed(0)
    network = randomised(mscan()).eval()
    image = torch.randn(2, 3, 49, 70)
    with torch.no_grad():
        plain = network(image)
        for add in additions:
            add(network)
        for name, feature_map in network.eval()(image).items():
            torch.testing.assert_close(feature_map, plain[name], rtol=1e-3, atol=1e-3)
    network.train()
    sum(x.square().mean() for x in network(image).values()).backward()
    assert [name for name, parameter in network.named_parameters()
            if parameter.grad is None or not parameter.grad.isfinite().all()] == []


def test_what_fdconv_replaces():
    network = mscan(depths=(1, 1, 1, 1))
    add_fdconv(network, kernel_num=4)
    dynamic = {name for name, module in network.named_modules() if isinstance(module, FDConv)}
    assert all(network.get_submodule(name).active for name in dynamic)
    assert dynamic == {"patch_embed2.proj", "patch_embed3.proj", "patch_embed4.proj"} | {
        f"block{stage}.0.{part}" for stage in (1, 2, 3, 4) for part in (
            "attn.proj_1", "attn.spatial_gating_unit.conv3", "attn.proj_2", "mlp.fc1", "mlp.dwconv.dwconv", "mlp.fc2")}


def test_where_frequency_is_scaled():
    """Both branches of every block; T: Σ blocks · 2 · (4 · C/16 filters of 14 × 8 and the routing C → C/16 → 64)."""
    plain, network = MSCAN(), MSCAN()
    add_frequency_scale(network)
    added = sum(depth * 2 * (4 * (dim // 16) * 14 * 8 + dim * (dim // 16) + (dim // 16) * 64 + 2)
                for dim, depth in zip((32, 64, 160, 256), (3, 3, 5, 2)))
    assert count(network) - count(plain) == added


@torch.no_grad()
def test_images_of_a_batch_do_not_see_each_other():
    network = mscan()
    add_fdconv(network, kernel_num=4)
    add_frequency_scale(network)
    randomised(network).eval()
    images = torch.randn(3, 3, 52, 37)
    together = network(images)
    for index in range(3):
        for name, feature_map in network(images[index:index + 1]).items():
            torch.testing.assert_close(together[name][index], feature_map[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_autocast(dtype):
    network = mscan().eval()
    add_fdconv(network, kernel_num=4)
    add_frequency_scale(network)
    image = torch.randn(1, 3, 64, 80)
    expected = network.eval()(image)
    with torch.autocast("cpu", dtype):
        actual = network(image)
    for name in NAMES:
        assert (actual[name].float() - expected[name]).abs().mean() < 0.05


def test_no_images():
    network = mscan().train()
    maps = network(torch.zeros(0, 3, 64, 64))
    assert maps["res5"].shape == (0, 64, 2, 2)
    sum(each.sum() for each in maps.values()).backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize(("norm", "kind"), [("BN", nn.BatchNorm2d), ("SyncBN", nn.SyncBatchNorm), ("", nn.Identity)])
def test_normalisations(norm, kind):
    network = mscan(norm=norm)
    kinds = {type(layer) for layer in (network.patch_embed1.proj[1], network.patch_embed1.proj[4],
                                       network.patch_embed3.norm, network.block2[1].norm1, network.block4[0].norm2)}
    assert kinds == {kind}


test_bad_arguments = refuses(lambda options: mscan(**options), [
    ({"size": "XL"}, "size must be one of T, S, B, L, got 'XL'"),
    ({"embed_dims": (32, 64, 160)}, r"embed_dims must be four numbers from 2 on, one a stage, got \(32, 64, 160\)"),
    ({"depths": (2, 0, 2, 2)}, r"depths must be four numbers from 1 on, one a stage, got \(2, 0, 2, 2\)"),
    ({"drop_path_rate": 1.0}, "drop_path must be at least 0 and below 1"),
])


def test_channels_that_frequency_modules_do_not_fit():
    with pytest.raises(ValueError, match="block3.0: dim must be a multiple of group, got group 16 and dim 40"):
        add_frequency_scale(mscan(embed_dims=(32, 32, 40, 64)))
    with pytest.raises(ValueError, match="block1.0.attn.proj_1: kernel_num must lie between"):
        add_fdconv(mscan(), kernel_num=10**6)

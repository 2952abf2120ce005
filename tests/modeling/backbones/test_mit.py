"""MiT: published keys and parameter counts, a block against a slow formula, FDAM and FDConv in it, any image size."""
import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec

from freqdino.frequency import FDConv, FDLinear
from freqdino.modeling.backbones.mit import MixTransformer, ReducedAttention
from freqdino.modeling.backbones.token_block import add_fdam, add_fdconv
from helpers.modules import count, randomised
from helpers.refusals import refuses

B0 = {"embed_dims": (32, 64, 160, 256), "depths": (2, 2, 2, 2)}
B1 = {"embed_dims": (64, 128, 320, 512), "depths": (2, 2, 2, 2)}
B2 = {"embed_dims": (64, 128, 320, 512), "depths": (3, 4, 6, 3)}
SMALL = {"embed_dims": (32, 32, 80, 64), "depths": (1, 2, 1, 1)}
NAMES = ["res2", "res3", "res4", "res5"]


def mit(**options):
    return MixTransformer(**{"in_chans": 3, "drop_path_rate": 0.0, "activation_checkpointing": False, **SMALL,
                             **options})


def linear(inputs, outputs):
    return inputs * outputs + outputs


@pytest.mark.parametrize(("variant", "millions"), [(B0, 3.32), (B1, 13.15), (B2, 24.2)], ids=["B0", "B1", "B2"])
def test_published_parameter_counts(variant, millions):
    expected, inputs = 0, 3
    for dim, depth, kernel, reduction in zip(variant["embed_dims"], variant["depths"], (7, 3, 3, 3), (8, 4, 2, 1)):
        norm = 2 * dim
        attention = 2 * linear(dim, dim) + linear(dim, 2 * dim)
        if reduction > 1:
            attention += linear(dim * reduction**2, dim) + norm
        mlp = linear(dim, 4 * dim) + 4 * dim * 9 + 4 * dim + linear(4 * dim, dim)
        expected += linear(inputs * kernel**2, dim) + norm + depth * (attention + mlp + 2 * norm) + norm
        inputs = dim
    assert count(mit(**variant)) == expected
    assert expected / 1e6 == pytest.approx(millions, abs=0.006)


def test_published_keys():
    keys = set(mit(depths=(1, 1, 1, 1)).state_dict())
    parts = ["patch_embed{}.proj", "patch_embed{}.norm", "norm{}",
             *(f"block{{}}.0.{part}" for part in ("norm1", "attn.q", "attn.kv", "attn.proj", "norm2", "mlp.fc1",
                                                  "mlp.dwconv.dwconv", "mlp.fc2"))]
    reduced = ["block{}.0.attn.sr", "block{}.0.attn.norm"]
    assert keys == {f"{part.format(stage)}.{kind}" for stage in (1, 2, 3, 4)
                    for part in parts + (reduced if stage < 4 else []) for kind in ("weight", "bias")}


def test_published_epsilons():
    network = mit()
    assert network.block1[0].norm1.eps == network.block1[0].norm2.eps == network.norm4.eps == 1e-6
    assert network.patch_embed1.norm.eps == network.block1[0].attn.norm.eps == 1e-5


@pytest.mark.parametrize(("height", "width"), [(97, 65), (64, 96), (1, 1), (5, 33)])
@torch.no_grad()
def test_names_and_sizes(height, width):
    network = mit().eval()
    add_fdam(network)
    maps = network(torch.randn(2, 3, height, width))
    assert list(maps) == NAMES
    for (name, shape), channels in zip(network.output_shape().items(), SMALL["embed_dims"]):
        assert shape.channels == channels
        assert maps[name].shape == (2, channels, *(math.ceil(size / shape.stride) for size in (height, width))), name


def test_shapes_that_the_heads_are_built_from():
    network = mit(in_chans=4)
    assert network.output_shape() == {
        "res2": ShapeSpec(channels=32, stride=4), "res3": ShapeSpec(channels=32, stride=8),
        "res4": ShapeSpec(channels=80, stride=16), "res5": ShapeSpec(channels=64, stride=32)}
    assert network.size_divisibility == 32
    assert network.eval()(torch.randn(1, 4, 32, 32))["res5"].shape == (1, 64, 1, 1)


def slow_attention(attention, x, height, width):
    """A·V and V of each token of x (height · width, C), over all pairs; reductions need not divide the sides."""
    side, dim = attention.reduction, x.shape[1]
    context = x
    if side > 1:
        grid = x.view(height, width, dim)
        context = torch.stack([
            torch.einsum("ocyx,yxc->o", attention.sr.weight, grid[i:i + side, j:j + side]) + attention.sr.bias
            for i in range(0, height - side + 1, side) for j in range(0, width - side + 1, side)])
        context = F.layer_norm(context, (dim,), attention.norm.weight, attention.norm.bias)
    queries = x @ attention.q.weight.T + attention.q.bias
    key_weight, value_weight = attention.kv.weight[:dim], attention.kv.weight[dim:]
    key_bias, value_bias = attention.kv.bias[:dim], attention.kv.bias[dim:]
    keys, values = context @ key_weight.T + key_bias, context @ value_weight.T + value_bias
    head_dim = dim // attention.num_heads
    attended = torch.cat([
        torch.softmax(queries[:, some] @ keys[:, some].T / head_dim**0.5, dim=-1) @ values[:, some]
        for some in (slice(start, start + head_dim) for start in range(0, dim, head_dim))], dim=1)
    return attended, x @ value_weight.T + value_bias


def inverted(gates, attended, own_values, x):
    head_dim = x.shape[1] // gates.num_heads
    features = gates.dy_freq_starrelu(x)
    low = gates.dy_freq_2(features).tanh().repeat_interleave(head_dim, -1)
    strength = F.softplus(gates.dy_freq(features)).square()
    high = (2 * strength / (strength + 0.3678)).repeat_interleave(head_dim, -1)
    return attended + attended * low * gates.lf_gamma + (own_values - attended) * high * gates.hf_gamma


@pytest.mark.parametrize("fdam", [False, True])
@pytest.mark.parametrize("stage", [1, 2, 3, 4])
@torch.no_grad()
def test_block_against_a_slow_formula(stage, fdam):
    network = mit()
    if fdam:
        add_fdam(network)
    block = randomised(network).eval().get_submodule(f"block{stage}.0")
    height, width, dim = 17, 9, block.norm1.normalized_shape[0]
    x = torch.randn(2, height * width, dim)
    actual = block(x, (height, width))
    for tokens, result in zip(x, actual):
        normalised = block.norm1(tokens)
        attended, own_values = slow_attention(block.attn, normalised, height, width)
        if fdam:
            attended = inverted(block.attn.invert, attended, own_values, normalised)
        branch = block.attn.proj(attended)
        tokens = tokens + branch + (scaling(block.freq_scale_1, branch, height, width) if fdam else 0)
        hidden = block.mlp.fc1(block.norm2(tokens))
        kernel, bias = block.mlp.dwconv.dwconv.weight[:, 0], block.mlp.dwconv.dwconv.bias
        padded = F.pad(hidden.view(height, width, -1), (0, 0, 1, 1, 1, 1))
        hidden = bias + sum(padded[i:i + height, j:j + width] * kernel[:, i, j] for i in range(3) for j in range(3))
        branch = block.mlp.fc2(F.gelu(hidden.flatten(0, 1)))
        tokens = tokens + branch + (scaling(block.freq_scale_2, branch, height, width) if fdam else 0)
        torch.testing.assert_close(result, tokens, rtol=1e-4, atol=1e-4)


def scaling(scale, tokens, height, width):
    return scale(tokens.T.reshape(1, -1, height, width))[0].flatten(1).T


@pytest.mark.parametrize("reduction", [1, 2])
def test_gradients_of_attention(reduction):
    attention = ReducedAttention(4, 2, reduction=reduction).double()
    attention.invert = lambda value, attended, query: attended + 0.5 * (value - attended) * query
    x = torch.randn(1, 12, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda tokens: attention(tokens, (4, 3)), x)


@pytest.mark.parametrize("additions", [(add_fdam,), (lambda network: add_fdconv(network, kernel_num=16),),
                                       (lambda network: add_fdconv(network, kernel_num=16), add_fdam)],
                         ids=["FDAM", "FDConv", "both"])
def test_frequency_modules_start_neutral_and_train(additions):
    network = randomised(mit()).eval()
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
    network = mit(depths=(1, 1, 1, 1))
    add_fdconv(network, kernel_num=16)
    dynamic = {name for name, module in network.named_modules() if isinstance(module, (FDConv, FDLinear))}
    assert all(network.get_submodule(name).active for name in dynamic)
    assert dynamic == {f"block{stage}.0.{part}" for stage in (1, 2, 3, 4)
                       for part in ("attn.q", "attn.kv", "attn.proj", "mlp.fc1", "mlp.fc2", "mlp.dwconv.dwconv")}


@torch.no_grad()
def test_images_of_a_batch_do_not_see_each_other():
    network = mit()
    add_fdconv(network, kernel_num=16)
    add_fdam(network)
    randomised(network).eval()
    images = torch.randn(3, 3, 52, 37)
    together = network(images)
    for index in range(3):
        for name, feature_map in network(images[index:index + 1]).items():
            torch.testing.assert_close(together[name][index], feature_map[0], rtol=1e-4, atol=1e-4)


def test_activation_checkpointing_gives_the_same_gradients():
    image = torch.randn(2, 3, 33, 40)
    gradients = []
    for activation_checkpointing in (False, True):
        torch.manual_seed(1)
        network = mit(drop_path_rate=0.3, activation_checkpointing=activation_checkpointing).train()
        add_fdam(network)
        kept = []       # what autograd keeps for the backward pass
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
            loss = sum(x.square().mean() for x in network(image).values())
        loss.backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
        gradients.append(sum(kept))
    torch.testing.assert_close(gradients[0], gradients[2])
    assert gradients[3] < gradients[1] / 4


def test_stochastic_depth_grows_to_the_last_block():
    network = mit(depths=(1, 2, 1, 1), drop_path_rate=0.2)
    rates = [block.drop_path.probability for stage in (1, 2, 3, 4) for block in network.get_submodule(f"block{stage}")]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_autocast(dtype):
    network = mit().eval()
    add_fdconv(network, kernel_num=16)
    add_fdam(network)
    image = torch.randn(1, 3, 64, 80)
    expected = network.eval()(image)
    with torch.autocast("cpu", dtype):
        actual = network(image)
    for name in NAMES:
        assert (actual[name].float() - expected[name]).abs().mean() < 0.05


@torch.no_grad()
def test_no_images():
    assert mit().eval()(torch.zeros(0, 3, 64, 64))["res5"].shape == (0, 64, 2, 2)


test_bad_arguments = refuses(lambda options: mit(**options), [
    ({"embed_dims": (32, 64, 160)}, r"embed_dims must be four positive numbers, one a stage, got \(32, 64, 160\)"),
    ({"depths": (2, 0, 2, 2)}, r"depths must be four positive numbers, one a stage, got \(2, 0, 2, 2\)"),
    ({"embed_dims": (32, 64, 162, 256)}, "num_heads must divide the 162 channels, got 5"),
    ({"drop_path_rate": 1.0}, "drop_path must be at least 0 and below 1"),
])


def test_channels_that_frequency_scaling_does_not_fit():
    with pytest.raises(ValueError, match="block3.0: dim must be a multiple of group, got group 16 and dim 40"):
        add_fdam(mit(embed_dims=(32, 32, 40, 64)))
    with pytest.raises(ValueError, match="block1.0: attn.q: kernel_num must lie between"):
        add_fdconv(mit(), kernel_num=10**6)

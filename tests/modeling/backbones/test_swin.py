"""D2SwinTransformer: its maps, also for sides that no stage divides; FDAM and FDLinear in its blocks."""
import copy

import pytest
import torch
import torch.nn.functional as F

from freqdino.frequency import FDLinear
from freqdino.modeling.backbones.swin import D2SwinTransformer, use_frequency_blocks
from freqdino.modeling.backbones.token_block import add_fdam, add_fdconv
from helpers.modules import count
from helpers.refusals import refuses

NAMES = ["res2", "res3", "res4", "res5"]
WIDE = {"embed_dim": 32, "num_heads": [1, 2, 4, 8]}        # wide enough for FDLinear and FreqScale in all blocks


def swin(**options):
    defaults = {"out_features": NAMES, "pretrain_img_size": 32, "patch_size": 4, "embed_dim": 6, "depths": [1, 2, 1, 1],
                "num_heads": [1, 2, 3, 6], "window_size": 4, "mlp_ratio": 2.0, "qkv_bias": True, "qk_scale": None,
                "drop_rate": 0.0, "attn_drop_rate": 0.0, "drop_path_rate": 0.3, "ape": False, "patch_norm": True,
                "use_checkpoint": False}
    return D2SwinTransformer(**{**defaults, **options})


def halved(size):
    return -(-size // 2)


@pytest.mark.parametrize(("height", "width"), [(97, 65), (64, 96), (1, 33), (32, 32)])
def test_names_and_sizes(height, width):
    maps = swin().eval()(torch.randn(2, 3, height, width))
    assert list(maps) == NAMES
    size = (-(-height // 4), -(-width // 4))
    for name, channels in zip(NAMES, (6, 12, 24, 48)):
        assert maps[name].shape == (2, channels, *size), name
        size = tuple(map(halved, size))


def test_shapes_that_the_heads_are_built_from():
    shapes = swin().output_shape()
    assert {name: (shape.channels, shape.stride) for name, shape in shapes.items()} == {
        "res2": (6, 4), "res3": (12, 8), "res4": (24, 16), "res5": (48, 32)}
    assert swin().size_divisibility == 32


def test_a_subset_of_maps_keeps_every_key():
    whole, part = swin(), swin(out_features=["res5", "res3"])
    part.load_state_dict(whole.state_dict(), strict=True)
    assert {"norm0.weight", "norm1.weight", "norm2.weight", "norm3.weight"} <= set(part.state_dict())
    assert set(part.output_shape()) == {"res3", "res5"}
    image = torch.randn(1, 3, 64, 64)
    expected, maps = whole.eval()(image), part.eval()(image)
    assert set(maps) == {"res3", "res5"}
    assert all(torch.equal(maps[name], expected[name]) for name in maps)


test_stages_that_cannot_be = refuses(lambda options: swin(**options), [
    ({"num_heads": [1, 2, 4]}, r"num_heads must be four positive numbers, one a stage, got \[1, 2, 4\]"),
    ({"depths": [1, 0, 1, 1]}, r"depths must be four positive numbers, one a stage, got \[1, 0, 1, 1\]"),
    ({"embed_dim": 6, "num_heads": [1, 5, 2, 2]}, "embed_dim 6: 5 heads do not divide 12 channels"),
])


def test_unknown_map():
    with pytest.raises(ValueError, match=r"out_features names \['p2'\]; a Swin Transformer has \['res2', .*'res5'\]"):
        swin(out_features=["res2", "p2"])


def test_maps_are_normalised():
    maps = swin().eval()(torch.randn(1, 3, 64, 64))
    for x in maps.values():
        assert torch.allclose(x.mean(dim=1), torch.zeros(()), atol=1e-5)


@pytest.mark.parametrize("options", [{"ape": True}, {"use_checkpoint": True}, {"patch_norm": False, "qkv_bias": False}])
def test_options_train(options):
    module = swin(**options)
    module.train()
    sum(x.square().mean() for x in module(torch.randn(1, 3, 33, 47)).values()).backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_autocast():
    module, image = swin().eval(), torch.randn(1, 3, 64, 64)
    expected = module(image)
    with torch.autocast("cpu", torch.bfloat16):
        actual = module(image)
    for name in NAMES:
        assert (actual[name].float() - expected[name]).abs().mean() < 0.05


def with_frequency_blocks(module, *, kernel_num=None, fdam=False):
    use_frequency_blocks(module)
    if kernel_num is not None:
        add_fdconv(module, kernel_num=kernel_num)
    if fdam:
        add_fdam(module)
    return module


def randomised(module, std=0.2):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=std)
    return module


@pytest.mark.parametrize("options", [{}, {"qkv_bias": False}, {"qk_scale": 0.3}], ids=str)
@pytest.mark.parametrize(("height", "width"), [(97, 65), (33, 130), (1, 7)])
@torch.no_grad()
def test_frequency_blocks_keep_keys_and_function(options, height, width):
    plain = randomised(swin(**options)).eval()
    other = with_frequency_blocks(copy.deepcopy(plain)).eval()
    assert list(other.state_dict()) == list(plain.state_dict())
    image = torch.randn(2, 3, height, width)
    for name, expected in plain(image).items():
        torch.testing.assert_close(other(image)[name], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("additions", [{"kernel_num": 16}, {"fdam": True}, {"kernel_num": 16, "fdam": True}], ids=str)
@torch.no_grad()
def test_frequency_modules_start_neutral(additions):
    plain = randomised(swin(**WIDE)).eval()
    other = with_frequency_blocks(copy.deepcopy(plain), **additions).eval()
    image = torch.randn(2, 3, 49, 70)
    for name, expected in plain(image).items():
        torch.testing.assert_close(other(image)[name], expected, rtol=1e-3, atol=1e-3)
    dynamic = [module for module in other.modules() if isinstance(module, FDLinear) and module.active]
    assert bool(dynamic) == ("kernel_num" in additions)


def slow_attention(attention, x, height, width, gates):
    """Window attention with inversion as one matrix of all pairs of tokens, for x (height · width, C)."""
    side, shift, heads = attention.window_size[0], attention.shift, attention.num_heads
    rows, columns = (-(-size // side) * side for size in (height, width))
    padded = torch.zeros(rows, columns, x.shape[-1])
    padded[:height, :width] = x.view(height, width, -1)
    queries, keys, values = attention.qkv(padded.view(rows * columns, -1)).chunk(3, dim=-1)
    y, x_ = ((torch.arange(size) - shift) % size for size in (rows, columns))
    places = torch.cartesian_prod(y, x_)

    def seams(coordinate, size):        # where the map was rolled together, shifted windows fall into two parts
        return (coordinate // side * 2 + (coordinate >= size - shift)) if shift else coordinate // side

    part = torch.stack([seams(places[:, 0], rows), seams(places[:, 1], columns)], dim=1)
    allowed = (part[:, None] == part[None]).all(-1)
    offset = (places[:, None] - places[None]).clamp(1 - side, side - 1) + side - 1
    bias = attention.relative_position_bias_table[offset[..., 0] * (2 * side - 1) + offset[..., 1]]
    result = []
    width_of_head = values.shape[1] // heads
    for head in range(heads):
        some = slice(head * width_of_head, (head + 1) * width_of_head)
        logits = queries[:, some] @ keys[:, some].T * attention.scale + bias[..., head]
        result.append(logits.masked_fill(~allowed, -torch.inf).softmax(-1) @ values[:, some])
    attended = torch.cat(result, dim=-1)
    if gates is not None:
        features = gates.dy_freq_starrelu(padded.view(rows * columns, -1))
        low = gates.dy_freq_2(features).tanh().repeat_interleave(width_of_head, -1)
        strength = F.softplus(gates.dy_freq(features)).square()
        high = (2 * strength / (strength + 0.3678)).repeat_interleave(width_of_head, -1)
        attended = attended + attended * low * gates.lf_gamma + (values - attended) * high * gates.hf_gamma
    return attention.proj(attended).view(rows, columns, -1)[:height, :width].flatten(0, 1)


@pytest.mark.parametrize("index", [0, 1], ids=["plain windows", "shifted windows"])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 9), (3, 5)])
@torch.no_grad()
def test_block_with_fdam_against_a_slow_formula(index, height, width):
    network = randomised(with_frequency_blocks(swin(embed_dim=16, num_heads=[2, 2, 4, 8], depths=[2, 1, 1, 1]),
                                               fdam=True)).eval()
    stage = network.layers[0]
    block = stage.blocks[index]
    assert block.attn.shift == 2 * index
    x = torch.randn(2, height * width, 16)
    stage.blocks, stage.downsample = torch.nn.ModuleList([block]), None
    actual = stage(x, height, width)[0]
    for image, result in zip(x, actual):
        for branch, scale in ((lambda t: slow_attention(block.attn, block.norm1(t), height, width, block.attn.invert),
                               block.freq_scale_1), (lambda t: block.mlp(block.norm2(t)), block.freq_scale_2)):
            added = branch(image)
            feature_map = added.T.reshape(1, 16, height, width)
            image = image + added + scale(feature_map)[0].flatten(1).T
        torch.testing.assert_close(result, image, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_weights_follow_the_mean_of_an_image_not_of_a_window_nor_of_padding():
    network = randomised(with_frequency_blocks(swin(**WIDE), kernel_num=16)).eval()
    block = network.layers[0].blocks[0]
    seen = {}
    for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
        linear = block.get_submodule(name)
        assert isinstance(linear, FDLinear) and linear.active
        linear.KSM_Global.register_forward_hook(
            lambda module, inputs, output, name=name: seen.update({name: inputs[0]}))
    normalised = []
    block.norm1.register_forward_hook(lambda module, inputs, output: normalised.append(output))
    images = torch.randn(3, 3, 52, 37)
    together = network(images)
    assert {name: pooled.shape[0] for name, pooled in seen.items()} == dict.fromkeys(seen, 3) and len(seen) == 4
    assert normalised[0].shape == (3, 13 * 10, 32)
    torch.testing.assert_close(seen["attn.qkv"].flatten(1), normalised[0].mean(1))
    for index in range(3):
        alone = network(images[index:index + 1])
        for name in NAMES:
            torch.testing.assert_close(together[name][index], alone[name][0], rtol=1e-4, atol=1e-4)


def test_cost_of_fdam():
    """A block of C channels and h heads: 2 (C h + h + C) + 2 in the gates; twice 4 filters for C / 16 channels of
    14 x 8 values, an MLP C -> C / 16 -> 64 and 2 of its activation."""
    plain = swin(embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24]).to("meta")
    before = count(plain)
    with_fdam = with_frequency_blocks(swin(embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24]), fdam=True)
    expected = sum(blocks * (2 * (dim * heads + heads + dim) + 2
                             + 2 * (4 * dim // 16 * 14 * 8 + dim * (dim // 16) + dim // 16 * 64 + 2))
                   for blocks, dim, heads in ((2, 96, 3), (2, 192, 6), (6, 384, 12), (2, 768, 24)))
    assert count(with_fdam) - before == expected


@pytest.mark.parametrize("use_checkpoint", [False, True])
def test_frequency_modules_train(use_checkpoint):
    network = with_frequency_blocks(swin(**WIDE, use_checkpoint=use_checkpoint), kernel_num=8, fdam=True).train()
    sum(x.square().mean() for x in network(torch.randn(2, 3, 33, 47)).values()).backward()
    assert [name for name, parameter in network.named_parameters()
            if parameter.grad is None or not parameter.grad.isfinite().all()] == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_frequency_modules_under_autocast(dtype):
    network = with_frequency_blocks(swin(**WIDE), kernel_num=8, fdam=True).eval()
    image = torch.randn(2, 3, 50, 61)
    expected = network(image)
    with torch.autocast("cpu", dtype):
        actual = network(image)
    for name in NAMES:
        assert (actual[name].float() - expected[name]).abs().mean() < 0.05


def test_what_frequency_modules_do_not_fit():
    with pytest.raises(ValueError, match="layers.0.blocks.0: dim must be a multiple of group, got group 16 and dim 6"):
        with_frequency_blocks(swin(), fdam=True)
    with pytest.raises(ValueError, match="layers.0.blocks.0: attn.qkv: kernel_num must be at least 1, got 0"):
        with_frequency_blocks(swin(), kernel_num=0)


def test_images_of_other_than_three_channels():
    assert swin(in_chans=4).eval()(torch.randn(1, 4, 32, 32))["res2"].shape == (1, 6, 8, 8)

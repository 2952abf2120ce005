"""D2SwinTransformer: names, strides and sizes of its maps, also for sides that no stage divides."""
import pytest
import torch

from freqdino.modeling.backbones.swin import D2SwinTransformer

NAMES = ["res2", "res3", "res4", "res5"]


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

"""Pixel decoder: orders, extra levels, the top-down path written out, odd sizes, bad input."""
import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec

from freqdino.modeling.pixel_decoder import MultiScaleDeformablePixelDecoder
from helpers.refusals import refuses

DIM = 64
SHAPES = {f"res{i}": ShapeSpec(channels=4 * i, stride=2 ** i) for i in (2, 3, 4, 5)}
SIZES = {"res2": (17, 13), "res3": (9, 7), "res4": (5, 4), "res5": (3, 2)}


def decoder(**options):
    defaults = {"input_shape": SHAPES, "encoder_features": ["res3", "res4", "res5"], "conv_dim": DIM, "mask_dim": 10,
                "norm": "GN", "num_layers": 1, "num_heads": 4, "dim_feedforward": 32, "dropout": 0.0, "num_levels": 3,
                "order": "high2low", "common_stride": 4, "min_fpn_levels": 0}
    return MultiScaleDeformablePixelDecoder(**{**defaults, **options})


def features(batch=2, sizes=SIZES):
    return {name: torch.randn(batch, SHAPES[name].channels, *size) for name, size in sizes.items()}


def sizes_of(levels):
    return [tuple(level.shape[-2:]) for level in levels]


def test_levels_coarse_to_fine():
    mask_features, finest, levels = decoder().forward_features(features())
    assert mask_features.shape == (2, 10, 17, 13)
    assert sizes_of(levels) == [(3, 2), (5, 4), (9, 7)]
    assert all(level.shape[:2] == (2, DIM) for level in levels)
    assert finest is levels[-1]


def test_levels_fine_to_coarse():
    mask_features, finest, levels = decoder(order="low2high").forward_features(features())
    assert mask_features.shape == (2, 10, 17, 13)
    assert sizes_of(levels) == [(9, 7), (5, 4), (3, 2)]
    assert finest is levels[0]


@pytest.mark.parametrize(("order", "expected"), [
    ("high2low", [(1, 1), (2, 1), (3, 2), (5, 4), (9, 7)]), ("low2high", [(9, 7), (5, 4), (3, 2), (1, 1), (2, 1)])])
def test_extra_levels_halve_the_coarsest_and_stand_coarsest_first(order, expected):
    _, finest, levels = decoder(order=order, num_levels=5).forward_features(features())
    assert sizes_of(levels) == expected
    assert sizes_of([finest]) == [(9, 7)]


def test_one_extra_level_is_a_projection_of_the_backbone_map():
    module, maps = decoder(num_levels=4, num_layers=0), features()
    levels = module.forward_features(maps)[2]
    assert torch.allclose(levels[0], module.input_proj[3](maps["res5"]), atol=1e-6)
    assert module.input_proj[3][0].weight.shape == (DIM, 20, 3, 3)


@pytest.mark.parametrize(("order", "names"), [
    ("high2low", ["res5", "res4", "res3"]), ("low2high", ["res3", "res4", "res5"])])
def test_projections_belong_to_the_maps_in_the_order_of_the_levels(order, names):
    module, maps = decoder(order=order, num_layers=0), features()
    levels = module.forward_features(maps)[2]
    for level, projection, name in zip(levels, module.input_proj, names):
        convolution, norm = projection
        expected = norm(F.conv2d(maps[name], convolution.weight, convolution.bias))
        assert torch.allclose(level, expected, atol=1e-6)


def test_order_of_the_names_in_encoder_features_does_not_matter():
    torch.manual_seed(0)
    first = decoder()
    torch.manual_seed(0)
    second = decoder(encoder_features=["res5", "res3", "res4"])
    maps = features()
    assert torch.equal(first.forward_features(maps)[0], second.forward_features(maps)[0])


def lateral(module, index, feature):
    adapter = module.get_submodule(f"adapter_{index}")
    return F.group_norm(F.conv2d(feature, adapter.weight), 32, adapter.norm.weight, adapter.norm.bias)


def smooth(module, index, x):
    layer = module.get_submodule(f"layer_{index}")
    return F.group_norm(F.conv2d(x, layer.weight, padding=1), 32, layer.norm.weight, layer.norm.bias).clamp(min=0)


def upsample(x, size):
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def test_several_steps_of_the_top_down_path():
    module, maps = decoder(encoder_features=["res4", "res5"], num_levels=2), features()
    mask_features, x, levels = module.forward_features(maps)
    assert sizes_of(levels) == [(3, 2), (5, 4)]
    for index, name in ((2, "res3"), (1, "res2")):
        x = smooth(module, index, lateral(module, index, maps[name]) + upsample(x, SIZES[name]))
    expected = F.conv2d(x, module.mask_features.weight, module.mask_features.bias)
    assert torch.allclose(mask_features, expected, atol=1e-5)


def test_no_top_down_step_where_the_encoder_reads_the_finest_map():
    module = decoder(encoder_features=list(SHAPES), num_levels=4)
    assert not any(key.startswith(("adapter", "layer")) for key in module.state_dict())
    mask_features, finest, _ = module.forward_features(features())
    assert torch.allclose(mask_features, module.mask_features(finest))


def test_min_fpn_levels_keeps_one_step():
    module, maps = decoder(encoder_features=list(SHAPES), num_levels=4, min_fpn_levels=1), features()
    mask_features, finest, _ = module.forward_features(maps)
    x = smooth(module, 1, lateral(module, 1, maps["res2"]) + finest)
    assert torch.allclose(mask_features, F.conv2d(x, module.mask_features.weight, module.mask_features.bias), atol=1e-5)


def test_keys():
    keys = {key.rsplit(".", 1)[0] for key in decoder(num_levels=4).state_dict() if ".encoder." not in key}
    assert keys == {"transformer", "mask_features", "adapter_1", "adapter_1.norm", "layer_1", "layer_1.norm",
                    *(f"input_proj.{i}.{part}" for i in range(4) for part in (0, 1))}


def test_bias_stands_only_where_no_norm_does():
    assert "adapter_1.bias" in decoder(norm="").state_dict()
    assert "adapter_1.bias" not in decoder(norm="GN").state_dict()


def test_images_of_a_batch_are_independent():
    module, maps = decoder(), features()
    together = module.forward_features(maps)[0]
    alone = module.forward_features({name: x[1:] for name, x in maps.items()})[0]
    assert torch.allclose(together[1:], alone, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_near_float32(dtype):
    module, maps = decoder(), features()
    expected = module.forward_features(maps)[0]
    with torch.autocast("cpu", dtype):
        actual = module.forward_features(maps)[0]
    assert (actual.float() - expected).abs().mean() < 0.03 * expected.abs().mean()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_full_precision_is_float32_under_autocast(dtype):
    maps = {name: x.to(dtype) for name, x in features().items()}
    plain, full = decoder(), decoder(full_precision=True)
    full.load_state_dict(plain.state_dict())
    expected = plain.forward_features({name: x.float() for name, x in maps.items()})
    with torch.autocast("cpu", dtype):
        actual = full.forward_features(maps)
    assert torch.equal(actual[0], expected[0]) and torch.equal(actual[1], expected[1])


test_bad_options = refuses(lambda options: decoder(**options), [
    ({"order": "coarse2fine"}, "order must be one of high2low, low2high, got 'coarse2fine'"),
    ({"encoder_features": ["res3", "p4"]}, r"encoder_features names \['p4'\], but the maps are \['res2', .*'res5'\]"),
    ({"num_levels": 2}, "num_levels is 2, fewer than the 3 maps"),
    ({"num_heads": 5}, "num_heads must divide the 64 channels, got 5"),
])

"""Pixel decoder with fusions of its own: which maps meet, in which order, and under which key."""
import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from torch import nn

from freqdino.modeling.pixel_decoder import MultiScaleDeformablePixelDecoder, UpsampleAndAdd

DIM = 32
SHAPES = {f"res{i}": ShapeSpec(channels=4 * i, stride=2 ** i) for i in (2, 3, 4, 5)}
SIZES = {"res2": (17, 13), "res3": (9, 7), "res4": (5, 4), "res5": (3, 2)}
EXTRAS = [(2, 1), (1, 1)]                   # each of half the size, rounded up
THREE, FOUR = ["res3", "res4", "res5"], ["res2", "res3", "res4", "res5"]


class ScaledSum(nn.Module):
    """factor · hr + nearest(lr), which remembers what it met."""

    calls = []

    def __init__(self, coarse_stride, fine_stride):
        super().__init__()
        self.strides = coarse_stride, fine_stride
        self.factor = nn.Parameter(torch.tensor(float(coarse_stride)))

    def forward(self, hr, lr):
        self.calls.append((self.strides, tuple(hr.shape[-2:]), tuple(lr.shape[-2:])))
        return self.factor * hr + F.interpolate(lr, size=hr.shape[-2:], mode="nearest")


def decoder(**options):
    ScaledSum.calls.clear()
    defaults = {"input_shape": SHAPES, "encoder_features": THREE, "conv_dim": DIM, "mask_dim": 10, "norm": "GN",
                "num_layers": 0, "num_heads": 4, "dim_feedforward": 32, "dropout": 0.0, "num_levels": 3,
                "order": "high2low", "common_stride": 4, "min_fpn_levels": 0, "make_fusion": ScaledSum}
    return MultiScaleDeformablePixelDecoder(**{**defaults, **options})


def features():
    return {name: torch.randn(2, SHAPES[name].channels, *size) for name, size in SIZES.items()}


@pytest.mark.parametrize("order", ["high2low", "low2high"])
@pytest.mark.parametrize(("names", "total"), [(THREE, 3), (THREE, 4), (THREE, 5), (FOUR, 5)])
def test_levels_are_fused_coarse_to_fine_before_the_encoder(names, total, order):
    module, maps = decoder(encoder_features=names, num_levels=total, order=order, min_fpn_levels=1), features()
    levels = module.forward_features(maps)[2]
    listed = names if order == "low2high" else names[::-1]
    projected = {SIZES[name]: module.input_proj[i](maps[name]) for i, name in enumerate(listed)}
    x = maps["res5"]
    for i in range(len(names), total):
        x = module.input_proj[i](x)
        projected[EXTRAS[i - len(names)]] = x
    expected, factor, size_before = {}, 32.0 * 2 ** (total - len(names)), None
    for size in sorted(projected):          # coarse to fine
        expected[size] = projected[size]
        if size_before is not None:
            expected[size] = factor * projected[size] + F.interpolate(expected[size_before], size=size, mode="nearest")
            factor /= 2
        size_before = size
    assert len(levels) == len(expected) == total
    for level in levels:
        assert torch.allclose(level, expected[tuple(level.shape[-2:])], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("order", ["high2low", "low2high"])
def test_one_call_a_unit_with_the_fine_map_first(order):
    decoder(order=order, num_levels=5, num_layers=1).forward_features(features())
    assert ScaledSum.calls == [
        ((128, 64), (2, 1), (1, 1)), ((64, 32), (3, 2), (2, 1)), ((32, 16), (5, 4), (3, 2)),
        ((16, 8), (9, 7), (5, 4)), ((8, 4), (17, 13), (9, 7))]


def test_several_steps_of_the_top_down_path():
    module, maps = decoder(encoder_features=["res5"], num_levels=1), features()
    mask_features, x, _ = module.forward_features(maps)
    assert [strides for strides, *_ in ScaledSum.calls] == [(32, 16), (16, 8), (8, 4)]
    for index, name, factor in ((3, "res4", 32), (2, "res3", 16), (1, "res2", 8)):
        lateral = module.get_submodule(f"adapter_{index}")(maps[name])
        fused = factor * lateral + F.interpolate(x, size=SIZES[name], mode="nearest")
        x = module.get_submodule(f"layer_{index}")(fused)
    assert torch.allclose(mask_features, module.mask_features(x), atol=1e-5)


def test_the_step_on_a_map_that_the_encoder_reads():
    decoder(encoder_features=FOUR, num_levels=4, min_fpn_levels=1).forward_features(features())
    assert ScaledSum.calls[-1] == ((4, 4), (17, 13), (17, 13))


def test_keys_are_numbered_from_the_coarsest_pair():
    module = decoder(num_levels=4, order="low2high")
    assert [key for key in module.state_dict() if "factor" in key] == [f"freqfusions.{i}.factor" for i in range(4)]
    assert [module.get_parameter(f"freqfusions.{i}.factor").item() for i in range(4)] == [64, 32, 16, 8]


def test_no_keys_without_fusions():
    assert not any(key.startswith("freqfusions") for key in decoder(make_fusion=None).state_dict())


def test_levels_meet_only_in_the_encoder_without_fusions():
    module, maps = decoder(make_fusion=None), features()
    coarse, *_ = module.forward_features(maps)[2]
    maps["res5"] = torch.randn_like(maps["res5"])
    changed, *others = module.forward_features(maps)[2]
    assert not torch.allclose(changed, coarse)
    assert all(torch.equal(a, b) for a, b in zip(others, module.forward_features(maps)[2][1:]))


def test_upsample_and_add_is_bilinear():
    hr, lr = torch.zeros(1, 1, 1, 4), torch.tensor([[[[0.0, 4.0]]]])
    assert torch.allclose(UpsampleAndAdd()(hr, lr), torch.tensor([[[[0.0, 1.0, 3.0, 4.0]]]]))

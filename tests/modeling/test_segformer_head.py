"""SegFormer's head: its parameters by hand, its keys, its maps against the concatenation that it stands for."""
import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec

from freqdino.modeling.segformer_head import SegFormerHead
from freqdino.registration.upsamplers import UPSAMPLERS
from helpers.modules import count
from helpers.refusals import refuses
from helpers.small_semantic_heads import SHAPES, bilinear, conv_norm_relu, features, randomised, small_head


def test_number_of_parameters():
    """MiT-B0's maps, ADE20K's classes."""
    widths = (32, 64, 160, 256)
    shapes = {f"res{i}": ShapeSpec(channels=width, stride=2 ** i) for i, width in enumerate(widths, 2)}
    with torch.device("meta"):
        head = SegFormerHead(input_shape=shapes, num_classes=150, channels=256, common_stride=4, norm="BN", dropout=0.1,
                             ignore_value=255, loss_weight=1.0)
    projections = sum(width * 256 + 2 * 256 for width in widths)
    fusion = 4 * 256 * 256 + 2 * 256
    assert count(head) == projections + fusion + 257 * 150


def test_keys_are_openmmlabs():
    names = ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var", "bn.num_batches_tracked")
    expected = {f"{part}.{name}" for part in (*(f"convs.{i}" for i in range(4)), "fusion_conv") for name in names}
    assert set(small_head(SegFormerHead).state_dict()) == expected | {"conv_seg.weight", "conv_seg.bias"}


@pytest.mark.parametrize("names", [tuple(SHAPES), ("res2", "res4"), ("res2",)], ids=len)
@pytest.mark.parametrize("size", [(64, 64), (70, 45)])
@torch.no_grad()
def test_maps_against_the_concatenation(size, names):
    """As published: resize, concatenate, one convolution of all channels."""
    head = randomised(small_head(SegFormerHead, input_shape={name: SHAPES[name] for name in names})).eval()
    state, maps = head.state_dict(), features(2, *size)
    target = maps["res2"].shape[-2:]
    levels = [bilinear(conv_norm_relu(state, f"convs.{i}", maps[name]), *target) for i, name in enumerate(names)]
    fused = conv_norm_relu(state, "fusion_conv", torch.cat(levels, dim=1))
    scores = F.conv2d(fused, state["conv_seg.weight"], state["conv_seg.bias"])
    expected = bilinear(scores, 4 * target[0], 4 * target[1])
    torch.testing.assert_close(head(maps)[0], expected, rtol=1e-4, atol=1e-4)


def test_fusion_without_normalisation_has_its_bias():
    head = randomised(small_head(SegFormerHead, norm="")).eval()
    state, maps = head.state_dict(), features(1, 64, 64)
    levels = [F.conv2d(maps[name], state[f"convs.{i}.conv.weight"], state[f"convs.{i}.conv.bias"]).relu()
              for i, name in enumerate(SHAPES)]
    fused = F.conv2d(torch.cat([bilinear(level, 16, 16) for level in levels], dim=1),
                     state["fusion_conv.conv.weight"], state["fusion_conv.conv.bias"]).relu()
    torch.testing.assert_close(head.decode(list(maps.values())), fused, rtol=1e-4, atol=1e-4)


class Marked(torch.nn.Module):
    """Repeats lr's pixels, cut to hr's size, adds a tenth of hr and keeps what it was called with."""

    def forward(self, hr, lr):
        self.sizes = tuple(hr.shape[2:]), tuple(lr.shape[2:])
        return lr.repeat_interleave(2, 2).repeat_interleave(2, 3)[..., :hr.shape[2], :hr.shape[3]] + hr / 10


@torch.no_grad()
def test_upsamplers_are_guided_by_the_next_finer_projected_map():
    """Six of them, worked out one after another; the fusion is that of the concatenation."""
    head = randomised(small_head(SegFormerHead, make_upsampler=Marked)).eval()
    state, maps = head.state_dict(), features(2, 70, 45)
    p2, p3, p4, p5 = (conv_norm_relu(state, f"convs.{i}", maps[name]) for i, name in enumerate(SHAPES))
    step = Marked()
    levels = [p2, step(p2, p3), step(p2, step(p3, p4)), step(p2, step(p3, step(p4, p5)))]
    fused = conv_norm_relu(state, "fusion_conv", torch.cat(levels, dim=1))
    torch.testing.assert_close(head.decode(list(maps.values())), fused, rtol=1e-4, atol=1e-4)
    assert [len(steps) for steps in head.upsamplers] == [0, 1, 2, 3]
    assert [step.sizes for step in head.upsamplers[3]] == [((5, 3), (3, 2)), ((9, 6), (5, 3)), ((18, 12), (9, 6))]


def test_without_upsamplers_the_keys_are_as_they_were():
    assert not any("upsampler" in key for key in small_head(SegFormerHead).state_dict())


@pytest.mark.parametrize("size", [(64, 64), (70, 45), (33, 97)])
@pytest.mark.parametrize("name", UPSAMPLERS)
@torch.no_grad()
def test_every_upsampler_and_any_size(name, size):
    head = small_head(SegFormerHead, channels=32, make_upsampler=lambda: UPSAMPLERS[name](
        hr_channels=32, lr_channels=32)).eval()
    maps = features(1, *size)
    assert head.decode(list(maps.values())).shape == (1, 32, *maps["res2"].shape[2:])


test_maps_that_are_not_a_factor_of_two_apart = refuses(
    lambda names: small_head(SegFormerHead, input_shape={name: SHAPES[name] for name in names}, make_upsampler=Marked),
    [(("res2", "res4"), r"input_shape must name maps of which each has twice the stride .* \[4, 16\]")])

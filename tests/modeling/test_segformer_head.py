"""SegFormer's head: its parameters by hand, its keys, its maps against the concatenation that it stands for."""
import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec

from freqdino.modeling.segformer_head import SegFormerHead
from helpers.modules import count
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

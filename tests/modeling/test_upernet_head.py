"""UPerNet's head: its parameters by hand, its keys, its maps against a slow composition, its auxiliary head."""
import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec

from freqdino.modeling.upernet_head import UPerNetHead
from helpers.modules import count
from helpers.small_semantic_heads import SHAPES, bilinear, conv_norm_relu, features, randomised, small_head


def conv_parameters(in_channels, out_channels, kernel_size):
    """A convolution without bias, scale and shift of its normalisation."""
    return in_channels * out_channels * kernel_size ** 2 + 2 * out_channels


@pytest.mark.parametrize("widths", [(256, 512, 1024, 2048), (384, 384, 384, 384)], ids=["R50", "DeiT-S"])
def test_number_of_parameters(widths):
    shapes = {f"res{i}": ShapeSpec(channels=width, stride=2 ** i) for i, width in enumerate(widths, 2)}
    with torch.device("meta"):
        head = UPerNetHead(input_shape=shapes, num_classes=150, channels=512, common_stride=4, norm="BN",
                           pool_scales=(1, 2, 3, 6), dropout=0.1, ignore_value=255, loss_weight=1.0,
                           auxiliary_channels=256, auxiliary_weight=0.4)
    pooling = 4 * conv_parameters(widths[3], 512, 1) + conv_parameters(widths[3] + 4 * 512, 512, 3)
    pyramid = sum(conv_parameters(width, 512, 1) for width in widths[:3]) + 3 * conv_parameters(512, 512, 3)
    fusion = conv_parameters(4 * 512, 512, 3) + 513 * 150
    auxiliary = conv_parameters(widths[2], 256, 3) + 257 * 150
    assert count(head) == pooling + pyramid + fusion + auxiliary


def test_keys_are_openmmlabs():
    parts = [*(f"psp_modules.{i}.1" for i in range(3)), "bottleneck", *(f"lateral_convs.{i}" for i in range(3)),
             *(f"fpn_convs.{i}" for i in range(3)), "fpn_bottleneck", "auxiliary.convs.0"]
    names = ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var", "bn.num_batches_tracked")
    expected = {f"{part}.{name}" for part in parts for name in names}
    expected |= {f"{part}.{name}" for part in ("conv_seg", "auxiliary.conv_seg") for name in ("weight", "bias")}
    assert set(small_head(UPerNetHead).state_dict()) == expected


def pool(x, cells):
    """The mean of each of cells × cells parts; parts share the rows and columns that lie in two of them."""
    height, width = x.shape[-2:]

    def part(i, size):
        return slice(i * size // cells, math.ceil((i + 1) * size / cells))

    rows = [[x[..., part(i, height), part(j, width)].mean(dim=(-2, -1)) for j in range(cells)] for i in range(cells)]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


@pytest.mark.parametrize("size", [(64, 64), (70, 45)])
@torch.no_grad()
def test_maps_against_a_slow_composition(size):
    head = randomised(small_head(UPerNetHead)).eval()
    state, maps = head.state_dict(), features(2, *size)
    res2, res3, res4, res5 = (maps[name] for name in SHAPES)

    context = [res5]
    for i, cells in enumerate((1, 2, 3)):
        context.append(bilinear(conv_norm_relu(state, f"psp_modules.{i}.1", pool(res5, cells)), *res5.shape[-2:]))
    top = conv_norm_relu(state, "bottleneck", torch.cat(context, dim=1))
    side4, side3, side2 = (conv_norm_relu(state, f"lateral_convs.{i}", x) for i, x in ((2, res4), (1, res3), (0, res2)))
    side4 = side4 + bilinear(top, *side4.shape[-2:])
    side3 = side3 + bilinear(side4, *side3.shape[-2:])
    side2 = side2 + bilinear(side3, *side2.shape[-2:])
    levels = [conv_norm_relu(state, f"fpn_convs.{i}", side) for i, side in enumerate((side2, side3, side4))]
    fused = conv_norm_relu(state, "fpn_bottleneck",
                           torch.cat([bilinear(level, *res2.shape[-2:]) for level in (*levels, top)], dim=1))
    scores = F.conv2d(fused, state["conv_seg.weight"], state["conv_seg.bias"])
    expected = bilinear(scores, 4 * scores.shape[2], 4 * scores.shape[3])
    torch.testing.assert_close(head(maps)[0], expected, rtol=1e-4, atol=1e-4)


def test_auxiliary_head_learns_from_the_last_map_but_one():
    head = randomised(small_head(UPerNetHead, norm="FrozenBN", dropout=0.0, loss_weight=2.0)).train()
    maps, targets = features(1, 64, 64), torch.randint(0, 3, (1, 64, 64))
    losses = head(maps, targets)[1]
    state = head.state_dict()
    hidden = conv_norm_relu(state, "auxiliary.convs.0", maps["res4"])
    scores = F.conv2d(hidden, state["auxiliary.conv_seg.weight"], state["auxiliary.conv_seg.bias"])
    expected = 2.0 * 0.4 * F.cross_entropy(bilinear(scores, 64, 64), targets)
    assert set(losses) == {"loss_sem_seg", "loss_sem_seg_aux"}
    torch.testing.assert_close(losses["loss_sem_seg_aux"], expected, rtol=1e-4, atol=1e-5)


def test_evaluation_does_not_run_the_auxiliary_head():
    head = small_head(UPerNetHead).eval()
    head.auxiliary = None
    assert head(features(1, 64, 64))[0].shape == (1, 3, 64, 64)


def test_one_image_with_batch_normalisation():
    """One pixel a channel has no variance; torch says so, and the head what to do."""
    with pytest.raises(ValueError, match="norm is a batch normalisation, which needs two images .*: take more, or "
                                         "GN .Expected more than 1 value per channel when training"):
        small_head(UPerNetHead).train()(features(1, 64, 64), torch.zeros(1, 64, 64, dtype=torch.int64))


def test_one_map_is_too_few():
    with pytest.raises(ValueError, match=r"input_shape must name two maps or more, got \['res2'\]"):
        small_head(UPerNetHead, input_shape={"res2": SHAPES["res2"]})

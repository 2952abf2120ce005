"""FreqFusion that concatenates or upsamples alone: order of channels, SegNeXt's offset generator, parameters."""
import pytest
import torch
import torch.nn.functional as F

from freqdino.frequency.freqfusion.fusion import FreqFusion
from freqdino.frequency.freqfusion.in_heads import FreqFusionConcat, FreqFusionUpsample, interleaved
from freqdino.frequency.freqfusion.offset_generator import SimilarityGuidedSampler
from helpers.modules import count, randomised
from helpers.refusals import refuses

# SegNeXt's units, coarse to fine: channels of the finer and of the coarser map.
UNITS = ((160, 256), (64, 416))
OFFSETS = {"feature_resample": True, "hamming_window": False}


def fusion(kind=FreqFusionConcat, **options):
    return kind(8, 12, **{"compressed_channels": 16, **OFFSETS, **options})


def maps(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, *shape, generator=generator, dtype=dtype) for shape in ((8, 9, 10), (12, 5, 5))]


@pytest.mark.parametrize(("direction_feat", "published"), [("sim", (116_146, 141_234)),
                                                           ("sim_concat", (156_466, 187_314))])
def test_published_parameter_counts(direction_feat, published):
    assert tuple(count(FreqFusionConcat(hr, lr, compressed_channels=(hr + lr) // 4, direction_feat=direction_feat,
                                        **OFFSETS)) for hr, lr in UNITS) == published


@torch.no_grad()
def test_a_constant_map_stays_one_when_it_is_upsampled():
    """Filters sum to one and positions stay inside; hr's values must not come in. Two pixels from the border, beyond
    which the filters see zeros, on either side of the doubled map."""
    hr, lr = maps()
    upsampled = randomised(fusion(FreqFusionUpsample, feature_resample=False)).eval()(hr, torch.full_like(lr, 3.0))
    assert upsampled.shape == (2, 12, 9, 10)
    torch.testing.assert_close(upsampled[..., 4:5, 4:6], torch.full((2, 12, 1, 2), 3.0))


def test_groups_alternate():
    """Channels by their numbers, hr's from 0 and lr's from 100 on: two and three in each of four groups."""
    hr, lr = torch.arange(8.), 100 + torch.arange(12.)
    order = interleaved(hr[None, :, None, None], lr[None, :, None, None], 4).flatten().tolist()
    assert order == [0, 1, 100, 101, 102, 2, 3, 103, 104, 105, 4, 5, 106, 107, 108, 6, 7, 109, 110, 111]


@torch.no_grad()
def test_what_is_concatenated():
    fuse, parts = fusion(), fusion(FreqFusion)
    parts.load_state_dict(randomised(fuse).state_dict())
    _, hr, lr = parts(*maps())
    expected = torch.empty(2, 20, 9, 10)
    for group in range(4):
        for i in range(2):
            expected[:, 5 * group + i] = hr[:, 2 * group + i]
        for i in range(3):
            expected[:, 5 * group + 2 + i] = lr[:, 3 * group + i]
    torch.testing.assert_close(fuse(*maps()), expected)


@torch.no_grad()
def test_without_the_offset_generator_one_map_follows_the_other():
    fuse, parts = fusion(feature_resample=False), fusion(FreqFusion, feature_resample=False)
    parts.load_state_dict(randomised(fuse).state_dict())
    _, hr, lr = parts(*maps())
    torch.testing.assert_close(fuse(*maps()), torch.cat([hr, lr], dim=1))


def slow_similarities(x):
    """Cosines of each pixel of x (C, H, W) with its neighbours two off, row by row, 0 outside of the map: (8, H, W)."""
    _, height, width = x.shape
    result = torch.zeros(8, height, width, dtype=x.dtype)
    steps = [(row, column) for row in (-2, 0, 2) for column in (-2, 0, 2) if (row, column) != (0, 0)]
    for number, (row, column) in enumerate(steps):
        for i in range(height):
            for j in range(width):
                if 0 <= i + row < height and 0 <= j + column < width:
                    one, other = x[:, i, j], x[:, i + row, j + column]
                    result[number, i, j] = one @ other / (one.norm() * other.norm())
    return result


def slow_bilinear(channel, y, x):
    """channel (H, W) at a place in pixels, which is moved onto the map."""
    height, width = channel.shape
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, to_right = y - top, x - left
    return ((1 - down) * ((1 - to_right) * channel[top, left] + to_right * channel[top, right])
            + down * ((1 - to_right) * channel[bottom, left] + to_right * channel[bottom, right]))


@torch.no_grad()
def test_offsets_of_similarities_against_a_slow_formula():
    """direction_feat sim: offsets see the eight similarities alone, scales the normalised guide alone."""
    torch.manual_seed(0)
    sampler = SimilarityGuidedSampler(16, groups=2, direction_feat="sim").double()
    for parameter in sampler.parameters():
        parameter.normal_(std=0.5)
    h, l, features = (torch.randn(1, channels, *size, dtype=torch.float64)
                      for channels, size in ((16, (8, 6)), (16, (4, 3)), (4, (8, 6))))
    normed_h, normed_l = sampler.norm_hr(h), sampler.norm_lr(l)
    heads = {"offset": (normed_l, sampler.offset, sampler.hr_offset),
             "scale": (normed_l, sampler.direct_scale, sampler.hr_direct_scale)}
    total = {}
    for kind, (_, coarse, fine) in heads.items():
        seen_l, seen_h = ((slow_similarities(x[0])[None] for x in (normed_l, normed_h)) if kind == "offset"
                          else (normed_l, normed_h))
        of_l, of_h = (F.conv2d(seen, conv.weight, conv.bias, padding=1)[0] for seen, conv in
                      ((seen_l, coarse), (seen_h, fine)))
        total[kind] = torch.empty(4, 8, 6, dtype=torch.float64)      # x of both groups, y of both groups
        for number in range(4):
            for i in range(8):
                for j in range(6):
                    sub_pixel = 4 * number + 2 * (i % 2) + j % 2
                    total[kind][number, i, j] = of_l[sub_pixel, i // 2, j // 2] + of_h[number, i, j]
    expected = torch.empty(1, 4, 8, 6, dtype=torch.float64)
    for channel in range(4):
        group = channel // 2
        for i in range(8):
            for j in range(6):
                x, y = (place // 2 + 0.5 + (0.25 if place % 2 else -0.25)
                        + (total["offset"][number, i, j] * total["scale"][number, i, j].sigmoid()).item()
                        for place, number in ((j, group), (i, 2 + group)))
                # In pixels of the coarse map, from its corner; a fine pixel is half as wide.
                expected[0, channel, i, j] = slow_bilinear(features[0, channel], 2 * y - 0.5, 2 * x - 0.5)
    torch.testing.assert_close(sampler(h, l, features), expected, rtol=1e-9, atol=1e-9)


def test_every_parameter_learns():
    fuse = randomised(fusion(direction_feat="sim")).train()
    fuse(*maps()).square().sum().backward()
    assert [name for name, parameter in fuse.named_parameters() if not parameter.grad.any()] == []


def test_an_idle_choice_is_said():
    with pytest.warns(UserWarning, match="direction_feat set, but without effect"):
        fusion(feature_resample=False, direction_feat="sim")


test_bad_arguments = refuses(lambda options: fusion(**options), [
    ({"direction_feat": "cosine"}, "direction_feat must be one of sim_concat, sim, got 'cosine'"),
    ({"feature_resample_group": 3}, "feature_resample_group must divide hr_channels, got feature_resample_group 3"),
    ({"feature_resample_group": 8}, "feature_resample_group must divide lr_channels, got feature_resample_group 8"),
])

"""FreqFusion's rivals: what each computes, by an independent formula, odd sizes, parameter costs, bad input."""

import pytest
import torch
from torch.nn import functional as F

from freqdino.frequency.rivals.upsamplers import (
    CarafeSum,
    DeconvolutionSum,
    DySampleSum,
    InterpolationSum,
    PixelShuffleSum,
)
from helpers.refusals import refuses

MAKERS = {
    "nearest": lambda channels: InterpolationSum("nearest"),
    "bilinear": lambda channels: InterpolationSum("bilinear"),
    "deconvolution": DeconvolutionSum,
    "pixel shuffle": PixelShuffleSum,
    "CARAFE": CarafeSum,
    "DySample+": lambda channels: DySampleSum(channels, groups=4, shuffle_first=False),
    "DySample-S+": lambda channels: DySampleSum(channels, groups=8, shuffle_first=True),
}


def randomised(module):
    """All parameters random, so that the near-zero ones take part."""
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module


def upsampled(fuse, lr):
    """What a fusion adds to a map of zeros of exactly twice the size."""
    batch, channels, height, width = lr.shape
    return fuse(lr.new_zeros(batch, channels, 2 * height, 2 * width), lr)


def test_nearest_repeats_pixels():
    lr = torch.tensor([[[[1., 2.], [3., 4.]]]])
    expected = torch.tensor([[1., 1., 2., 2.], [1., 1., 2., 2.], [3., 3., 4., 4.], [3., 3., 4., 4.]])
    assert torch.equal(upsampled(InterpolationSum("nearest"), lr)[0, 0], expected)


def test_bilinear_weighs_three_to_one():
    lr = torch.tensor([[[[0., 4.]]]])
    expected = torch.tensor([0., 1., 3., 4.]).expand(2, 4)
    assert torch.equal(upsampled(InterpolationSum("bilinear"), lr)[0, 0], expected)


def test_deconvolution_spreads_each_pixel_over_its_kernel():
    fuse, lr = randomised(DeconvolutionSum(2)), torch.randn(1, 2, 3, 4)
    weight, bias = fuse.deconvolution.weight, fuse.deconvolution.bias
    canvas = torch.zeros(1, 2, 8, 10)
    for y in range(3):
        for x in range(4):
            canvas[0, :, 2 * y:2 * y + 3, 2 * x:2 * x + 3] += torch.einsum("c,cdij->dij", lr[0, :, y, x], weight)
    torch.testing.assert_close(upsampled(fuse, lr), canvas[..., 1:7, 1:9] + bias[:, None, None])


def test_pixel_shuffle_lays_four_channels_out_as_two_by_two_pixels():
    fuse, lr = randomised(PixelShuffleSum(2)), torch.randn(1, 2, 3, 4)
    predicted = F.conv2d(lr, fuse.convolution.weight, fuse.convolution.bias, padding=1)
    result = upsampled(fuse, lr)
    for channel in range(2):
        for row in (0, 1):
            for column in (0, 1):
                expected = predicted[:, 4 * channel + 2 * row + column]
                torch.testing.assert_close(result[:, channel, row::2, column::2], expected)


def test_carafe_filters_with_what_it_predicts():
    fuse, lr = randomised(CarafeSum(3)).double(), torch.randn(1, 3, 4, 5, dtype=torch.float64)
    logits = fuse.content_encoder(fuse.channel_compressor(lr))
    result, padded = upsampled(fuse, lr), F.pad(lr, (2, 2, 2, 2))
    for y in range(8):
        for x in range(10):
            subpixel = 2 * (y % 2) + x % 2
            taps = logits[0, subpixel::4, y // 2, x // 2].softmax(dim=0).view(5, 5)
            patch = padded[0, :, y // 2:y // 2 + 5, x // 2:x // 2 + 5]
            torch.testing.assert_close(result[0, :, y, x], (patch * taps).sum(dim=(1, 2)))


@pytest.mark.parametrize(("shuffle_first", "groups"), [(False, 2), (True, 4)])
def test_dysample_is_grid_sample_at_the_published_positions(shuffle_first, groups):
    """The published order: offsets by sub-pixel, plus the sub-pixels' own, then shuffled; normalised coordinates."""
    fuse = randomised(DySampleSum(8, groups=groups, shuffle_first=shuffle_first)).double()
    batch, height, width = 2, 3, 4
    lr = torch.randn(batch, 8, height, width, dtype=torch.float64)
    if shuffle_first:
        fine = F.pixel_shuffle(lr, 2)
        offset = F.pixel_unshuffle(fuse.offset(fine) * fuse.scope(fine).sigmoid(), 2) * 0.5
    else:
        offset = fuse.offset(lr) * fuse.scope(lr).sigmoid() * 0.5
    own_x = torch.tensor([-0.25, 0.25, -0.25, 0.25]).repeat(groups)
    own_y = torch.tensor([-0.25, -0.25, 0.25, 0.25]).repeat(groups)
    offset = offset + torch.cat([own_x, own_y]).view(1, -1, 1, 1)
    x, y = offset.view(batch, 2, groups * 4, height, width).unbind(dim=1)
    x = 2 * (x + torch.arange(width) + 0.5) / width - 1
    y = 2 * (y + torch.arange(height)[:, None] + 0.5) / height - 1
    grid = torch.stack([F.pixel_shuffle(x, 2), F.pixel_shuffle(y, 2)], dim=-1).flatten(0, 1)
    expected = F.grid_sample(lr.reshape(batch * groups, 8 // groups, height, width), grid, padding_mode="border",
                             align_corners=False).view(batch, 8, 2 * height, 2 * width)
    torch.testing.assert_close(upsampled(fuse, lr), expected)


@pytest.mark.parametrize("name", ["DySample+", "DySample-S+"])
def test_dysample_starts_near_bilinear(name):
    lr = torch.randn(1, 16, 6, 5)
    torch.testing.assert_close(upsampled(MAKERS[name](16), lr), upsampled(InterpolationSum("bilinear"), lr),
                               rtol=0, atol=0.02)


@pytest.mark.parametrize("name", MAKERS)
def test_an_even_map_is_the_upsampled_one_and_odd_ones_are_cut_or_extended(name):
    fuse = randomised(MAKERS[name](16))
    lr = torch.randn(2, 16, 3, 4)
    even = upsampled(fuse, lr)
    hr = torch.randn(2, 16, 5, 7)
    torch.testing.assert_close(fuse(hr, lr), hr + even[..., :5, :7])
    extended = upsampled(fuse, F.pad(lr, (0, 1, 0, 1), mode="replicate"))
    hr = torch.randn(2, 16, 7, 9)
    torch.testing.assert_close(fuse(hr, lr), hr + extended[..., :7, :9])


@pytest.mark.parametrize(("name", "by_hand", "published"), [
    ("nearest", 0, 0),
    ("bilinear", 0, 0),
    ("deconvolution", 256 * 256 * 9 + 256, 1.8e6),
    ("pixel shuffle", 256 * 1024 * 9 + 1024, 7.1e6),
    ("CARAFE", (256 * 64 + 64) + (64 * 100 * 9 + 100), 0.2e6),
    ("DySample+", (256 * 32 + 32) + 256 * 32, 49.2e3),       # 2 coordinates, 4 groups, 4 sub-pixels
    ("DySample-S+", (64 * 16 + 16) + 64 * 16, 6.2e3),        # a quarter of the channels; 2 coordinates, 8 groups
])
def test_parameters_at_three_fusions_of_256_channels_are_the_published_ones(name, by_hand, published):
    """FreqFusion's table of Panoptic FPN, with its rounding to one digit after the point."""
    count = sum(parameter.numel() for parameter in MAKERS[name](256).parameters())
    assert count == by_hand
    unit = 1e6 if published >= 1e5 else 1e3
    assert round(3 * count / unit, 1) == round(published / unit, 1)


test_maps_that_do_not_fit = refuses(lambda hr, lr: InterpolationSum("nearest")(torch.zeros(hr), torch.zeros(lr)), [
    ((1, 8, 6), (1, 8, 3, 3), r"hr must have 4 dimensions \(B, C, H, W\), got 3: \(1, 8, 6\)"),
    ((1, 8, 6, 6), (8, 3, 3), r"lr must have 4 dimensions \(B, C, H, W\), got 3: \(8, 3, 3\)"),
    ((2, 8, 6, 6), (1, 8, 3, 3), r"one batch size .*\(2, 8\) and \(1, 8\)"),
    ((1, 8, 6, 6), (1, 4, 3, 3), r"as many channels, got \(1, 8\) and \(1, 4\)"),
    ((1, 8, 8, 6), (1, 8, 3, 3), r"twice the size of lr, give or take one pixel, got \(8, 6\) and \(3, 3\)"),
    ((1, 8, 1, 6), (1, 8, 0, 3), r"got \(1, 6\) and \(0, 3\)"),
])


test_arguments_out_of_range = refuses(lambda make: make(), [
    (lambda: InterpolationSum("bicubic"), "mode must be one of nearest, bilinear, got 'bicubic'"),
    (lambda: DySampleSum(6, groups=4, shuffle_first=False), "groups must divide the 6 channels, got 4"),
    (lambda: DySampleSum(8, groups=0, shuffle_first=False), "groups must divide the 8 channels, got 0"),
    (lambda: DySampleSum(6, groups=2, shuffle_first=True), "shuffle_first needs channels that 4 divides, got 6"),
])

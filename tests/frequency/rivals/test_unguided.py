"""FreqFusion's rivals that read the coarse map alone, by independent formulas; odd sizes and the sum of all of them."""
import pytest
import torch
from torch.nn import functional as F

from freqdino.frequency.rivals import CARAFE, DySample
from freqdino.frequency.rivals.unguided import Deconvolution, Interpolation, PixelShuffle
from freqdino.frequency.rivals.upsampler import as_fusion
from freqdino.registration.upsamplers import UPSAMPLERS
from helpers.refusals import refuses


def make(name, channels):
    return UPSAMPLERS[name](hr_channels=channels, lr_channels=channels)


def randomised(module):
    """All parameters random, so that the near-zero ones take part."""
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module


def upsampled(upsampler, lr):
    """What comes out for a map of zeros of exactly twice the size."""
    batch, channels, height, width = lr.shape
    return upsampler(lr.new_zeros(batch, channels, 2 * height, 2 * width), lr)


def test_nearest_repeats_pixels():
    lr = torch.tensor([[[[1., 2.], [3., 4.]]]])
    expected = torch.tensor([[1., 1., 2., 2.], [1., 1., 2., 2.], [3., 3., 4., 4.], [3., 3., 4., 4.]])
    assert torch.equal(upsampled(make("nearest", 1), lr)[0, 0], expected)


def test_bilinear_weighs_three_to_one():
    lr = torch.tensor([[[[0., 4.]]]])
    expected = torch.tensor([0., 1., 3., 4.]).expand(2, 4)
    assert torch.equal(upsampled(make("bilinear", 1), lr)[0, 0], expected)


def test_deconvolution_spreads_each_pixel_over_its_kernel():
    module, lr = randomised(Deconvolution(hr_channels=2, lr_channels=2)), torch.randn(1, 2, 3, 4)
    weight, bias = module.deconvolution.weight, module.deconvolution.bias
    canvas = torch.zeros(1, 2, 8, 10)
    for y in range(3):
        for x in range(4):
            canvas[0, :, 2 * y:2 * y + 3, 2 * x:2 * x + 3] += torch.einsum("c,cdij->dij", lr[0, :, y, x], weight)
    torch.testing.assert_close(upsampled(module, lr), canvas[..., 1:7, 1:9] + bias[:, None, None])


def test_pixel_shuffle_lays_four_channels_out_as_two_by_two_pixels():
    module, lr = randomised(PixelShuffle(hr_channels=2, lr_channels=2)), torch.randn(1, 2, 3, 4)
    predicted = F.conv2d(lr, module.convolution.weight, module.convolution.bias, padding=1)
    result = upsampled(module, lr)
    for channel in range(2):
        for row in (0, 1):
            for column in (0, 1):
                expected = predicted[:, 4 * channel + 2 * row + column]
                torch.testing.assert_close(result[:, channel, row::2, column::2], expected)


def test_carafe_filters_with_what_it_predicts():
    module = randomised(CARAFE(hr_channels=3, lr_channels=3)).double()
    lr = torch.randn(1, 3, 4, 5, dtype=torch.float64)
    logits = module.content_encoder(module.channel_compressor(lr))
    result, padded = upsampled(module, lr), F.pad(lr, (2, 2, 2, 2))
    for y in range(8):
        for x in range(10):
            subpixel = 2 * (y % 2) + x % 2
            taps = logits[0, subpixel::4, y // 2, x // 2].softmax(dim=0).view(5, 5)
            patch = padded[0, :, y // 2:y // 2 + 5, x // 2:x // 2 + 5]
            torch.testing.assert_close(result[0, :, y, x], (patch * taps).sum(dim=(1, 2)))


@pytest.mark.parametrize("dynamic_scope", [False, True])
@pytest.mark.parametrize(("shuffle_first", "groups"), [(False, 2), (True, 4)])
def test_dysample_is_grid_sample_at_the_published_positions(shuffle_first, groups, dynamic_scope):
    """The published order: offsets by sub-pixel, plus the sub-pixels' own, then shuffled; normalised coordinates."""
    module = randomised(DySample(hr_channels=8, lr_channels=8, groups=groups, shuffle_first=shuffle_first,
                                 dynamic_scope=dynamic_scope)).double()
    batch, height, width = 2, 3, 4
    lr = torch.randn(batch, 8, height, width, dtype=torch.float64)
    seen = F.pixel_shuffle(lr, 2) if shuffle_first else lr
    offset = module.offset(seen) * (0.5 * module.scope(seen).sigmoid() if dynamic_scope else 0.25)
    if shuffle_first:
        offset = F.pixel_unshuffle(offset, 2)
    own_x = torch.tensor([-0.25, 0.25, -0.25, 0.25]).repeat(groups)
    own_y = torch.tensor([-0.25, -0.25, 0.25, 0.25]).repeat(groups)
    offset = offset + torch.cat([own_x, own_y]).view(1, -1, 1, 1)
    x, y = offset.view(batch, 2, groups * 4, height, width).unbind(dim=1)
    x = 2 * (x + torch.arange(width) + 0.5) / width - 1
    y = 2 * (y + torch.arange(height)[:, None] + 0.5) / height - 1
    grid = torch.stack([F.pixel_shuffle(x, 2), F.pixel_shuffle(y, 2)], dim=-1).flatten(0, 1)
    expected = F.grid_sample(lr.reshape(batch * groups, 8 // groups, height, width), grid, padding_mode="border",
                             align_corners=False).view(batch, 8, 2 * height, 2 * width)
    torch.testing.assert_close(upsampled(module, lr), expected)


@pytest.mark.parametrize("name", ["dysample_static", "dysample", "dysample_s"])
def test_dysample_starts_near_bilinear(name):
    lr = torch.randn(1, 16, 6, 5)
    torch.testing.assert_close(upsampled(make(name, 16), lr), upsampled(make("bilinear", 16), lr), rtol=0, atol=0.02)


@pytest.mark.parametrize("name", UPSAMPLERS)
def test_odd_sides_are_those_of_the_maps_with_a_row_or_column_more(name):
    """The fine map's sides are made even, the coarse one's half of that; what is too much is cut off."""
    module = randomised(make(name, 32)).eval()
    hr, lr = torch.randn(2, 32, 5, 9), torch.randn(2, 32, 3, 4)
    hr_even = torch.cat([hr, hr[..., -1:]], dim=3)
    hr_even = torch.cat([hr_even, hr_even[:, :, -1:]], dim=2)
    lr_longer = torch.cat([lr, lr[..., -1:]], dim=3)
    torch.testing.assert_close(module(hr, lr), module(hr_even, lr_longer)[..., :5, :9])


@pytest.mark.parametrize("name", UPSAMPLERS)
def test_a_fusion_adds_the_fine_map_and_keeps_the_keys(name):
    module = randomised(make(name, 32)).eval()
    state, hr, lr = module.state_dict(), torch.randn(2, 32, 5, 8), torch.randn(2, 32, 3, 4)
    result = module(hr, lr)
    fuse = as_fusion(module)
    assert list(fuse.state_dict()) == list(state)
    # FADE's gate is a fusion already: nothing is added to it.
    torch.testing.assert_close(fuse(hr, lr), result if name.startswith("fade") else hr + result)


@pytest.mark.parametrize(("name", "by_hand", "published"), [
    ("nearest", 0, 0),
    ("bilinear", 0, 0),
    ("deconv", 256 * 256 * 9 + 256, 1.8e6),
    ("pixelshuffle", 256 * 1024 * 9 + 1024, 7.1e6),
    ("carafe", (256 * 64 + 64) + (64 * 100 * 9 + 100), 0.2e6),
    ("dysample_static", 256 * 32 + 32, 24.7e3),         # 2 coordinates, 4 groups, 4 sub-pixels
    ("dysample", (256 * 32 + 32) + 256 * 32, 49.2e3),
    ("dysample_s", (64 * 16 + 16) + 64 * 16, 6.2e3),    # a quarter of the channels; 2 coordinates, 8 groups
    ("indexnet", 16 * 256 * 512 + 2 * 512 + 512 * 4, 6.3e6),
    # Two kernels, two normalisations, 9 numbers for 4 sub-pixels; the tables count the weights of the first and last.
    ("a2u", 2 * (256 + 1) + 2 * 2 * 256 + (256 + 1) * 36, None),
    ("fade", (256 * 64 + 64) + 256 * 64 + (64 * 25 * 9 + 25) + 257, 0.1e6),
    ("fade_lite", (256 * 25 + 25) + 256 * 25 + (25 * 9 + 25) + 257, 40e3),
    ("sapa_b", 2 * (256 * 32 + 32) + 2 * 2 * 256, 0.1e6),
    ("sapa_d", 2 * (256 * 128 + 128) + (256 + 1) * 4 * 9 * 2 * 4, None),     # 4 groups, 9 points, 2, 4 sub-pixels
])
def test_parameters_at_three_modules_of_256_channels_are_the_published_ones(name, by_hand, published):
    """FreqFusion's table of Panoptic FPN, with its rounding to one digit after the point."""
    with torch.device("meta"):
        module = make(name, 256)
    assert sum(parameter.numel() for parameter in module.parameters()) == by_hand
    if published is not None:
        unit = 1e6 if published >= 1e5 else 1e3
        assert round(3 * by_hand / unit, 1) == round(published / unit, 1)
    if name == "a2u":
        weights = sum(value.numel() for key, value in module.named_parameters()
                      if key.endswith("weight") and "norm" not in key)
        assert round(3 * weights / 1e3, 1) == 29.2


def test_the_table_above_names_every_upsampler():
    named = test_parameters_at_three_modules_of_256_channels_are_the_published_ones.pytestmark[0].args[1]
    assert {name for name, *_ in named} == set(UPSAMPLERS)


test_maps_that_do_not_fit = refuses(lambda hr, lr: make("nearest", 8)(torch.zeros(hr), torch.zeros(lr)), [
    ((1, 8, 6), (1, 8, 3, 3), r"hr must have 4 dimensions \(B, C, H, W\), got 3: \(1, 8, 6\)"),
    ((1, 8, 6, 6), (8, 3, 3), r"lr must have 4 dimensions \(B, C, H, W\), got 3: \(8, 3, 3\)"),
    ((2, 8, 6, 6), (1, 8, 3, 3), "hr and lr must be of one batch size, got 2 and 1"),
    ((1, 8, 6, 6), (1, 4, 3, 3), "lr must have 8 channels, got 4"),
    ((1, 4, 6, 6), (1, 8, 3, 3), "hr must have 8 channels, got 4"),
    ((1, 8, 8, 6), (1, 8, 3, 3), r"twice the size of lr, give or take one pixel, got \(8, 6\) and \(3, 3\)"),
    ((1, 8, 1, 6), (1, 8, 0, 3), r"got \(1, 6\) and \(0, 3\)"),
])


test_arguments_out_of_range = refuses(lambda call: call(), [
    (lambda: Interpolation(hr_channels=8, lr_channels=8, mode="bicubic"),
     "mode must be one of nearest, bilinear, got 'bicubic'"),
    (lambda: DySample(hr_channels=6, lr_channels=6), "lr_channels must be a multiple of the 4 groups, got 6"),
    (lambda: DySample(hr_channels=8, lr_channels=8, groups=0), "groups must be at least 1, got 0"),
    (lambda: DySample(hr_channels=6, lr_channels=6, groups=2, shuffle_first=True),
     "lr_channels must be a multiple of 4 with shuffle_first, got 6"),
    (lambda: CARAFE(hr_channels=8, lr_channels=0), "lr_channels must be at least 1, got 0"),
    (lambda: as_fusion(CARAFE(hr_channels=4, lr_channels=8)), "lr_channels must be as many as hr_channels, 4, "),
])

"""FreqFusion's rivals that read both maps, in float64 against loops over pixels; what they refuse."""
import math

import pytest
import torch
from torch import nn

from freqdino.frequency.rivals import A2U, FADE, SAPAB, SAPAD, FADELite, IndexNet
from freqdino.frequency.rivals.a2u import encode, encode_by_taps
from helpers.refusals import refuses

IMAGES, HEIGHT, WIDTH = 2, 3, 4
FINE = [(y, x) for y in range(2 * HEIGHT) for x in range(2 * WIDTH)]


def two_maps(hr_channels, lr_channels):
    generator = torch.Generator().manual_seed(1)
    return (torch.randn(IMAGES, hr_channels, 2 * HEIGHT, 2 * WIDTH, generator=generator, dtype=torch.float64),
            torch.randn(IMAGES, lr_channels, HEIGHT, WIDTH, generator=generator, dtype=torch.float64))


def made(kind, hr_channels, lr_channels, **options):
    """In float64 and eval mode, no value neutral: parameters and running statistics are random."""
    torch.manual_seed(0)
    module = kind(hr_channels=hr_channels, lr_channels=lr_channels, **options).double().eval()
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.5 if "running_var" in name else torch.randn_like(tensor) * 0.3)
    return module


def pixel(feature_map, y, x):
    """(B, C) at a pixel; zeros outside the map."""
    inside = 0 <= y < feature_map.shape[2] and 0 <= x < feature_map.shape[3]
    return feature_map[:, :, y, x] if inside else torch.zeros_like(feature_map[:, :, 0, 0])


def convolved(conv, x, stride=1, padding=0):
    """A convolution, output pixel by output pixel."""
    size, depthwise = conv.kernel_size[0], conv.groups > 1
    height, width = ((side + 2 * padding - size) // stride + 1 for side in x.shape[2:])
    output = x.new_zeros(len(x), conv.out_channels, height, width)
    for y in range(height):
        for column in range(width):
            for i in range(size):
                for j in range(size):
                    value = pixel(x, stride * y + i - padding, stride * column + j - padding)
                    weight = conv.weight[:, :, i, j]
                    output[:, :, y, column] += value * weight[:, 0] if depthwise else value @ weight.T
    return output if conv.bias is None else output + conv.bias[:, None, None]


def filtered(lr, logits, size):
    """Each fine pixel's softmax over the size × size coarse pixels round its own, zero outside the map."""
    output = lr.new_zeros(IMAGES, lr.shape[1], 2 * HEIGHT, 2 * WIDTH)
    for y, x in FINE:
        weights = logits[:, :, y, x].softmax(dim=1)
        for i in range(size):
            for j in range(size):
                value = pixel(lr, y // 2 + i - size // 2, x // 2 + j - size // 2)
                output[:, :, y, x] += weights[:, size * i + j, None] * value
    return output


def test_indexnet():
    hr, lr = two_maps(6, 5)
    module = made(IndexNet, 6, 5)
    context, norm = convolved(module.context, hr, stride=2, padding=1), module.norm
    scaled = (context - norm.running_mean[:, None, None]) / (norm.running_var[:, None, None] + norm.eps).sqrt()
    activated = (scaled * norm.weight[:, None, None] + norm.bias[:, None, None]).clamp(0, 6)
    z = convolved(module.index, activated)
    expected = torch.zeros(IMAGES, 5, 2 * HEIGHT, 2 * WIDTH, dtype=torch.float64)
    for y, x in FINE:
        index = 1 / (1 + (-z[:, 2 * (y % 2) + x % 2, y // 2, x // 2]).exp())
        expected[:, :, y, x] = index[:, None] * lr[:, :, y // 2, x // 2]
    torch.testing.assert_close(module(hr, lr), expected)


def test_a_single_pixel_trains_indexnet_by_its_running_statistics():
    module = IndexNet(hr_channels=4, lr_channels=4).train()
    hr, lr = torch.randn(1, 4, 2, 2), torch.randn(1, 4, 1, 1)
    result = module(hr, lr)
    result.sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert module.norm.num_batches_tracked == 0
    torch.testing.assert_close(module.eval()(hr, lr), result)


def group_normalised(x, norm):
    """GroupNorm, group by group."""
    size = x.shape[1] // norm.num_groups
    output = torch.zeros_like(x)
    for image in range(len(x)):
        for first in range(0, x.shape[1], size):
            group = x[image, first:first + size]
            output[image, first:first + size] = (group - group.mean()) / (group.var(unbiased=False) + norm.eps).sqrt()
    return output * norm.weight[:, None, None] + norm.bias[:, None, None]


def cell_average(hr, row, column):
    """Of adaptive pooling to 6 × 6."""
    (top, bottom), (left, right) = ((cell * side // 6, math.ceil((cell + 1) * side / 6))
                                    for cell, side in ((row, hr.shape[2]), (column, hr.shape[3])))
    return hr[:, :, top:bottom, left:right].mean(dim=(2, 3))


def test_a2u():
    hr, lr = two_maps(64, 5)
    module = made(A2U, 64, 5)
    codes = []
    for kernel_of, norm in ((module.first_kernel, module.first_norm), (module.second_kernel, module.second_norm)):
        encoded = torch.zeros(IMAGES, 64, HEIGHT, WIDTH, dtype=torch.float64)
        for i in range(6):
            for j in range(6):
                weight = cell_average(hr, i, j) @ kernel_of.weight[0, :, 0, 0] + kernel_of.bias
                for y in range(HEIGHT):
                    for x in range(WIDTH):
                        encoded[:, :, y, x] += weight[:, None] * pixel(hr, 2 * y + i - 2, 2 * x + j - 2)
        normalised = group_normalised(encoded, norm)
        codes.append(torch.where(normalised > 0, normalised, 0.01 * normalised))
    affinity = (codes[0] * codes[1]).sum(dim=1) / 8
    projection = hr.mean(dim=(2, 3)) @ module.projection.weight[:, :, 0, 0].T + module.projection.bias
    logits = torch.zeros(IMAGES, 9, 2 * HEIGHT, 2 * WIDTH, dtype=torch.float64)
    for y, x in FINE:
        for tap in range(9):
            factor = projection[:, 4 * tap + 2 * (y % 2) + x % 2]
            logits[:, tap, y, x] = torch.sigmoid(factor * affinity[:, y // 2, x // 2])
    torch.testing.assert_close(module(hr, lr), filtered(lr, logits, 3))


def test_a2us_encoding_by_taps_as_exported():
    x, kernels = torch.randn(3, 5, 8, 6), torch.randn(3, 1, 6, 6)
    torch.testing.assert_close(encode_by_taps(x, kernels), encode(x, kernels))


@pytest.mark.parametrize("gate", [True, False])
@pytest.mark.parametrize("kind", [FADE, FADELite])
def test_fade(kind, gate):
    hr, lr = two_maps(5, 5)
    module = made(kind, 5, 5, gate=gate)
    of_hr = convolved(module.encoder, convolved(module.hr_compressor, hr), padding=1)
    of_lr = convolved(module.encoder, convolved(module.lr_compressor, lr), padding=1)
    logits = of_hr + of_lr.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    expected = filtered(lr, logits, 5)
    if gate:
        for y, x in FINE:
            value = pixel(lr, y // 2, x // 2) @ module.gate.weight[0, :, 0, 0] + module.gate.bias
            share = 1 / (1 + (-value).exp())[:, None]
            expected[:, :, y, x] = share * hr[:, :, y, x] + (1 - share) * expected[:, :, y, x]
    torch.testing.assert_close(module(hr, lr), expected)


def test_sapa_b():
    hr, lr = two_maps(64, 32)
    module = made(SAPAB, 64, 32)
    query = convolved(module.query, group_normalised(hr, module.hr_norm))
    key = convolved(module.key, group_normalised(lr, module.lr_norm))
    logits = torch.zeros(IMAGES, 25, 2 * HEIGHT, 2 * WIDTH, dtype=torch.float64)
    for y, x in FINE:
        for tap in range(25):
            neighbour = pixel(key, y // 2 + tap // 5 - 2, x // 2 + tap % 5 - 2)
            logits[:, tap, y, x] = (query[:, :, y, x] * neighbour).sum(dim=1)
    torch.testing.assert_close(module(hr, lr), filtered(lr, logits, 5))


def read(feature_map, image, y, x):
    """(C,) of an image at a place between its pixels, bilinearly, zero outside the map."""
    top, left = math.floor(y), math.floor(x)
    corners = [(row, column, (1 - abs(y - row)) * (1 - abs(x - column)))
               for row in (top, top + 1) for column in (left, left + 1)]
    return sum(weight * pixel(feature_map, row, column)[image] for row, column, weight in corners)


@torch.no_grad()
def test_sapa_d():
    """Offsets of a group's point are two channels, x then y, of each of the four sub-pixels."""
    hr, lr = two_maps(5, 8)
    module = made(SAPAD, 5, 8)
    query, key, offset = convolved(module.query, hr), convolved(module.key, lr), convolved(module.offset, lr)
    expected = torch.zeros(IMAGES, 8, 2 * HEIGHT, 2 * WIDTH, dtype=torch.float64)
    for image in range(IMAGES):
        for y, x in FINE:
            for group in range(4):
                places = []
                for point in range(9):
                    channel = 2 * (9 * group + point)
                    dx, dy = (offset[image, 4 * (channel + axis) + 2 * (y % 2) + x % 2, y // 2, x // 2].item()
                              for axis in (0, 1))
                    places.append((y // 2 + point // 3 - 1 + dy, x // 2 + point % 3 - 1 + dx))
                embedding, channels = slice(32 * group, 32 * group + 32), slice(2 * group, 2 * group + 2)
                logits = torch.stack([query[image, embedding, y, x] @ read(key[:, embedding], image, *place)
                                      for place in places])
                values = torch.stack([read(lr[:, channels], image, *place) for place in places])
                expected[image, channels, y, x] = logits.softmax(dim=0) @ values
    torch.testing.assert_close(module(hr, lr), expected)


def test_sapa_d_starts_at_the_neighbours():
    """Without offsets a bilinear reading is a pixel: SAPA with 3 × 3 neighbours and a mask a group."""
    hr, lr = two_maps(5, 8)
    module = made(SAPAD, 5, 8)
    nn.init.zeros_(module.offset.weight)
    nn.init.zeros_(module.offset.bias)
    query, key = module.query(hr), module.key(lr)
    result = module(hr, lr)
    for group in range(4):
        embedding, channels = slice(32 * group, 32 * group + 32), slice(2 * group, 2 * group + 2)
        logits = torch.zeros(IMAGES, 9, 2 * HEIGHT, 2 * WIDTH, dtype=torch.float64)
        for y, x in FINE:
            for tap in range(9):
                neighbour = pixel(key[:, embedding], y // 2 + tap // 3 - 1, x // 2 + tap % 3 - 1)
                logits[:, tap, y, x] = (query[:, embedding, y, x] * neighbour).sum(dim=1)
        torch.testing.assert_close(result[:, channels], filtered(lr[:, channels], logits, 3))


def test_starts_of_the_published_initialisation():
    """FADE: Xavier-uniform, bounded by √(6 / (fan in + fan out)); SAPA: N(0, 0.02). Biases are zero."""
    torch.manual_seed(0)
    fade, sapa = FADE(hr_channels=64, lr_channels=64), SAPAB(hr_channels=64, lr_channels=64)
    for conv, fans in ((fade.hr_compressor, 64 + 64), (fade.encoder, 9 * (64 + 25)), (fade.gate, 64 + 1)):
        bound = math.sqrt(6 / fans)
        assert 0.9 * bound < conv.weight.abs().max() <= bound and not conv.bias.any()
    for conv in (sapa.query, sapa.key):
        assert conv.weight.std().item() == pytest.approx(0.02, rel=0.1) and not conv.bias.any()


test_what_does_not_fit = refuses(lambda call: call(), [
    (lambda: A2U(hr_channels=48, lr_channels=48),
     "hr_channels must be a multiple of 32, the groups of its normalisation, got 48"),
    (lambda: SAPAB(hr_channels=32, lr_channels=48), "lr_channels must be a multiple of 32"),
    (lambda: SAPAD(hr_channels=32, lr_channels=30), "lr_channels must be a multiple of the 4 groups, got 30"),
    (lambda: FADE(hr_channels=32, lr_channels=16),
     "gate needs maps of equal channels, got hr_channels 32, lr_channels 16"),
    (lambda: A2U(hr_channels=32, lr_channels=32)(torch.zeros(1, 32, 6, 7), torch.zeros(1, 32, 3, 4)),
     r"hr must have even sides for A2U, got \(6, 7\) \(height, width\); odd_sides=True extends others"),
])

"""Frequency scaling: a DFT by its definition, gradients, odd maps, bad input."""
import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from freqdino.frequency import FrequencyScale
from freqdino.frequency.fdam.frequency_scale import resize_filters
from freqdino.frequency.fdam.scale_spectrum import scale_spectrum, scale_spectrum_reference
from freqdino.ops import blocking
from helpers.golden import assert_agrees
from helpers.modules import count
from helpers.refusals import refuses


def randomised(**arguments) -> FrequencyScale:
    torch.manual_seed(0)
    scale = FrequencyScale(**{"dim": 8, "group": 4, "reweight_expansion_ratio": 0.5, **arguments})
    with torch.no_grad():
        for parameter in scale.parameters():
            parameter.normal_(std=0.5)
    return scale


def scaled_by_definition(x: torch.Tensor, filters: torch.Tensor) -> torch.Tensor:
    """Full-spectrum DFT matrices; columns right of the stored half follow from the result being real."""
    def dft(size):
        steps = torch.arange(size, dtype=torch.float64)
        return torch.exp(-2j * math.pi * torch.outer(steps, steps) / size) / math.sqrt(size)
    height, width = x.shape[-2:]
    half = (dft(height) @ x.to(torch.complex128) @ dft(width).mT)[..., : width // 2 + 1] * filters
    weights = torch.full((width // 2 + 1,), 2.0, dtype=torch.float64)
    weights[0] = 1
    if width % 2 == 0:
        weights[-1] = 1
    # Each interior column and its mirror image add up to twice the real part.
    return (dft(height).conj() @ (half * weights) @ dft(width).conj()[: width // 2 + 1]).real


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 1), (4, 6), (7, 5), (3, 8)])
def test_scale_spectrum_is_the_definition(size):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    filters = torch.randn(2, 3, size[0], size[1] // 2 + 1, dtype=torch.float64)
    expected = scaled_by_definition(x, filters)
    torch.testing.assert_close(scale_spectrum(x, filters), expected)
    torch.testing.assert_close(scale_spectrum_reference(x, filters), expected)


def test_a_channel_at_a_time_is_the_same(monkeypatch):
    x, filters = torch.randn(2, 5, 6, 7, requires_grad=True), torch.randn(2, 5, 6, 4, requires_grad=True)
    cotangent = torch.randn(2, 5, 6, 7)
    expected = scale_spectrum_reference(x, filters)
    expected_gradients = torch.autograd.grad(expected, (x, filters), cotangent)
    for budget in (1, 1000, 2**21):
        monkeypatch.setitem(blocking.BUDGET, "cpu", budget)
        y = scale_spectrum(x, filters)
        torch.testing.assert_close(y, expected)
        torch.testing.assert_close(torch.autograd.grad(y, (x, filters), cotangent), expected_gradients)


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 3)])
def test_gradcheck_of_the_operator(size):
    x = torch.randn(2, 2, *size, dtype=torch.float64, requires_grad=True)
    filters = torch.randn(2, 2, size[0], size[1] // 2 + 1, dtype=torch.float64, requires_grad=True)
    assert gradcheck(scale_spectrum, (x, filters))
    assert gradcheck(lambda x: scale_spectrum(x, filters.detach()), (x,))
    assert gradcheck(lambda filters: scale_spectrum(x.detach(), filters), (filters,))


@pytest.mark.parametrize("size", [(14, 8), (1, 1), (9, 11), (64, 33), (3, 4)])
def test_filters_are_resized_bicubically_with_aligned_corners(size):
    filters = torch.randn(2, 3, 14, 8, dtype=torch.float64)
    expected = F.interpolate(filters, size=size, mode="bicubic", align_corners=True)
    torch.testing.assert_close(resize_filters(filters, *size), expected)


def test_each_image_and_group_mixes_its_own_filters():
    scale = randomised(dim=4, group=2, num_filters=3, size=4).double()
    x = torch.randn(2, 4, 7, 6, dtype=torch.float64)
    y = scale(x)
    for image in range(2):
        hidden = scale.reweight.fc1.weight @ x[image].mean((1, 2))
        hidden = scale.reweight.act.scale * hidden.clamp(min=0) ** 2 + scale.reweight.act.bias
        routing = (scale.reweight.fc2.weight @ hidden).tanh()
        resized = F.interpolate(scale.complex_weights, size=(7, 4), mode="bicubic", align_corners=True)
        for channel in range(4):
            group, position = divmod(channel, 2)
            weight = sum(routing[group * 3 + f] * resized[f, position] for f in range(3))
            torch.testing.assert_close(y[image, channel], scaled_by_definition(x[image, channel], weight))


def test_changed_filters_take_effect_at_once():
    scale = randomised().eval()
    x = torch.randn(1, 8, 6, 6)
    with torch.no_grad():
        y = scale(x)
        twin = copy.deepcopy(scale)
        for change in (lambda: scale.complex_weights.mul_(2), lambda: scale.complex_weights.data.mul_(2)):
            change()
            y = 2 * y
            torch.testing.assert_close(scale(x), y)
        scale.load_state_dict(twin.state_dict())
        torch.testing.assert_close(scale(x), y / 4)
        torch.testing.assert_close(scale.double()(x.double()), y.double() / 4, rtol=1e-4, atol=1e-5)


def test_tokens_need_no_copy_and_keep_their_layout():
    scale = randomised()
    tokens = torch.randn(2, 15, 8)
    feature_map = tokens.transpose(1, 2).unflatten(2, (3, 5))
    y = scale(feature_map)
    torch.testing.assert_close(y, scale(feature_map.contiguous()))
    assert y.stride() == feature_map.stride()


def test_parameter_counts_and_start():
    scale = FrequencyScale(256, 16, 4, 14, 1 / 16)
    assert count(scale) == 12290
    assert 0 < scale.complex_weights.abs().max() <= 2e-5
    assert {key: tuple(value.shape) for key, value in FrequencyScale(64).state_dict().items()} == {
        "complex_weights": (4, 2, 14, 8), "reweight.fc1.weight": (8, 64), "reweight.fc2.weight": (128, 8),
        "reweight.act.scale": (1,), "reweight.act.bias": (1,)}
    x = torch.randn(1, 256, 9, 9)
    torch.testing.assert_close(scale(x, residual=True), x, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_of_one_pixel(dtype):
    scale, x = randomised(), torch.randn(2, 8, 1, 1)
    expected = scale(x)
    with torch.autocast("cpu", dtype):
        assert_agrees(scale(x), expected, "autocast", relative=3e-2)
    assert_agrees(scale.to(dtype)(x.to(dtype)), expected, "half weights", relative=3e-2)


test_bad_input = refuses(lambda run: run(), [
    (lambda: FrequencyScale(64, group=24), "group 24 and dim 64"),
    (lambda: FrequencyScale(64, group=0), "group must be at least 1, got 0"),
    (lambda: FrequencyScale(64, group=2.0), "group must be an integer, got 2.0"),
    (lambda: FrequencyScale(-64), "dim must be at least 1, got -64"),
    (lambda: FrequencyScale(64, size=7.5), "size must be an integer, got 7.5"),
    (lambda: FrequencyScale(64, num_filters=0), "num_filters must be at least 1, got 0"),
    (lambda: FrequencyScale(64, size=-1), "size must be at least 1, got -1"),
    (lambda: FrequencyScale(8, group=4, reweight_expansion_ratio=1 / 16), "0.0625 times dim 8"),
    (lambda: FrequencyScale(64)(torch.zeros(1, 32, 4, 4)), r"\(B, 64, H, W\).*\(1, 32, 4, 4\)"),
    (lambda: FrequencyScale(64)(torch.zeros(1, 16, 64)), r"\(B, 64, H, W\).*\(1, 16, 64\)"),
    (lambda: FrequencyScale(64)(torch.zeros(1, 64, 0, 4)), r"empty map: \(1, 64, 0, 4\)"),
    (lambda: scale_spectrum(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)), r"\(1, 2, 4, 3\).*\(1, 2, 4, 4\)"),
])

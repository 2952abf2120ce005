"""Frequency responses: each function against a closed form."""
import math

import pytest
import torch

from freqdino.analysis.frequency import responses

GRID = (6, 8)


def frequencies(grid):
    """v and u in cycles per token, (H, 1) and (1, W)."""
    return torch.fft.fftfreq(grid[0])[:, None], torch.fft.fftfreq(grid[1])[None]


def random_map(channels=5, grid=GRID):
    return torch.randn(channels, *grid, generator=torch.Generator().manual_seed(0))


def through_attention(value, matrix):
    """A·V for a map V (C, H, W) and an attention matrix A (H · W, H · W)."""
    return (value.flatten(1) @ matrix.mT).view_as(value)


def test_identity_attention_passes_every_frequency():
    value = random_map()
    response = responses.global_response(value, through_attention(value, torch.eye(48)))
    torch.testing.assert_close(response, torch.ones(GRID))


def test_uniform_attention_leaves_frequency_zero_alone():
    value = random_map()
    response = responses.global_response(value, through_attention(value, torch.full((48, 48), 1 / 48)))
    expected = torch.zeros(GRID)
    expected[0, 0] = 1
    torch.testing.assert_close(response, expected, atol=1e-6, rtol=1e-5)


def test_attention_that_is_a_convolution_has_its_response():
    """The taps ¼, ½, ¼ along a row respond with ½ + ½ cos(2πu)."""
    value = random_map()
    output = value / 2 + (value.roll(1, -1) + value.roll(-1, -1)) / 4
    expected = (0.5 + 0.5 * torch.cos(2 * math.pi * frequencies(GRID)[1])).expand(GRID)
    torch.testing.assert_close(responses.global_response(value, output), expected, atol=1e-6, rtol=1e-4)


def test_response_is_undefined_where_the_input_has_nothing():
    value = torch.ones(2, *GRID)
    response = responses.global_response(value, 3 * value)
    assert response[0, 0] == 3 and response.isnan().sum() == 47


def test_maps_of_two_sizes():
    with pytest.raises(ValueError, match=r"value has shape \(5, 6, 8\), output \(5, 8, 6\)"):
        responses.global_response(random_map(), random_map(grid=(8, 6)))


def test_profile_of_a_function_of_the_radius():
    """Each ring averages its own frequencies; those of a constant or of the ring's number are known."""
    bins, grid = 4, (16, 16)
    v, u = frequencies(grid)
    radius = torch.hypot(v, u)
    ring = torch.ceil(radius / math.sqrt(0.5) * bins - 1e-4)
    torch.testing.assert_close(responses.radial_profile(ring, bins), torch.arange(5.0))
    torch.testing.assert_close(responses.profile_frequencies(bins), torch.tensor([0, 1, 3, 5, 7]) * math.sqrt(0.5) / 8)


def test_profile_leaves_out_what_is_undefined():
    response = torch.full((2, 2), math.nan)
    response[0, 0], response[1, 1] = 5, 7
    profile = responses.radial_profile(response, bins=2)
    assert profile[0] == 5 and profile[1].isnan() and profile[2] == 7


def test_centred():
    plane = torch.zeros(5, 6)
    plane[0, 0] = 1
    assert responses.centred(plane)[2, 3] == 1


def test_kernel_of_a_token():
    """The key of one token equals the query up to a large factor, the others are orthogonal to it."""
    grid, heads, width = (3, 4), 2, 16
    keys = torch.eye(12, width).expand(heads, -1, -1) * 4
    queries = keys * 25
    kernel = responses.attention_kernel(queries, keys, (1, 2), grid)
    assert kernel.shape == (heads, *grid)
    expected = torch.zeros(grid)
    expected[1, 2] = 1
    torch.testing.assert_close(kernel[0], expected)
    # By the definition of softmax: equal logits give equal weights, one that is log 3 larger three times as much.
    keys = torch.zeros(1, 12, 4)
    keys[0, 5, 0] = math.log(3) * 2
    queries = torch.zeros(1, 12, 4)
    queries[..., 0] = 1
    expected = torch.full((3, 4), 1 / 14)
    expected[1, 1] = 3 / 14
    torch.testing.assert_close(responses.attention_kernel(queries, keys, (0, 0), grid)[0], expected)


@pytest.mark.parametrize("token", [(3, 0), (0, 4), (-1, 0)])
def test_token_outside(token):
    with pytest.raises(ValueError, match=r"lies outside of the map of 3 × 4 tokens"):
        responses.attention_kernel(torch.zeros(1, 12, 4), torch.zeros(1, 12, 4), token, (3, 4))


def test_softmax_kernels_are_low_passes():
    kernel = torch.randn(3, 30, generator=torch.Generator().manual_seed(1)).softmax(-1).view(3, 5, 6)
    zero, other = responses.low_pass_figures(responses.local_response(kernel))
    assert zero == pytest.approx(1, abs=1e-5) and 0 < other < 1 and responses.is_low_pass(zero, other)


def test_what_is_no_low_pass():
    kernel = torch.zeros(2, 4, 4)
    kernel[0] = 1 / 16
    kernel[1, 1, 2] = 1         # all-pass: |F| = 1 everywhere
    zero, other = responses.low_pass_figures(responses.local_response(kernel))
    assert zero == pytest.approx(1) and other == pytest.approx(1) and not responses.is_low_pass(1.0, 1.0)
    assert not responses.is_low_pass(0.9, 0.5)
    assert responses.low_pass_figures(torch.ones(1, 1)) == (1.0, 0.0)


def test_inverted_kernel_is_the_complement():
    """Where A is symmetric round its token, F(E - A) = 1 - F(A) in magnitude, and S̄ = Ŝ = 1 gives the identity."""
    kernel = torch.zeros(1, 8)
    kernel[0, 2:5] = torch.tensor([0.25, 0.5, 0.25])
    u = torch.fft.fftfreq(8)
    low = 0.5 + 0.5 * torch.cos(2 * math.pi * u)
    high = responses.local_response(responses.inverted_kernel(kernel, (0, 3), 0.0, 1.0))
    torch.testing.assert_close(high[0], 1 - low, atol=1e-6, rtol=1e-5)
    both = responses.local_response(responses.inverted_kernel(kernel, (0, 3), 1.0, 1.0))
    torch.testing.assert_close(both, torch.ones(1, 8))


def test_deep_stacks_do_not_underflow():
    assert responses.stacked_response([torch.full((1, 1), 1e-3)] * 24).item() == pytest.approx(1e-72)


def test_stacks_of_low_passes_vanish_and_inverted_ones_need_not():
    """∏ (1 - x) over n layers is (1 - x)ⁿ; with S̄ = 1 and Ŝ = ½ a layer responds with 1 - x / 2."""
    x = torch.linspace(0, 1, 12).view(3, 4)
    torch.testing.assert_close(responses.stacked_response([1 - x] * 5), (1 - x).double() ** 5)
    torch.testing.assert_close(responses.stacked_response([1 - x / 2] * 5), (1 - x / 2).double() ** 5)
    torch.testing.assert_close(responses.stacked_response([1 - x, 1 + x]), 1 - x.double()**2)

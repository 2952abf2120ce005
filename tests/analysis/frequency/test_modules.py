"""What is read off FDAM's, FDConv's and FreqFusion's modules, against what the modules themselves compute."""
import math

import pytest
import torch
import torch.nn.functional as F

from freqdino.analysis.frequency import groups_and_bands, modulation, similarity_and_filters
from freqdino.frequency import FDConv, FDLinear, FreqFusion, FrequencyScale, InversionGates
from freqdino.frequency.fdam.scale_spectrum import scale_spectrum_reference
from freqdino.frequency.fdconv.band_modulation import FrequencyBandModulation


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def shaken(module):
    """The module with parameters that are far from neutral."""
    for parameter in module.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.3)
    return module


def test_coefficients_of_inverted_attention():
    """X' = S̄ · A X + Ŝ · (X - A X), equation 34."""
    gates = shaken(InversionGates(12, 3))
    value, attended, query = torch.randn(3, 2, 10, 12)
    low, high = modulation.inversion_coefficients(gates, query)
    torch.testing.assert_close(low * attended + high * (value - attended), gates(value, attended, query))


def test_coefficients_at_zero_query():
    """With the query 0, the gates are those of their biases: tanh(b) γ + 1, and 2u / (u + 0.3678) γ."""
    gates = InversionGates(4, 2)
    gates.dy_freq.bias.fill_(0.5)
    gates.dy_freq_2.bias.fill_(-0.25)
    gates.lf_gamma.fill_(0.1)
    gates.hf_gamma.fill_(0.2)
    low, high = modulation.inversion_coefficients(gates, torch.zeros(1, 3, 4))
    u = math.log(1 + math.exp(0.5)) ** 2
    torch.testing.assert_close(low, torch.full_like(low, 1 + 0.1 * math.tanh(-0.25)))
    torch.testing.assert_close(high, torch.full_like(high, 0.2 * 2 * u / (u + 0.3678)))


@pytest.mark.parametrize("size", [(5, 6), (4, 7), (14, 14)])
def test_weights_of_frequency_scaling_are_what_it_multiplies_with(size):
    scale = shaken(FrequencyScale(32, group=4, reweight_expansion_ratio=1 / 4))
    x = torch.randn(2, 32, *size)
    weights = modulation.scale_weights(scale, x)
    assert weights.shape == x.shape
    expected = torch.fft.ifft2(torch.fft.fft2(x) * weights).real
    torch.testing.assert_close(scale(x), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(scale_spectrum_reference(x, weights[..., :size[1] // 2 + 1]), expected, atol=1e-4,
                               rtol=1e-4)


@pytest.mark.parametrize("layer", [
    FDConv(20, 24, 3, kernel_num=5), FDConv(18, 17, (3, 1), kernel_num=4, param_ratio=2),
    FDLinear(20, 24, kernel_num=6), FDConv(20, 20, 1, kernel_num=3, convert_param=False)],
    ids=["conv", "two shares", "linear", "plain parameter"])
def test_group_kernels_sum_to_the_weight(layer):
    matrices = groups_and_bands.group_matrices(layer)
    out_channels, _, height, width = layer.conv_shape
    weight = layer.static_weight().reshape(layer.conv_shape)
    expected = weight.permute(0, 2, 1, 3).reshape(out_channels * height, -1)
    torch.testing.assert_close(matrices.sum(0), expected, atol=1e-5, rtol=1e-4)


def test_kernels_of_disjoint_groups_are_orthogonal():
    matrices = groups_and_bands.group_matrices(FDConv(20, 24, 3, kernel_num=7))
    torch.testing.assert_close(groups_and_bands.similarity_matrix(matrices), torch.eye(7), atol=1e-5, rtol=0)


def test_kernels_of_two_equal_shares_are_parallel():
    matrices = groups_and_bands.group_matrices(FDConv(20, 24, 3, kernel_num=2, param_ratio=2))
    similarity = groups_and_bands.similarity_matrix(matrices)
    torch.testing.assert_close(similarity, torch.eye(2).repeat(2, 2), atol=1e-5, rtol=0)


def test_similarity_of_known_kernels():
    kernels = torch.tensor([[[3.0, 0.0]], [[1.0, 1.0]], [[-2.0, 0.0]], [[0.0, 0.0]]])
    half = math.sqrt(0.5)
    expected = torch.tensor([[1, half, -1, 0], [half, 1, -half, 0], [-1, -half, 1, 0], [0, 0, 0, 0]])
    torch.testing.assert_close(groups_and_bands.similarity_matrix(kernels), expected)


def test_band_masks_by_their_definition():
    """On a 64 × 64 map nothing is resized: band i has max(|fy|, |fx|) between the cut-offs 0.5 / k."""
    masks = groups_and_bands.band_masks((2, 4, 8), 64, 64)
    f = torch.fft.fftfreq(64).abs()
    largest = torch.maximum(f[:, None], f[None])
    inside = [torch.ones(64, 64)] + [(largest < 0.5 / k + 1e-8).float() for k in (2, 4, 8)]
    expected = torch.stack([outer - inner for outer, inner in zip(inside, inside[1:])] + inside[-1:])
    torch.testing.assert_close(masks, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(9, 12), (1, 5), (30, 31)])
def test_bands_and_weights_are_what_the_module_computes(size):
    module = shaken(FrequencyBandModulation(6, k_list=(2, 4)))
    x = torch.randn(1, 6, *size)
    masks, weights = groups_and_bands.band_masks((2, 4), *size), groups_and_bands.band_weights(module, x)
    torch.testing.assert_close(masks.sum(0), torch.ones(size))
    bands = torch.fft.ifft2(torch.fft.fft2(x)[:, None] * masks[None, :, None]).real     # (1, bands, C, H, W)
    torch.testing.assert_close((bands * weights[None, :, None]).sum(1), module(x), atol=1e-4, rtol=1e-4)


def test_similarity_of_a_toy_map_of_two_categories():
    """Category 0 lies 30° on either side of the first axis, category 1 on the second axis: their centres are the axes.
    Cosines to the own centre are cos 30° and 1, to the other sin 30° or -sin 30°, and 0."""
    c, s = math.cos(math.pi / 6), math.sin(math.pi / 6)
    features = torch.tensor([[c, c, 0.0, 7.0], [s, -s, 2.0, 7.0]]).view(2, 2, 2)
    labels = torch.tensor([[4, 4], [9, -1]])
    intra, margin = similarity_and_filters.category_similarity(features, labels)
    assert intra == pytest.approx((2 * c + 1) / 3)
    assert margin == pytest.approx(((c - s) + (c + s) + 1) / 3)


def test_similarity_of_one_category_and_of_none():
    features = torch.ones(2, 2, 2)
    intra, margin = similarity_and_filters.category_similarity(features, torch.zeros(2, 2, dtype=torch.int64))
    assert intra == pytest.approx(1) and math.isnan(margin)
    assert all(map(math.isnan, similarity_and_filters.category_similarity(features, torch.full((2, 2), -1))))
    with pytest.raises(ValueError, match=r"features are \(2, 2\) pixels, labels \(3, 2\)"):
        similarity_and_filters.category_similarity(features, torch.zeros(3, 2))


def test_labels_on_a_map():
    """A 4 × 6 picture, shown at half its size in a padded input of 4 × 4: the map has a pixel for each of its 2 × 2."""
    labels = torch.tensor([[1, 1, 2, 2, 3, 3]] * 2 + [[4, 4, 5, 5, 6, 6]] * 2)
    on_map = similarity_and_filters.labels_on_map(labels, (2, 3), (4, 4), (4, 4))
    assert on_map.tolist() == [[1, 2, 3, -1], [4, 5, 6, -1], [-1] * 4, [-1] * 4]


@pytest.mark.parametrize("options", [{}, {"up_group": 2}, {"semi_conv": False}, {"hr_residual": False},
                                     {"comp_feat_upsample": False}], ids=str)
@pytest.mark.parametrize("size", [(8, 6), (7, 9)])
def test_fusion_kernels_are_what_the_unit_filters_with(options, size):
    unit = FreqFusion(8, 8, compressed_channels=4, hamming_window=True, **options)
    unit.content_encoder.weight.normal_()
    unit.content_encoder2.weight.normal_()
    hr, lr = torch.randn(1, 8, *size), torch.randn(1, 8, *(-(-side // 2) for side in size))
    filters, hr_out, _ = unit(hr, lr)
    y, x = 3, 2
    low, high = similarity_and_filters.fusion_kernels(unit, hr, lr, (y, x))
    torch.testing.assert_close(low.flatten(), filters[0, :, y, x])
    torch.testing.assert_close(low.sum((1, 2)), torch.ones(unit.up_group))
    torch.testing.assert_close(high.sum((1, 2)), torch.zeros(unit.up_group), atol=1e-6, rtol=0)
    patch = F.pad(hr, (1, 1, 1, 1))[0, :, y:y + 3, x:x + 3].unflatten(0, (unit.up_group, -1))
    filtered = (patch * high[:, None]).sum((2, 3)).flatten()
    expected = filtered + hr[0, :, y, x] if unit.hr_residual else filtered
    torch.testing.assert_close(hr_out[0, :, y, x], expected, atol=1e-5, rtol=1e-4)


def test_unit_without_high_pass_and_point_outside():
    unit = FreqFusion(8, 8, compressed_channels=4, use_high_pass=False, comp_feat_upsample=False)
    hr, lr = torch.randn(1, 8, 4, 6), torch.randn(1, 8, 2, 3)
    assert similarity_and_filters.fusion_kernels(unit, hr, lr, (0, 5))[1] is None
    with pytest.raises(ValueError, match=r"\(4, 0\) lies outside of the map of 4 × 6"):
        similarity_and_filters.fusion_kernels(unit, hr, lr, (4, 0))

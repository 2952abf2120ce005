"""FreqFusion's offset generator: similarities, bilinear sampling, positions, two convolutions in one."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from freqdino.frequency.freqfusion.offset_generator import (
    SimilarityGuidedSampler,
    joint_conv,
    local_similarity,
    sample_bilinear,
)
from helpers.refusals import refuses


def still_sampler(channels=8, groups=2, **arguments):
    """A sampler whose offsets are zero: every head's weights and biases are."""
    sampler = SimilarityGuidedSampler(channels, groups=groups, norm=False, **arguments)
    for parameter in sampler.parameters():
        torch.nn.init.zeros_(parameter)
    return sampler


@pytest.mark.parametrize("height, width", [(5, 6), (1, 1), (2, 7), (3, 1)])
def test_similarity_is_the_cosine_with_each_neighbour(height, width):
    x = torch.randn(2, 4, height, width, dtype=torch.float64)
    offsets = [(row, column) for row in (-2, 0, 2) for column in (-2, 0, 2) if (row, column) != (0, 0)]
    expected = torch.zeros(2, 8, height, width, dtype=torch.float64)
    for neighbour, (row, column) in enumerate(offsets):
        for i in range(height):
            for j in range(width):
                if 0 <= i + row < height and 0 <= j + column < width:
                    pair = x[:, :, i, j], x[:, :, i + row, j + column]
                    expected[:, neighbour, i, j] = F.cosine_similarity(*pair, dim=1)
    torch.testing.assert_close(local_similarity(x), expected)


def test_similarity_of_zero_features_is_zero_with_a_finite_gradient():
    x = torch.zeros(1, 3, 4, 4, requires_grad=True)
    similarity = local_similarity(x)
    similarity.sum().backward()
    assert similarity.eq(0).all() and x.grad.isfinite().all()


@pytest.mark.parametrize("groups", [1, 3])
def test_bilinear_sampling_is_grid_sample_with_a_border(groups):
    features = torch.randn(2, 6, 5, 7, dtype=torch.float64, requires_grad=True)
    x = (torch.rand(2, groups, 4, 3, dtype=torch.float64) * 11 - 2).requires_grad_()
    y = (torch.rand(2, groups, 4, 3, dtype=torch.float64) * 9 - 2).requires_grad_()
    grid = torch.stack([(2 * x + 1) / 7 - 1, (2 * y + 1) / 5 - 1], dim=-1).flatten(0, 1)
    expected = F.grid_sample(features.reshape(2 * groups, 6 // groups, 5, 7), grid, padding_mode="border",
                             align_corners=False).reshape(2, 6, 4, 3)
    sampled = sample_bilinear(features, x, y)
    torch.testing.assert_close(sampled, expected)
    cotangent = torch.randn_like(expected)
    torch.testing.assert_close(torch.autograd.grad(sampled, (features, x, y), cotangent),
                               torch.autograd.grad(expected, (features, x, y), cotangent))


def test_a_position_that_is_not_a_number_gives_a_result_that_is_not_one():
    x = torch.tensor([float("nan"), 1.0, float("inf")]).view(1, 1, 1, 3)
    sampled = sample_bilinear(torch.arange(4.0).view(1, 1, 1, 4), x, torch.zeros_like(x)).flatten()
    assert sampled[0].isnan() and sampled[1:].tolist() == [1.0, 3.0]


@pytest.mark.parametrize("rows, columns", [(8, 12), (7, 12), (8, 11), (7, 11)])
def test_without_offsets_nothing_moves(rows, columns):
    features = torch.randn(1, 4, rows, columns)
    sampled = still_sampler()(torch.randn(1, 8, rows, columns), torch.randn(1, 8, 4, 6), features)
    torch.testing.assert_close(sampled, features)


@pytest.mark.parametrize("head, repeats", [("offset", 4), ("hr_offset", 1)])
def test_half_a_low_resolution_pixel_is_one_pixel_of_the_result(head, repeats):
    """Group 0 moves one pixel right, group 1 one pixel up; the border repeats."""
    sampler = still_sampler()
    torch.nn.init.constant_(sampler.direct_scale.bias, 100.0)
    x_of_groups_then_y = torch.tensor([0.5, 0.0, 0.0, -0.5])
    with torch.no_grad():
        getattr(sampler, head).bias.copy_(x_of_groups_then_y.repeat_interleave(repeats))
    features = torch.randn(1, 4, 6, 8)
    sampled = sampler(torch.randn(1, 8, 6, 8), torch.randn(1, 8, 3, 4), features)
    right = torch.cat([features[:, :2, :, 1:], features[:, :2, :, -1:]], dim=3)
    up = torch.cat([features[:, 2:, :1], features[:, 2:, :-1]], dim=2)
    torch.testing.assert_close(sampled, torch.cat([right, up], dim=1))


def test_init_pos_is_the_published_constant():
    init_pos = SimilarityGuidedSampler(8, groups=4).init_pos
    assert init_pos.flatten().tolist() == [-0.25, 0.25, -0.25, 0.25] * 4 + [-0.25, -0.25, 0.25, 0.25] * 4
    assert tuple(init_pos.shape) == (1, 32, 1, 1)


def test_positions_of_a_wide_map_are_exact_in_bfloat16():
    sampler = still_sampler().bfloat16()
    features = torch.arange(1200).remainder(256).bfloat16().expand(1, 2, 2, 1200)
    guides = torch.randn(1, 8, 2, 1200).bfloat16(), torch.randn(1, 8, 1, 600).bfloat16()
    assert torch.equal(sampler(*guides, features), features)


def test_gradients():
    sampler = SimilarityGuidedSampler(8, groups=2).double()
    guides = torch.randn(1, 8, 5, 4, dtype=torch.float64), torch.randn(1, 8, 3, 2, dtype=torch.float64)
    features = torch.randn(1, 2, 5, 4, dtype=torch.float64)
    arguments = [argument.requires_grad_() for argument in (*guides, features)]
    assert torch.autograd.gradcheck(sampler, arguments, fast_mode=True)


def test_empty_batch():
    sampled = SimilarityGuidedSampler(8)(torch.rand(0, 8, 4, 6), torch.rand(0, 8, 2, 3), torch.rand(0, 4, 4, 6))
    assert tuple(sampled.shape) == (0, 4, 4, 6)


test_bad_arguments = refuses(lambda arguments: SimilarityGuidedSampler(**arguments), [
    (dict(channels=8, groups=0), "groups must be at least 1, got 0"),
    (dict(channels=4), "got 4 channels and 0 groups"),
    (dict(channels=25), "got 25 channels and 3 groups"),
])


def test_groups_that_do_not_divide_the_map():
    with pytest.raises(ValueError, match="groups 4, channels 6"):
        SimilarityGuidedSampler(8)(torch.rand(1, 8, 4, 6), torch.rand(1, 8, 2, 3), torch.rand(1, 6, 4, 6))


def test_a_joint_convolution_equals_the_two():
    first, second = (nn.Conv2d(5, out, 3, padding=2, dilation=2) for out in (3, 4))
    x = torch.randn(2, 5, 7, 6)
    torch.testing.assert_close(joint_conv(x, first, second), torch.cat([first(x), second(x)], dim=1))

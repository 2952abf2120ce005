"""Fourier Disjoint Weight: the order of coefficients and the way there and back."""
import math

import pytest
import torch

from freqdino.frequency.fdconv.conv import FDConv
from freqdino.frequency.fdconv.fourier_weight import frequency_groups, grouped_matrices


@pytest.mark.parametrize("rows, columns, kernel_num", [(6, 8, 4), (5, 7, 3), (9, 3, 18), (1, 1, 1), (4, 5, 5)])
def test_groups_follow_the_radius_then_the_position(rows, columns, kernel_num):
    half = columns // 2 + 1
    positions = []
    for y in range(rows):
        fy = y if y < (rows + 1) // 2 else y - rows
        for x in range(half):
            positions.append(((fy * columns) ** 2 + (x * rows) ** 2, y, x))
    size = rows * half // kernel_num
    expected = torch.empty(rows, half, dtype=torch.int64)
    for rank, (_, y, x) in enumerate(sorted(positions)):
        expected[y, x] = min(rank // size, kernel_num - 1)
    assert torch.equal(frequency_groups(rows, columns, kernel_num), expected)


def test_the_last_group_takes_the_rest():
    """96 channels and 64 groups: 288 × 145 coefficients leave 16 over."""
    counts = frequency_groups(288, 288, 64).flatten().bincount()
    assert len(counts) == 64 and set(counts[:-1].tolist()) == {652} and counts[-1] == 652 + 288 * 145 % 64


def test_coefficients_are_those_of_the_weight_matrix():
    """Checked at one coefficient by the definition of the Fourier transform."""
    layer = FDConv(18, 20, 3)
    weight = torch.randn(20, 18, 3, 3)
    layer.load_state_dict({"weight": weight, "bias": layer.bias})
    assert layer.dft_weight.shape == (1, 60, 28, 2)
    fy, fx = 7, 5
    row = torch.arange(20)[:, None, None, None] * 3 + torch.arange(3)[:, None]
    column = torch.arange(18)[:, None, None] * 3 + torch.arange(3)
    angle = -2 * math.pi * (fy * row / 60 + fx * column / 54)
    expected = torch.stack([(weight * angle.cos()).sum(), (weight * angle.sin()).sum()]) / 9
    assert torch.allclose(layer.dft_weight[0, fy, fx], expected, atol=1e-4)


@pytest.mark.parametrize("arguments", [dict(kernel_size=1), dict(kernel_size=(3, 1), groups=5), dict(kernel_size=3),
                                       dict(kernel_size=3, param_ratio=2)])
def test_static_weight_inverts_the_conversion(arguments):
    layer = FDConv(35, 25, **arguments, dtype=torch.float64)
    weight = torch.randn_like(layer.static_weight())
    layer.load_state_dict({"weight": weight, "bias": layer.bias})
    assert torch.allclose(layer.static_weight(), weight, atol=1e-13)


@pytest.mark.parametrize("shares", [1, 2])
@pytest.mark.parametrize("rows, columns", [(6, 8), (5, 7), (3, 1), (2, 2)])
def test_grouped_matrices_and_their_gradients(rows, columns, shares):
    """Against the sum written out, under autograd's own rules."""
    group_map = frequency_groups(rows, columns, 3).int()
    coefficients = torch.randn(shares, *group_map.shape, 2, dtype=torch.float64, requires_grad=True)
    gains = torch.randn(4, shares, 3, dtype=torch.float64, requires_grad=True)
    spectrum = (coefficients * gains[:, :, group_map.long()].unsqueeze(-1)).sum(1)
    expected = torch.fft.irfft2(torch.view_as_complex(spectrum), s=(rows, columns))
    matrices = grouped_matrices(coefficients, gains, group_map, columns)
    assert torch.allclose(matrices, expected, atol=1e-12)
    cotangent = torch.randn_like(expected)
    for got, wanted in zip(torch.autograd.grad(matrices, (coefficients, gains), cotangent),
                           torch.autograd.grad(expected, (coefficients, gains), cotangent)):
        assert torch.allclose(got, wanted, atol=1e-12)


def test_a_frozen_weight_gets_no_gradient_but_its_gains_do():
    group_map = frequency_groups(4, 6, 2).int()
    gains = torch.ones(1, 1, 2, requires_grad=True)
    grouped_matrices(torch.randn(1, 4, 4, 2), gains, group_map, 6).square().sum().backward()
    assert (gains.grad > 0).all()

"""Sampling masks at points with known values; the share of points that lie where the mask is uncertain."""
import pytest
import torch

from freqdino.modeling.point_sampling import sample_all, sample_channels, sample_each, uncertain_points


def centre(row, column, height, width):
    return [(column + 0.5) / width, (row + 0.5) / height]


def test_values_at_pixel_centres():
    mask = torch.arange(12.0).view(1, 3, 4)
    points = torch.tensor([[centre(row, column, 3, 4) for row in range(3) for column in range(4)]])
    assert torch.allclose(sample_each(mask, points), torch.arange(12.0)[None], atol=1e-5)
    assert torch.allclose(sample_all(mask, points[0]), torch.arange(12.0)[None], atol=1e-5)


def test_between_pixels_and_outside():
    mask = torch.tensor([[[1.0, 3.0], [5.0, 7.0]]])
    # The middle is the mean of four; the outer edge is half the pixel and half the zero beyond; a corner is a quarter.
    points = torch.tensor([[0.5, 0.5], [0.5, 0.25], [0.0, 0.25], [0.0, 0.0], [-0.5, 0.5], [0.5, 2.0]])
    assert torch.allclose(sample_all(mask, points), torch.tensor([[4.0, 2.0, 0.5, 0.25, 0.0, 0.0]]), atol=1e-6)


def test_each_mask_has_its_own_points():
    masks, points = torch.randn(3, 5, 7), torch.rand(3, 4, 2)
    expected = torch.stack([sample_all(mask[None], own)[0] for mask, own in zip(masks, points)])
    assert torch.allclose(sample_each(masks, points), expected, atol=1e-6)


def test_channels_at_once_equal_masks_one_by_one():
    features, points = torch.randn(6, 5, 7), torch.rand(50, 2) * 1.6 - 0.3     # also half and wholly outside
    assert torch.allclose(sample_channels(features, points).T, sample_all(features, points), atol=1e-5)
    assert sample_channels(features, points[:0]).shape == (0, 6)


@pytest.mark.parametrize("shape", [(0, 4), (3, 0)])
def test_no_masks_and_no_points(shape):
    count, points = shape
    assert sample_each(torch.zeros(count, 5, 7), torch.rand(count, points, 2)).shape == shape


def test_gradient():
    masks = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    points = torch.rand(2, 5, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda m: sample_each(m, points), masks)


def ramp(width=200):
    """Logits from -1 to 1 along x, the same in every row."""
    return torch.linspace(-1, 1, width).expand(2, 10, width).contiguous()


def near_zero(points, distance):
    return ((points[..., 0] - 0.5).abs() * 2 < distance).float().mean(dim=1)


def test_the_share_of_uncertain_points():
    # 0.75 P of 3 P candidates: the quarter nearest to 0, so within 0.25 of it; the last 0.25 P are uniform.
    points = uncertain_points(ramp(), num_points=2000, oversample_ratio=3.0, importance_ratio=0.75)
    assert points.shape == (2, 2000, 2)
    assert 0 <= points.min() and points.max() < 1
    expected = 0.75 + 0.25 * 0.28
    # Points within half a pixel of the upper and lower edge are pulled to 0 by the padding.
    assert near_zero(points, 0.28).tolist() == pytest.approx([expected, expected], abs=0.05)
    assert not torch.equal(points[0], points[1])


@pytest.mark.parametrize(("ratio", "expected"), [(0.0, 0.1), (1.0, 0.3)])
def test_none_and_all_by_uncertainty(ratio, expected):
    # All of P out of 3 P: the nearest third, of which 0.1 / 0.333 lie within 0.1.
    points = uncertain_points(ramp(), num_points=3000, oversample_ratio=3.0, importance_ratio=ratio)
    assert near_zero(points, 0.1).tolist() == pytest.approx([expected] * 2, abs=0.06)


def test_uncertain_points_of_no_masks_and_of_one_point():
    arguments = {"oversample_ratio": 3.0, "importance_ratio": 0.75}
    assert uncertain_points(torch.zeros(0, 4, 4), num_points=5, **arguments).shape == (0, 5, 2)
    assert uncertain_points(torch.zeros(2, 4, 4), num_points=1, **arguments).shape == (2, 1, 2)


def test_points_carry_no_gradient():
    logits = ramp().requires_grad_()
    assert not uncertain_points(logits, num_points=4, oversample_ratio=3.0, importance_ratio=0.75).requires_grad

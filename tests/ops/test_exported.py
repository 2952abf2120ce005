"""Definitions that operators take under torch.export, against the eager ones and torch's own functions."""
import pytest
import torch

from freqdino.ops.carafe import carafe, carafe_by_taps
from freqdino.ops.ms_deform_attn import ms_deform_attn_reference
from freqdino.ops.ms_deform_attn_exported import attention_by_levels
from freqdino.ops.real_fourier import inverse_real_transform, real_transform


def results(function, *inputs):
    """Value and gradients."""
    inputs = [tensor.clone().requires_grad_() for tensor in inputs]
    output = function(*inputs)
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
    return [output, *torch.autograd.grad((output * weights).sum(), inputs)]


def assert_alike(some, others):
    for one, other in zip(some, others, strict=True):
        torch.testing.assert_close(one, other)


def attention_inputs(dtype=torch.float64):
    """Of two levels; many places lie outside, none on the line between two pixels."""
    sizes = [(3, 5), (1, 2)]
    value = torch.randn(2, 17, 4, 3, dtype=dtype)
    locations = torch.rand(2, 6, 4, 2, 3, 2, dtype=dtype) * 1.6 - 0.3
    return sizes, value, locations, torch.rand(2, 6, 4, 2, 3, dtype=dtype)


def test_attention_by_levels():
    sizes, *inputs = attention_inputs()
    assert_alike(results(lambda value, *rest: attention_by_levels(value, sizes, *rest), *inputs),
                 results(lambda value, *rest: ms_deform_attn_reference(value, sizes, *rest), *inputs))


def test_attention_to_places_that_are_no_numbers():
    sizes, value, locations, weights = attention_inputs()
    locations[0, 0] = torch.inf
    locations[0, 1, 2, 1, 0, 0] = torch.nan
    output = attention_by_levels(value, sizes, locations, weights).unflatten(-1, (4, 3))
    assert (output[0, 0] == 0).all() and output[0, 1, 2].isnan().all()
    assert output.isnan().sum() == 3


@pytest.mark.parametrize(("kernel_size", "group", "up"), [(5, 1, 2), (3, 2, 1), (1, 3, 3)])
def test_carafe_by_taps(kernel_size, group, up):
    x = torch.randn(2, 6, 4, 5, dtype=torch.float64)
    mask = torch.randn(2, group * kernel_size**2, 4 * up, 5 * up, dtype=torch.float64)
    assert_alike(results(lambda *maps: carafe_by_taps(*maps, kernel_size, group, up), x, mask),
                 results(lambda *maps: carafe(*maps, kernel_size, group, up), x, mask))


@pytest.mark.parametrize(("rows", "columns"), [(6, 7), (5, 8), (1, 2), (2, 1)])
def test_real_transforms(rows, columns):
    x = torch.randn(2, 3, rows, columns, dtype=torch.float64)
    real, imaginary = real_transform(x)
    torch.testing.assert_close(torch.complex(real, imaginary), torch.fft.rfft2(x))
    torch.testing.assert_close(inverse_real_transform(real, imaginary, columns), x)
    real, imaginary = torch.randn(2, 3, rows, columns // 2 + 1, 2, dtype=torch.float64).unbind(-1)
    torch.testing.assert_close(inverse_real_transform(real, imaginary, columns),
                               torch.fft.irfft2(torch.complex(real, imaginary), s=(rows, columns)))

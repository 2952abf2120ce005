"""Transforms by products against torch's own."""
import pytest
import torch

from freqdino.ops.real_fourier import balanced_factors, inverse_real_transform, inverse_transform, real_transform


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 6), (12, 47), (96, 100), (144, 97), (97, 64), (49, 49)])
def test_transforms_are_torchs(size):
    x = torch.randn(2, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    spectrum = torch.fft.rfft2(x)
    real, imaginary = real_transform(x)
    assert torch.allclose(torch.complex(real, imaginary), spectrum, atol=1e-11)
    # Of coefficients that no real map has, the parts that irfft2 passes over count for nothing here too.
    changed = spectrum + torch.randn_like(spectrum.real)
    for coefficients in (spectrum, changed):
        expected = torch.fft.irfft(torch.fft.ifft(coefficients, dim=-2), n=size[1])
        found = inverse_real_transform(coefficients.real, coefficients.imag, size[1])
        assert found.shape == x.shape and torch.allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("length", [5, 53, 60, 1536])
def test_the_inverse_of_complex_columns(length):
    x = torch.randn(length, 3, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    found = torch.complex(*inverse_transform(torch.stack((x.real, x.imag), -3)).unbind(-3))
    assert torch.allclose(found, torch.fft.ifft(x, dim=0, norm="forward"), atol=1e-10)


def test_factors():
    assert [balanced_factors(n) for n in (12, 48, 53, 144, 1536)] == [(1, 12), (6, 8), (1, 53), (12, 12), (32, 48)]

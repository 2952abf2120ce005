"""Scaling a map's spectrum by a real filter, with a gradient rule of its own.

Source: the operator of FreqScale in FDAM (ICCV 2025, arXiv 2507.12006).
With a real filter the operator is self-adjoint, so its gradient in x is the operator again; autograd's own rule for
rfft2 would transform the zero-padded full spectrum instead.

B: batch, C: channels, H × W: map.
"""
import torch
from torch import Tensor

from freqdino.ops.blocking import pieces, place_bytes
from freqdino.ops.modules import is_exported, is_recorded
from freqdino.ops.real_fourier import inverse_real_transform, real_transform
from freqdino.ops.registered import RegisteredFunction

# What a channel takes, in its filter's size: the spectrum is of two, and each transform makes more of that.
PASSES = 8


def scale_spectrum(x: Tensor, filters: Tensor) -> Tensor:
    """irfft2(rfft2(x) · filters), orthonormal, computed in the filters' dtype; first-order gradients.

    x: (B, C, H, W), of any strides. filters: (B, C, H, W // 2 + 1), float32 or float64.
    Returns (B, C, H, W) in x's dtype and memory layout.
    Raises ValueError where the filters' shape does not fit x.

    >>> x = torch.randn(1, 2, 5, 4)
    >>> torch.allclose(scale_spectrum(x, torch.full((1, 2, 5, 3), 2.0)), 2 * x, atol=1e-5)
    True
    """
    expected = (*x.shape[:-1], x.shape[-1] // 2 + 1)
    if filters.shape != expected:
        raise ValueError(f"filters must have shape {tuple(expected)} for x of {tuple(x.shape)}, got "
                         f"{tuple(filters.shape)}")
    if is_exported():
        return scale_spectrum_by_products(x, filters)
    return scale_spectrum_reference(x, filters) if is_recorded() else ScaleSpectrum.apply(x, filters)


def scale_spectrum_reference(x: Tensor, filters: Tensor) -> Tensor:
    """The definition of ``scale_spectrum``."""
    spectrum = torch.fft.rfft2(x.to(filters.dtype), norm="ortho")
    return torch.fft.irfft2(spectrum * filters, s=x.shape[-2:], norm="ortho").to(x.dtype)


def scale_spectrum_by_products(x: Tensor, filters: Tensor) -> Tensor:
    """``scale_spectrum`` by products of real matrices, for graphs without complex numbers."""
    real, imaginary = real_transform(x.to(filters.dtype))
    return inverse_real_transform(real * filters, imaginary * filters, x.shape[-1]).to(x.dtype)


class ScaleSpectrum(RegisteredFunction, schema="scale_spectrum(Tensor x, Tensor filters) -> Tensor"):

    @staticmethod
    def forward(x: Tensor, filters: Tensor) -> Tensor:
        result = torch.empty_like(x)
        for x_piece, filters_piece, result_piece in pieces((x, filters, result), 1, PASSES * place_bytes(filters, 1)):
            spectrum = transform(x_piece, filters.dtype)
            result_piece.copy_(inverse_transform(spectrum.mul_(filters_piece), x))
        return result

    @staticmethod
    def empty(x, filters):
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx, grad_result: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, filters = ctx.saved_tensors
        grad_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        grad_filters = torch.empty_like(filters) if ctx.needs_input_grad[1] else None
        # Columns between the first and W / 2 stand for their mirror images too.
        mirrored = torch.full((filters.shape[-1],), 2.0, dtype=filters.dtype, device=x.device)
        mirrored[:1].fill_(1)
        if x.shape[-1] % 2 == 0:
            mirrored[-1:].fill_(1)
        for x_piece, filters_piece, grad_piece, grad_x_piece, grad_filters_piece in pieces(
                (x, filters, grad_result, grad_x, grad_filters), 1, PASSES * place_bytes(filters, 1)):
            grad_spectrum = transform(grad_piece, filters.dtype)
            if grad_filters is not None:
                product = transform(x_piece, filters.dtype).mul_(grad_spectrum.conj())
                torch.mul(product.real, mirrored, out=grad_filters_piece)
            if grad_x is not None:
                grad_x_piece.copy_(inverse_transform(grad_spectrum.mul_(filters_piece), x))
        return grad_x, grad_filters


def transform(piece: Tensor, dtype: torch.dtype) -> Tensor:
    # In one piece: the MKL of torch 2.6 refuses what is expanded, such as the gradient of a sum.
    return torch.fft.rfft2(piece.to(dtype).contiguous(), norm="ortho")


def inverse_transform(spectrum: Tensor, x: Tensor) -> Tensor:
    return torch.fft.irfft2(spectrum, s=x.shape[-2:], norm="ortho")

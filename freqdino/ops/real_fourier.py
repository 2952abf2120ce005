"""Real Fourier transforms as products with matrices of cosines and sines, for graphs without complex numbers.

ONNX has no inverse real transform of two dimensions, and torch.export no real transform of open sizes. A product takes
n multiplications an element where a transform takes log n, and about 2·√n in two steps; every length may be a symbol.

n: length of an axis, m = n // 2 + 1: coefficients of its real transform.
"""
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from freqdino.ops.modules import ready_to_flatten

SHORT = 48      # below, one product is as fast as two


def waves(like: Tensor, rows: int, columns: int, length: int) -> tuple[Tensor, Tensor]:
    """cos and sin of 2π·i·j / length, (rows, columns) each, of ``like``'s type on its device.

    >>> waves(torch.zeros(1), 4, 2, 4)[0].round().abs().tolist()
    [[1.0, 1.0], [1.0, 0.0], [1.0, 1.0], [1.0, 0.0]]
    """
    i, j = (torch.arange(count, device=like.device) for count in (rows, columns))
    # In integers, as the angles of a long axis have few digits left; ONNX has no remainder of a symbol.
    turns = i[:, None] * j % torch.full((), length, device=like.device)
    angles = turns.to(like.dtype) * (2 * math.pi / length)
    return angles.cos(), angles.sin()


def mirror_weights(like: Tensor, length: int) -> Tensor:
    """How many of the n coefficients each of the m stands for: (m,), 1 for the first and for the last of an even n."""
    place = torch.arange(length // 2 + 1, device=like.device)
    return 2 - ((place == 0) | (2 * place == length)).to(like.dtype)


def inverse_real_transform(real: Tensor, imaginary: Tensor, columns: int) -> Tensor:
    """``torch.fft.irfft2`` of (…, R, m) coefficients for maps of m = columns // 2 + 1: (…, R, columns)."""
    rows, half = real.shape[-2:]
    # The parts as one tensor, so that what matmul goes over is never as few as one: it computes that otherwise.
    parts = inverse_transform(torch.stack((real, imaginary), -3))
    parts = (parts * (mirror_weights(real, columns) / (rows * columns))).mT
    if balanced_factors(columns)[0] > 1:
        return inverse_transform(F.pad(parts, (0, 0, 0, columns - half))).select(-3, 0).mT
    cosines, sines = waves(real, columns, half, columns)
    return ((cosines @ parts).select(-3, 0) - (sines @ parts).select(-3, 1)).mT


def inverse_transform(parts: Tensor) -> Tensor:
    """``torch.fft.ifft`` along R, times R, of real and imaginary parts (…, 2, R, C); of a long R in two steps.

    R = p·q: of the coefficient k = b·p + a the element n = c·q + d has the share exp(2πi (b·d/q + a·d/R + a·c/p)).
    Source: Cooley and Tukey, An algorithm for the machine calculation of complex Fourier series, 1965.
    """
    rows = parts.shape[-2]
    p, q = balanced_factors(rows)
    if p == 1:
        return _turned(parts, waves(parts, rows, rows, rows), pair=-3)
    parts = ready_to_flatten(parts).unflatten(-2, (q, p)).transpose(-3, -2)                 # (…, 2, a, b, C)
    parts = _turned(parts, waves(parts, q, q, q), pair=-4)                                  # (…, 2, a, d, C)
    cosines, sines = (wave[..., None] for wave in waves(parts, p, q, rows))
    real, imaginary = parts.unbind(-4)
    parts = torch.stack((real * cosines - imaginary * sines, real * sines + imaginary * cosines), -4)
    parts = _turned(parts.transpose(-3, -2), waves(parts, p, p, p), pair=-4)                # (…, 2, d, c, C)
    return ready_to_flatten(parts.transpose(-3, -2)).flatten(-3, -2)


def _turned(parts, matrix, *, pair):
    """The product of a complex matrix (cosines, sines) with parts (…, R, C), real and imaginary along ``pair``."""
    (real, other_imaginary), (imaginary, other_real) = ((wave @ parts).unbind(pair) for wave in matrix)
    return torch.stack((real - other_real, imaginary + other_imaginary), pair)


def balanced_factors(length: int) -> tuple[int, int]:
    """Two factors of a length, the smaller first, as near to each other as can be; 1 and the length of a short one, a
    prime one and a symbol."""
    if not isinstance(length, int) or length < SHORT:
        return 1, length
    smaller = next(factor for factor in range(math.isqrt(length), 0, -1) if length % factor == 0)
    return smaller, length // smaller


def real_transform(x: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of ``torch.fft.rfft2`` of maps (…, R, n): (…, R, m) each."""
    rows, columns = x.shape[-2:]
    cosines, sines = waves(x, columns, columns // 2 + 1, columns)
    along, across = x @ cosines, x @ sines
    cosines, sines = waves(x, rows, rows, rows)
    return cosines @ along - sines @ across, -(sines @ along + cosines @ across)

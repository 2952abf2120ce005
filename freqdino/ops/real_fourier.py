"""Real Fourier transforms as products with matrices of cosines and sines, for graphs without complex numbers.

ONNX has no inverse real transform of two dimensions, and torch.export no real transform of open sizes. A product takes
n multiplications an element where a transform takes log n; every length may be a symbol.

n: length of an axis, m = n // 2 + 1: coefficients of its real transform.
"""
import math

import torch
from torch import Tensor


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
    cosines, sines = waves(real, rows, rows, rows)
    parts = torch.stack((real, imaginary), -3)      # as one, of which there are never as few as one
    (by_cosines, minus), (plus, by_sines) = ((wave @ parts).unbind(-3) for wave in (cosines, sines))
    along, across = by_cosines - by_sines, plus + minus
    weights = (mirror_weights(real, columns) / (rows * columns))[:, None]
    cosines, sines = waves(real, half, columns, columns)
    return along @ (weights * cosines) - across @ (weights * sines)


def real_transform(x: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of ``torch.fft.rfft2`` of maps (…, R, n): (…, R, m) each."""
    rows, columns = x.shape[-2:]
    cosines, sines = waves(x, columns, columns // 2 + 1, columns)
    along, across = x @ cosines, x @ sines
    cosines, sines = waves(x, rows, rows, rows)
    return cosines @ along - sines @ across, -(sines @ along + cosines @ across)

"""Frequency responses of attention: of a whole map, of the kernel at one token, and of a stack of layers.

Source: FDAM (ICCV 2025, arXiv 2507.12006), supplement, sections A to C; equation numbers are that supplement's.

C: channels, H × W: map, N = H · W: tokens in row-major order, heads: attention heads, d: their width.
Spectra and responses have frequency zero at (0, 0), as torch.fft has it; ``centred`` moves it to the middle.
"""
import math
from collections.abc import Sequence

import torch
from torch import Tensor

# Where the input has less than this part of its strongest frequency, a ratio would be one of rounding errors.
ROUNDING = 1e-6
BINS = 16
LARGEST_RADIUS = math.sqrt(0.5)     # of the frequency (½, ½), in cycles per pixel


def centred(plane: Tensor) -> Tensor:
    """(..., H, W) with frequency zero at (H // 2, W // 2)."""
    return torch.fft.fftshift(plane, dim=(-2, -1))


def amplitude_spectrum(feature_map: Tensor) -> Tensor:
    """(C, H, W) to (H, W): |F| of each channel, averaged over them."""
    return torch.fft.fft2(feature_map).abs().mean(0)


def global_response(value: Tensor, output: Tensor) -> Tensor:
    """R = |F(Y)| / |F(V)|, equation 2, of the spectra averaged over the channels.

    value, output: V and Y, (C, H, W). Returns (H, W), NaN where V has nothing to respond to. ValueError where the
    shapes differ.

    >>> value = torch.randn(8, 4, 6)
    >>> torch.allclose(global_response(value, 3 * value), torch.full((4, 6), 3.0))
    True
    """
    if value.shape != output.shape:
        raise ValueError(f"value has shape {tuple(value.shape)}, output {tuple(output.shape)}: they must be equal")
    before = amplitude_spectrum(value)
    return torch.where(before > ROUNDING * before.max(), amplitude_spectrum(output) / before, math.nan)


def profile_frequencies(bins: int = BINS) -> Tensor:
    """(bins + 1,) radii in cycles per pixel that ``radial_profile`` belongs to: 0, then the centres of the rings."""
    return torch.cat((torch.zeros(1), (torch.arange(bins) + 0.5) * (LARGEST_RADIUS / bins)))


def radial_profile(response: Tensor, bins: int = BINS) -> Tensor:
    """(H, W) to (bins + 1,): frequency zero, then the means of rings of equal width up to the corner (½, ½).

    NaNs are left out; a ring without a number is NaN.
    """
    rows, columns = (torch.fft.fftfreq(size) for size in response.shape)
    radius = torch.hypot(rows[:, None], columns[None])
    # Only zero itself has ring 0. The subtraction keeps a radius that is a ring's outer edge, up to rounding, in it.
    ring = (radius * (bins / LARGEST_RADIUS) - 1e-4).ceil().long().clamp(0, bins).flatten()
    values = response.flatten().double()
    known = ~values.isnan()
    total, count = torch.zeros(2, bins + 1, dtype=torch.float64)
    total.index_add_(0, ring[known], values[known])
    count.index_add_(0, ring[known], torch.ones_like(values[known]))
    return (total / count).to(response.dtype)


def attention_kernel(queries: Tensor, keys: Tensor, token: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """The row of softmax(Q Kᵀ / √d) at a token as the dynamic kernel that it is, equation 6.

    queries, keys: (heads, N, d). token: (y, x). grid: (H, W). Returns (heads, H, W). ValueError for a token outside.
    """
    check_token(token, grid)
    query = queries[:, token[0] * grid[1] + token[1], None]
    return (query @ keys.mT / math.sqrt(queries.shape[-1])).softmax(-1).unflatten(-1, grid).squeeze(1)


def check_token(token: tuple[int, int], grid: tuple[int, int]) -> None:
    """ValueError for a (y, x) outside of a map of (H, W)."""
    if not all(0 <= index < size for index, size in zip(token, grid)):
        raise ValueError(f"token (y, x) = {tuple(token)} lies outside of the map of {grid[0]} × {grid[1]} tokens")


def local_response(kernel: Tensor) -> Tensor:
    """|F(W_pq)|, equation 10: (..., H, W) to the same shape.

    >>> local_response(torch.tensor([[0.5, 0.25, 0.0, 0.25]]))
    tensor([[1.0000, 0.5000, 0.0000, 0.5000]])
    """
    return torch.fft.fft2(kernel).abs()


def low_pass_figures(response: Tensor) -> tuple[float, float]:
    """What equation 24 bounds, of one response or the extremes of several (..., H, W): the value at frequency zero that
    is farthest from 1, and the largest at any other frequency (0 on a map of one token, which has no other)."""
    flat = response.flatten(0, -3).flatten(1) if response.dim() > 2 else response.flatten()[None]
    zero, others = flat[:, 0], flat[:, 1:]
    return float(zero[(zero - 1).abs().argmax()]), float(others.max()) if others.numel() else 0.0


def is_low_pass(zero: float, largest_other: float) -> bool:
    """Equation 24: 1 at frequency zero (up to rounding), and below 1 at all others."""
    return abs(zero - 1) < 1e-4 and largest_other < 1


def inverted_kernel(kernel: Tensor, token: tuple[int, int], low: float, high: float) -> Tensor:
    """S̄ · A + Ŝ · (identity - A), equations 28 and 29, for the kernel A (H, W) at a token."""
    identity = torch.zeros_like(kernel)
    identity[token] = 1
    return low * kernel + high * (identity - kernel)


def stacked_response(responses: Sequence[Tensor]) -> Tensor:
    """The product over layers of responses (H, W), equations 26 (plain) and 30 (of inverted kernels).

    float64: the product over a deep stack is smaller than float32 has numbers.
    """
    return torch.stack(list(responses)).double().prod(0)

"""Low-pass copies of a map, as Frequency Band Modulation takes them: what lies in a box of its real FFT's coefficients.

Source: Frequency Dynamic Convolution for Dense Image Prediction (FDConv, CVPR 2025, arXiv 2503.18783), section
"Frequency Band Modulation".

Shape key: N: maps, H, W: map size, n: number of cut-offs.
"""
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from freqdino.ops.autocast import without_autocast
from freqdino.ops.real_fourier import mirror_weights, waves

GRID = 64  # the published masks are drawn on a 64 × 64 map and resized
# H + W of the largest map whose low-pass copies real matrix products give a GPU: 6 (H + W) multiplications a pixel, but
# no plan to make for each new size, as cuFFT does. A CPU has less to compute by FFTs.
LARGEST_PRODUCT = 256


class Box(NamedTuple):
    """What a low-pass keeps of rfft2's coefficients: the ``top`` first and ``bottom`` last rows, ``left`` columns."""
    top: int
    bottom: int
    left: int


@lru_cache(maxsize=1024)
def low_pass_box(height: int, width: int, k: int) -> Box:
    """The box of frequencies up to 0.5/k on a height × width map.

    As in the published code the mask max(|fy|, |fx|) < 0.5/k + 1e-8 is drawn on a 64 × 64 map and resized to
    (height, width//2 + 1) by nearest neighbour, so that the rows kept may be a few more on the positive side.
    """
    def keep(count: int, size: int, rfft: bool) -> list[bool]:
        """The mask of ``count`` frequencies at ``size`` positions, in the published code's float32."""
        step, cut_off = float32(count / size), float32(0.5 / k + 1e-8)
        positions = (min(int(float32(position * step)), count - 1) for position in range(size))
        return [(place if rfft or 2 * place < GRID else GRID - place) / GRID < cut_off for place in positions]

    rows, columns = keep(GRID, height, False), keep(GRID // 2 + 1, width // 2 + 1, True)
    top = rows.index(False) if False in rows else height
    return Box(top, sum(rows) - top, sum(columns))


def float32(number: float) -> float:
    """Rounded to float32 (Veltkamp's splitting: the upper 24 of 53 bits)."""
    shifted = number * (2.0**29 + 1)
    return shifted - (shifted - number)


def low_pass(spectrum: Tensor, width: int, box: Box) -> Tensor:
    """The map (…, H, width) that has those coefficients of a spectrum (…, H, ≥ left) which lie in the box."""
    height = spectrum.shape[-2]
    spectrum = spectrum[..., :box.left]
    if box.top < height:
        stop_band = spectrum.new_zeros(*spectrum.shape[:-2], height - box.top - box.bottom, box.left)
        spectrum = torch.cat((spectrum[..., :box.top, :], stop_band, spectrum[..., height - box.bottom:, :]), dim=-2)
    return torch.fft.irfft(torch.fft.ifft(spectrum, dim=-2), n=width)


def low_passes(x: Tensor, boxes: Sequence[Box]) -> Iterator[Tensor]:
    """For each box what x (…, H, W) has in it, by FFTs."""
    columns = max(box.left for box in boxes)
    spectrum = torch.fft.fft(torch.fft.rfft(x)[..., :columns], dim=-2)
    return (low_pass(spectrum, x.shape[-1], box) for box in boxes)


def low_passes_at_once(lows: Tensor, x: Tensor, boxes: Sequence[Box]) -> None:
    """``low_passes`` of x (N, H, W), written to ``lows`` (n, N, H, W), in few operators, as suits a GPU."""
    size, place = x.shape[1:], (x.dtype, x.device)
    if sum(size) > LARGEST_PRODUCT:
        lows.copy_(torch.fft.irfft2(torch.fft.rfft2(x) * masks(*size, tuple(boxes), *place), s=size))
        return
    rows, columns = separable(*size, boxes, *place)
    with without_autocast(x):
        halves = x.flatten(0, 1).expand(len(boxes), -1, -1) @ columns
        for low, row, half in zip(lows, rows, halves):
            torch.bmm(row.expand(len(x), -1, -1), half.view(len(x), -1, size[1]), out=low)


def add_low_passes(total: Tensor, parts: Tensor, boxes: Sequence[Box]) -> None:
    """Add to ``total`` (N, H, W) what each of ``parts`` (n, N, H, W) has in its box; the adjoint of the above."""
    size, place = total.shape[1:], (total.dtype, total.device)
    if sum(size) > LARGEST_PRODUCT:
        spectrum = (torch.fft.rfft2(parts) * masks(*size, tuple(boxes), *place)).sum(0)
        total.add_(torch.fft.irfft2(spectrum, s=size))
        return
    rows, columns = separable(*size, boxes, *place)
    with without_autocast(total):
        halves = parts.flatten(1, 2) @ columns
        for row, half in zip(rows, halves):
            total.baddbmm_(row.expand(len(total), -1, -1), half.view(len(total), -1, size[1]))


@lru_cache(maxsize=32)
@torch.inference_mode(False)        # whose tensors could not serve a later training
def masks(height: int, width: int, boxes: tuple[Box, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """`box_masks` as numbers on a device: (n, 1, H, W//2 + 1)."""
    return box_masks(height, width, boxes).unsqueeze(1).to(dtype).to(device)


def box_masks(height: int, width: int, boxes: Sequence[Box]) -> Tensor:
    """True where the real FFT's coefficients lie in the box: (n, H, W//2 + 1)."""
    kept = torch.zeros(len(boxes), height, width // 2 + 1, dtype=torch.bool)
    for mask, box in zip(kept, boxes):
        mask[:box.top, :box.left] = mask[height - box.bottom:, :box.left] = True
    return kept


@torch.library.custom_op("freqdino::pass_bands", mutates_args=(),
                         schema="(Tensor x, SymInt height, SymInt width, int[] k_list) -> Tensor")
def pass_bands(x: Tensor, height: int, width: int, k_list: Sequence[int]) -> Tensor:
    """`box_masks` of the cut-offs on x's device, for torch.compile.

    An operator that it does not look into: sizes that it keeps open are no numbers, and it simplifies ``float32`` away.
    """
    return box_masks(height, width, [low_pass_box(height, width, k) for k in k_list]).to(x.device)


@pass_bands.register_fake
def _(x, height, width, k_list):
    return x.new_empty(len(k_list), height, width // 2 + 1, dtype=torch.bool)


def low_passes_by_products(x: Tensor, k_list: Sequence[int]) -> Iterator[Tensor]:
    """`low_passes` of x (…, H, W) at the cut-offs 0.5/k, by real products: low(x) = A x C − B x D.

    For graphs without complex numbers, whose sizes may be symbols: everything follows from them inside the graph.
    """
    height, width = x.shape[-2:]
    half = width // 2 + 1
    rows = torch.stack([kept_frequencies(x, GRID, height, k) for k in k_list])
    columns = torch.stack([kept_frequencies(x, GRID // 2 + 1, half, k) for k in k_list]) * mirror_weights(x, width)
    by_row = [circulant(rows @ wave / height) for wave in waves(x, height, height, height)]
    by_column = [circulant(columns @ wave / width).mT for wave in waves(x, half, width, width)]
    for a, b, c, d in zip(*by_row, *by_column):
        yield a @ (x @ c) - b @ (x @ d)


def kept_frequencies(like: Tensor, count: int, size: int, k: int) -> Tensor:
    """1 where `low_pass_box` keeps a row or column, else 0: (size,) of ``like``'s type. ``count``: of the mask that is
    resized. In float32 as that is, for a size that may be a symbol."""
    place = (torch.arange(size, dtype=torch.float32, device=like.device) * (count / size)).floor().clamp(max=count - 1)
    return (torch.minimum(place, GRID - place) / GRID < 0.5 / k + 1e-8).to(like.dtype)


def separable(height: int, width: int, boxes: Sequence[Box], dtype: torch.dtype, device: torch.device
              ) -> tuple[Tensor, Tensor]:
    """The low-pass of each box as real matrices: low(x) = A x C − B x D.

    A and B, C and D are circulant: they hold the real and imaginary parts of what the mask of rows, and that of columns
    with its mirror images, is the transform of. Returns [A B] (n, H, 2H), column (h, A or B), and [C −D] (n, W, 2W):
    x [C −D] is, as it lies in memory, what [A B] multiplies.
    """
    return (row_matrices(height, tuple((box.top, box.bottom) for box in boxes), dtype, device),
            column_matrices(width, tuple(box.left for box in boxes), dtype, device))


@lru_cache(maxsize=128)
@torch.inference_mode(False)
def row_matrices(height: int, kept: tuple[tuple[int, int], ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    mask = torch.zeros(len(kept), height, dtype=torch.float64)
    for row, (top, bottom) in zip(mask, kept):
        row[:top] = row[height - bottom:] = 1
    return torch.view_as_real(circulant(torch.fft.ifft(mask))).flatten(2).to(dtype).to(device)


@lru_cache(maxsize=128)
@torch.inference_mode(False)
def column_matrices(width: int, kept: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    mask = torch.zeros(len(kept), width, dtype=torch.float64)
    for row, left in zip(mask, kept):
        row[:left] = 2
        row[0] = 1
        if 2 * (left - 1) == width:
            row[left - 1] = 1
    spread = circulant(torch.fft.ifft(mask)).mT
    return torch.cat((spread.real, -spread.imag), 2).to(dtype).to(device)


def circulant(values: Tensor) -> Tensor:
    """(…, n) -> (…, n, n), whose element (i, j) is values[i − j]."""
    places = torch.arange(values.shape[-1], device=values.device)
    index = places[:, None] - places
    return values[..., torch.where(index < 0, index + values.shape[-1], index)]

"""Content-aware reassembly of features: each output pixel is a weighted sum of the k × k input pixels round its source.

Source: Wang et al., "CARAFE: Content-Aware ReAssembly of FEatures", ICCV 2019, section 3.2; taps outside the map count
as zero and the rest is not renormalised, as in the authors' CUDA operator.

The fast path lays a strip of the map out as a table, channels last, bordered by zeros, whose rows each output pixel
gathers (``weighted_gather``): strip by strip, so that there is never a second copy of a whole map.

N: batch, C: channels, G: channel groups, k: kernel size, r: k//2, H, W: input map, u: upsampling factor;
n, h: images and input rows of a strip.
"""
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from freqdino.ops.backends import FusedKernel
from freqdino.ops.blocking import blocks
from freqdino.ops.modules import is_exported, is_recorded
from freqdino.ops.registered import RegisteredFunction
from freqdino.ops.weighted_gather import WeightedScatter, compute_dtype, gathered_dot, weighted_gather

# A strip's output and the rows that are gathered at a time for the mask's gradient are at most these parts of the whole
# output: beside a small map, buffers of the cache's size would be the larger part of the memory.
STRIP_PART, GATHERED_PART = 1 / 4, 3 / 4


def carafe(x: Tensor, mask: Tensor, kernel_size: int, group: int, up: int, *, operators: str = "auto") -> Tensor:
    """out[c, y, x'] = Σ_{i,j<k} x[c, ⌊y/u⌋+i−k//2, ⌊x'/u⌋+j−k//2] · mask[(g·k+i)·k+j, y, x'], with g = c div (C/G).

    float16 and bfloat16 are computed in float32. Differentiable once, in x and mask.

    Args:
        x: (N, C, H, W).
        mask: (N, G·k², H·u, W·u), already normalised.
        kernel_size: k, odd.
        group: G, divides C.
        up: u, at least 1.
        operators: ``auto``, ``torch`` or ``fused`` (:mod:`freqdino.ops.backends`).

    Returns (N, C, H·u, W·u) of x's dtype and memory format (channels-last or contiguous).

    Raises ValueError: arguments whose ranks, types, sizes or channels do not fit, numbers that are not integers;
    RuntimeError: ``fused`` where the kernels cannot run.
    """
    if is_recorded():
        definition = carafe_by_taps if is_exported() else carafe_reference
        return definition(x, mask, kernel_size, group, up)
    check_arguments(x, mask, kernel_size, group, up)
    if TRITON.serves(x, operators):
        return fused(x, mask, kernel_size, group, up)
    return CarafeByGathers.apply(x, mask, kernel_size, group, up)


def carafe_reference(x: Tensor, mask: Tensor, kernel_size: int, group: int, up: int) -> Tensor:
    """The definition of :func:`carafe`, by unfolding: it makes k² copies of the features."""
    check_arguments(x, mask, kernel_size, group, up)
    dtype = compute_dtype(x, mask)
    batch, channels, height, width = x.shape
    taps = F.unfold(x.to(dtype), kernel_size, padding=kernel_size // 2)
    taps = taps.view(batch, group, channels // group, kernel_size**2, height, 1, width, 1)
    weights = mask.to(dtype).reshape(batch, group, 1, kernel_size**2, height, up, width, up)
    return (taps * weights).sum(dim=3).reshape(batch, channels, height * up, width * up).to(x.dtype)


def carafe_by_taps(x: Tensor, mask: Tensor, kernel_size: int, group: int, up: int) -> Tensor:
    """:func:`carafe` in plain operators, for graphs that other runtimes run: tap by tap, so that never more than two
    copies of the output are made. Sizes may be symbols."""
    check_arguments(x, mask, kernel_size, group, up)
    dtype = compute_dtype(x, mask)
    pixels = F.interpolate(x.to(dtype), scale_factor=up, mode="nearest") if up > 1 else x.to(dtype)
    height, width = pixels.shape[2:]
    pixels = F.pad(pixels, (up * (kernel_size // 2),) * 4).unflatten(1, (group, -1))    # (N, G, C/G, H·u + …, W·u + …)
    taps = mask.to(dtype).unflatten(1, (group, kernel_size**2, 1)).unbind(2)            # (N, G, 1, H·u, W·u) each
    places = product(range(0, up * kernel_size, up), repeat=2)
    products = (tap * pixels[..., row:row + height, column:column + width] for tap, (row, column) in zip(taps, places))
    return reduce(torch.add, products).flatten(1, 2).to(x.dtype)


def fused(x: Tensor, mask: Tensor, kernel_size: int, group: int, up: int) -> Tensor:
    from freqdino.ops.carafe_triton import carafe_output  # here: not everybody has Triton

    return carafe_output(x, mask, kernel_size, group, up)


def trial(device: torch.device, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """Value and gradients of the fused kernels and of the definition."""
    generator = torch.Generator().manual_seed(0)
    x, mask, grad = (torch.randn(shape, generator=generator).to(device, dtype)
                     for shape in ((2, 36, 3, 5), (2, 18, 6, 10), (2, 36, 6, 10)))
    results = []
    for operator, inputs in ((fused, (x, mask)), (carafe_reference, (x.float(), mask.float()))):
        inputs = [tensor.detach().requires_grad_() for tensor in inputs]
        output = operator(*inputs, 3, 2, 2)
        results.append((output, *torch.autograd.grad(output, inputs, grad.to(output.dtype))))
    return list(zip(*results))


TRITON = FusedKernel("CARAFE in Triton", needs=("triton",), repeats=True, trial=trial)


def check_arguments(x: Tensor, mask: Tensor, kernel_size: int, group: int, up: int) -> None:
    for name, tensor in (("x", x), ("mask", mask)):
        if tensor.dim() != 4:
            raise ValueError(f"{name} must have 4 dimensions (N, C, H, W), got {tensor.dim()}: {tuple(tensor.shape)}")
        if not tensor.is_floating_point():
            raise ValueError(f"{name} must be of a floating-point type, got {tensor.dtype}")
    for name, value in (("kernel_size", kernel_size), ("group", group), ("up", up)):
        if not isinstance(value, int):
            raise ValueError(f"{name} must be an integer, got {value!r}")
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd and positive, got {kernel_size}")
    if up < 1:
        raise ValueError(f"up must be at least 1, got {up}")
    batch, channels, height, width = x.shape
    if group < 1 or channels % group:
        raise ValueError(f"group must divide the channels of x: group {group}, channels {channels}")
    expected = (batch, group * kernel_size**2, height * up, width * up)
    if tuple(mask.shape) != expected:
        raise ValueError(f"mask must have the shape (N, group·kernel_size², H·up, W·up) = {expected}, "
                         f"got {tuple(mask.shape)}")


def output_like(x: Tensor, up: int) -> Tensor:
    """An empty map of the output's size, in x's type and memory format."""
    channels_last = x.is_contiguous(memory_format=torch.channels_last)
    return torch.empty(*x.shape[:2], x.shape[2] * up, x.shape[3] * up, dtype=x.dtype, device=x.device,
                       memory_format=torch.channels_last if channels_last else torch.contiguous_format)


class CarafeByGathers(RegisteredFunction, schema="""carafe_by_gathers(
        Tensor x, Tensor mask, int kernel_size, int group, int up) -> Tensor"""):
    """The fast path and its gradient; it keeps nothing but the inputs."""

    @staticmethod
    def forward(x, mask, kernel_size, group, up):
        dtype = compute_dtype(x, mask)
        output = output_like(x, up)
        for strip in strips(x, dtype, kernel_size, group, up):
            sums = weighted_gather(strip.table(x, dtype), strip.index, strip.to_rows(mask, dtype))
            strip.of(output).copy_(strip.to_map(sums))
        return output

    @staticmethod
    def empty(x, mask, kernel_size, group, up):
        return output_like(x, up)

    @staticmethod
    def backward(ctx, grad_output):
        x, mask = ctx.saved_tensors
        dtype = compute_dtype(x, mask)
        grad_x = torch.zeros_like(x, dtype=dtype) if ctx.needs_input_grad[0] else None
        grad_mask = torch.empty_like(mask) if ctx.needs_input_grad[1] else None
        for strip in strips(x, dtype, *ctx.settings):
            grad_rows = strip.to_rows(grad_output, dtype)
            if grad_mask is not None:
                at_most = int(GATHERED_PART * grad_output.numel() * dtype.itemsize)
                strip.of(grad_mask).copy_(strip.to_map(
                    gathered_dot(strip.table(x, dtype), strip.index, grad_rows, at_most)))
            if grad_x is not None:
                weights = strip.to_rows(mask, dtype)
                strip.add_table(grad_x, WeightedScatter(strip.index, strip.table_rows)(grad_rows, weights))
        return None if grad_x is None else grad_x.to(x.dtype), grad_mask, None, None, None


@dataclass
class Strip:
    """Some input rows of some images, the output pixels that they make, and the table that these read.

    Table row ((image·(h+2r) + y)·(W+2r) + x)·G + g holds the channels of group g at one pixel; an output row of the
    gather is those of the group at one output pixel.
    """
    images: slice
    rows: slice
    width: int
    kernel_size: int
    group: int
    up: int
    index: Tensor  # (n·h·u·W·u·G, k²), the table rows that each output row reads

    @property
    def bordered(self) -> tuple[int, int, int]:
        """(n, h + 2r, W + 2r)."""
        border = self.kernel_size - 1
        return (self.images.stop - self.images.start, self.rows.stop - self.rows.start + border, self.width + border)

    @property
    def table_rows(self) -> int:
        images, height, width = self.bordered
        return images * height * width * self.group

    def inside(self, x: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        """Views of the same pixels in a map (N, C, H, W) and in a table (n, h+2r, W+2r, C), as (n, h', W, C)."""
        radius = self.kernel_size // 2
        top, bottom = max(self.rows.start - radius, 0), min(self.rows.stop + radius, x.shape[2])
        offset = radius - self.rows.start
        return (x[self.images, :, top:bottom].permute(0, 2, 3, 1),
                table[:, top + offset:bottom + offset, radius:radius + self.width])

    def table(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """The strip of the map and r rows and columns round it, zero where that is outside the map: (rows, C/G)."""
        table = x.new_zeros(*self.bordered, x.shape[1], dtype=dtype)
        map_pixels, table_pixels = self.inside(x, table)
        table_pixels.copy_(map_pixels)
        return table.view(self.table_rows, -1)

    def add_table(self, x: Tensor, table: Tensor) -> None:
        """Add what lies inside the map to it."""
        map_pixels, table_pixels = self.inside(x, table.view(*self.bordered, -1))
        map_pixels.add_(table_pixels)

    def of(self, output_map: Tensor) -> Tensor:
        """The strip's part of a map of the output's size: a view (n, channels, h·u, W·u)."""
        return output_map[self.images, :, self.rows.start * self.up:self.rows.stop * self.up]

    def to_rows(self, output_map: Tensor, dtype: torch.dtype) -> Tensor:
        """The strip's part of a map of the output's size, (n·h·u·W·u·G, channels/G)."""
        part = self.of(output_map)
        rows = part.permute(0, 2, 3, 1).to(dtype).reshape(len(self.index), part.shape[1] // self.group)
        return rows.contiguous()  # of one image, reshape makes a transposed view, which is many times slower to gather

    def to_map(self, rows: Tensor) -> Tensor:
        """The inverse of ``to_rows``: (n, channels, h·u, W·u)."""
        channels = self.group * rows.shape[1]
        return rows.view(self.bordered[0], -1, self.width * self.up, channels).permute(0, 3, 1, 2)


def strips(x: Tensor, dtype: torch.dtype, kernel_size: int, group: int, up: int) -> Iterator[Strip]:
    """Cut the maps into strips; small images go several at a time."""
    batch, channels, height, width = x.shape
    # Half of the bytes count, as a strip's output is only written.
    row_bytes, output_bytes = (elements * up**2 * dtype.itemsize // 2 for elements in (
        max(channels, group * kernel_size**2) * width, x.numel()))
    index = index_size = None
    for images, rows in blocks(batch, height, row_bytes, x.device, int(STRIP_PART * output_bytes)):
        size = images.stop - images.start, rows.stop - rows.start, width
        if size != index_size:
            index, index_size = table_index(*size, kernel_size, group, up, x.device), size
        yield Strip(images, rows, width, kernel_size, group, up, index)


def table_index(images: int, height: int, width: int, kernel_size: int, group: int, up: int,
                device: torch.device) -> Tensor:
    """The table rows that each output row of a strip reads: (n·h·u·W·u·G, k²)."""
    border = kernel_size - 1

    def count(stop: int) -> Tensor:
        return torch.arange(stop, dtype=torch.int32, device=device)

    image, row, column = count(images), count(height * up) // up, count(width * up) // up
    line = image[:, None] * (height + border) + row
    pixel = (line * (width + border))[..., None] + column
    tap = count(kernel_size)[:, None] * (width + border) + count(kernel_size)
    return ((pixel * group)[..., None] + count(group)).view(-1, 1) + (tap * group).view(1, -1)

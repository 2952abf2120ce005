"""Multi-scale deformable attention: every query sums a few bilinear samples of every level, each with its own weight.

Source: Zhu et al., "Deformable DETR: Deformable Transformers for End-to-End Object Detection", ICLR 2021, section 4.1,
equation 3. A sample at (x, y) in [0, 1] reads the map where ``grid_sample(2·loc − 1, bilinear, zeros padding,
align_corners=False)`` does.

The fast path copies the levels into one table with a border of zeros round each, so that a sample that is partly or
wholly outside needs no mask: its corners are rows of zeros. Each sample is then four rows of the table, each output a
weighted sum of 4·L·P rows (``weighted_gather``), made chunk by chunk so that the intermediates stay in the cache. Where
there are fewer samples than positions, as in a decoder, the copies would cost more than the samples do, which then read
the value itself and are masked.

B: batch, S: positions of all levels together, M: heads, D: channels of a head, Q: queries, L: levels, P: points;
N: B·Q, T: positions of all bordered levels together, J: L·P samples of a query and head.
"""
from collections.abc import Sequence
from itertools import accumulate
from numbers import Integral

import torch
from torch import Tensor
from torch.nn import functional as F

from freqdino.ops.autocast import without_autocast
from freqdino.ops.blocking import slices
from freqdino.ops.constants import constant
from freqdino.ops.modules import is_exported, is_recorded
from freqdino.ops.ms_deform_attn_exported import attention_by_levels
from freqdino.ops.ms_deform_attn_fused import DEFORMOPS, fused
from freqdino.ops.registered import RegisteredFunction
from freqdino.ops.weighted_gather import WeightedScatter, compute_dtype, gathered_dot, weighted_gather

# Two rows and columns on each side: a sample held at the outermost cell of the border has no neighbour inside the map,
# so that both its value and its slope are zero.
BORDER = 2
# Samples of a head are few where they are less than this part of the positions (measured on a CPU).
FEW = 1 / 2
CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))  # (dy, dx)

SpatialShapes = Sequence[tuple[int, int]] | Tensor


def ms_deform_attn(
    value: Tensor, spatial_shapes: SpatialShapes, sampling_locations: Tensor, attention_weights: Tensor, *,
    operators: str = "auto"
) -> Tensor:
    """Sum the bilinear samples of all levels with their attention weights.

    A location outside a map by more than half a pixel reads zero, infinity included; a location that is not a number
    makes its output not a number. float16 and bfloat16 are computed in float32. Differentiable once, in the three
    tensors.

    Args:
        value: (B, S, M, D), the levels' rows one after another, S = Σ H·W.
        spatial_shapes: L pairs (H, W), or an (L, 2) tensor.
        sampling_locations: (B, Q, M, L, P, 2), (x, y) in units of the map, the corners of which are (0, 0) and (1, 1).
        attention_weights: (B, Q, M, L, P).
        operators: ``auto``, ``torch`` or ``fused`` (:mod:`freqdino.ops.backends`).

    Returns (B, Q, M·D) of value's dtype.

    Raises ValueError: arguments whose ranks or sizes do not fit each other, tensors that are not of a floating-point
    type; RuntimeError: ``fused`` where the kernel cannot run.
    """
    if is_recorded() and not is_exported():
        return ms_deform_attn_reference(value, spatial_shapes, sampling_locations, attention_weights)
    sizes = check_arguments(value, spatial_shapes, sampling_locations, attention_weights)
    if is_exported():
        return attention_by_levels(value, sizes, sampling_locations, attention_weights)
    if DEFORMOPS.serves(value, operators):
        return fused(value, sampling_locations, attention_weights, sizes)
    _, queries, _, levels, points = attention_weights.shape
    if queries * levels * points < FEW * value.shape[1]:
        return attention_of_few(value, sampling_locations, attention_weights, sizes)
    return MSDeformAttn.apply(value, sampling_locations, attention_weights, *zip(*sizes))


def ms_deform_attn_reference(
    value: Tensor, spatial_shapes: SpatialShapes, sampling_locations: Tensor, attention_weights: Tensor, *,
    operators: str = "torch"
) -> Tensor:
    """The definition of :func:`ms_deform_attn`, by ``grid_sample``: it holds every sample of a level in memory.

    ``operators`` is taken so that it can stand in the other's place, and not read.
    """
    sizes = check_arguments(value, spatial_shapes, sampling_locations, attention_weights)
    dtype = compute_dtype(value, sampling_locations, attention_weights)
    # To grid_sample a head is what an image is: (B·M, D, S), and for each level (B·M, Q, P, 2) and (B·M, Q, P).
    pixels = value.to(dtype).permute(0, 2, 3, 1).flatten(0, 1)
    locations, weights = (tensor.to(dtype).transpose(1, 2).flatten(0, 1).unbind(2)
                          for tensor in (sampling_locations, attention_weights))
    levels = pixels.split([height * width for height, width in sizes], dim=-1)
    attended = pixels.new_zeros(*pixels.shape[:2], sampling_locations.shape[1])
    # Autocast would contract in half precision.
    with without_autocast(value):
        for level, size, location, weight in zip(levels, sizes, locations, weights):
            samples = F.grid_sample(level.unflatten(-1, size), 2 * location - 1, align_corners=False)
            attended = attended + torch.einsum("ndqp,nqp->ndq", samples, weight)
    return attended.unflatten(0, (-1, value.shape[2])).flatten(1, 2).mT.to(value.dtype)


def check_arguments(
    value: Tensor, spatial_shapes: SpatialShapes, sampling_locations: Tensor, attention_weights: Tensor
) -> tuple[tuple[int, int], ...]:
    """The levels' (H, W) as integers, Python's or torch.export's symbols, after holding all arguments together."""
    for name, tensor, rank, layout in (
        ("value", value, 4, "(B, ΣHW, heads, channels)"),
        ("sampling_locations", sampling_locations, 6, "(B, Q, heads, levels, points, 2)"),
        ("attention_weights", attention_weights, 5, "(B, Q, heads, levels, points)"),
    ):
        if tensor.dim() != rank:
            raise ValueError(f"{name} must have {rank} dimensions {layout}, got {tensor.dim()}: {tuple(tensor.shape)}")
        if not tensor.is_floating_point():
            raise ValueError(f"{name} must be of a floating-point type, got {tensor.dtype}")
    rows = spatial_shapes.tolist() if isinstance(spatial_shapes, Tensor) else list(spatial_shapes)
    if not all(isinstance(row, Sequence) and len(row) == 2 for row in rows):
        raise ValueError(f"spatial_shapes must be pairs (H, W), got {rows}")
    # To torch.jit.trace the lengths of a shape are tensors.
    if not all(isinstance(length.item() if isinstance(length, Tensor) else length, (Integral, torch.SymInt))
               for row in rows for length in row):
        raise ValueError(f"spatial_shapes must be integers, got {rows}")
    sizes = tuple(tuple(length if isinstance(length, torch.SymInt) else int(length) for length in row) for row in rows)
    if not sizes or any(min(size) < 1 for size in sizes):
        raise ValueError(f"spatial_shapes must hold at least one level, of positive sizes, got {list(sizes)}")
    batch, positions, heads, _ = value.shape
    expected = sum(height * width for height, width in sizes)
    if positions != expected:
        raise ValueError(f"value has {positions} positions, spatial_shapes {list(sizes)} have {expected} together")
    if sampling_locations.shape[-1] != 2:
        raise ValueError(f"sampling_locations must end in 2 numbers (x, y), got {sampling_locations.shape[-1]}")
    if sampling_locations.shape[3] != len(sizes):
        raise ValueError(f"sampling_locations has {sampling_locations.shape[3]} levels, spatial_shapes {len(sizes)}")
    if sampling_locations.shape[0] != batch or sampling_locations.shape[2] != heads:
        raise ValueError(f"sampling_locations has batch {sampling_locations.shape[0]} and "
                         f"{sampling_locations.shape[2]} heads, value batch {batch} and {heads} heads")
    if attention_weights.shape != sampling_locations.shape[:-1]:
        raise ValueError(f"attention_weights has the shape {tuple(attention_weights.shape)}, sampling_locations "
                         f"{tuple(sampling_locations.shape)} ask for {tuple(sampling_locations.shape[:-1])}")
    return sizes


def attention_of_few(value: Tensor, sampling_locations: Tensor, attention_weights: Tensor,
                     sizes: tuple[tuple[int, int], ...]) -> Tensor:
    """:func:`ms_deform_attn` at a cost by samples: no copy of the levels, in the backward pass one table of sums."""
    dtype = compute_dtype(value, sampling_locations, attention_weights)
    batch, positions, heads, channels = value.shape
    size = constant(tuple((width, height) for height, width in sizes), dtype, value.device)[:, None]    # (L, 1, 2)
    # Held at two pixels outside the map, where neither a sample nor its slope is more than zero, for infinity.
    place = torch.clamp(sampling_locations.to(dtype) * size - 0.5, torch.full_like(size, -2), size + 1)
    first = place.detach().floor()
    beyond = place - first
    offset = constant(tuple((dx, dy) for dy, dx in CORNERS), dtype, value.device)
    column, row = (first[..., None, :] + offset).unbind(-1)     # (B, Q, M, L, P, 4), of the corners
    across, down = torch.where(offset > 0, beyond[..., None, :], 1 - beyond[..., None, :]).unbind(-1)
    width, height = size[..., None].unbind(-2)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    pixel = row * width + column
    unknown = pixel.isnan()     # what is not a number shall spoil its sum, wherever it is
    weight = (attention_weights.to(dtype)[..., None] * across * down).where(inside | unknown, 0)
    areas = (height * width for height, width in sizes)
    starts = constant(tuple(accumulate(areas, initial=0))[:-1], torch.int64, value.device)
    image = torch.arange(batch, device=value.device).view(-1, 1, 1, 1, 1, 1) * positions
    head = torch.arange(heads, device=value.device).view(-1, 1, 1, 1)
    index = (pixel.where(inside, 0).long() + starts[:, None, None] + image) * heads + head
    sums = weighted_gather(value.reshape(-1, channels).to(dtype), index.flatten(3).flatten(0, 2),
                           weight.flatten(3).flatten(0, 2))
    return sums.view(batch, sampling_locations.shape[1], heads * channels).to(value.dtype)


class MSDeformAttn(RegisteredFunction, schema="""ms_deform_attn(
        Tensor value, Tensor sampling_locations, Tensor attention_weights, int[] heights, int[] widths) -> Tensor"""):
    """The fast path and its gradient; it keeps the inputs and makes table and corners anew in the backward pass."""

    @staticmethod
    def forward(value, sampling_locations, attention_weights, heights, widths):
        layout = TableLayout(value, sampling_locations, attention_weights, tuple(zip(heights, widths)))
        table = layout.make_table(value)
        output = value.new_empty(layout.tokens, layout.heads, layout.channels)
        locations = sampling_locations.reshape(layout.tokens, len(layout.scale))
        weights = attention_weights.reshape(layout.tokens, layout.heads, layout.samples)
        for chunk in slices(layout.tokens, layout.bytes_each, value.device):
            cell, x, y = layout.locate(locations[chunk], chunk)
            corner_weights = x.new_empty(*x.shape[:2], len(CORNERS), layout.samples)
            fill_corner_weights(corner_weights.unbind(2), x, y, weights[chunk].to(layout.dtype))
            index = layout.corner_rows(cell).flatten(0, 1).flatten(1)
            output[chunk] = weighted_gather(table, index, corner_weights.view_as(index)).view_as(output[chunk])
        return output.view(layout.batch, layout.queries, layout.heads * layout.channels)

    @staticmethod
    def empty(value, sampling_locations, attention_weights, heights, widths):
        return value.new_empty(*sampling_locations.shape[:2], value.shape[2] * value.shape[3])

    @staticmethod
    def backward(ctx, grad_output):
        value, sampling_locations, attention_weights = ctx.saved_tensors
        layout = TableLayout(value, sampling_locations, attention_weights, tuple(zip(*ctx.settings)))
        table = layout.make_table(value)
        shape = (layout.tokens, layout.heads, layout.samples)
        locations = sampling_locations.reshape(layout.tokens, len(layout.scale))
        weights = attention_weights.reshape(shape)
        grad_rows = grad_output.reshape(layout.tokens * layout.heads, layout.channels).to(layout.dtype)
        grad_rows = grad_rows.contiguous()  # gathering from the strides of .sum()'s gradient takes three times as long
        grad_locations = sampling_locations.new_empty(*shape, 2)
        grad_weights = attention_weights.new_empty(shape)
        cells = torch.empty(shape, dtype=torch.int32, device=value.device)
        corner_weights = table.new_empty(len(CORNERS), *shape)
        for chunk in slices(layout.tokens, layout.bytes_each, value.device):
            cell, x, y = layout.locate(locations[chunk], chunk)
            weight = weights[chunk].to(layout.dtype)
            cells[chunk] = cell
            fill_corner_weights(corner_weights[:, chunk].unbind(0), x, y, weight)
            index = layout.corner_rows(cell).flatten(0, 1).flatten(1)
            rows = slice(chunk.start * layout.heads, chunk.stop * layout.heads)
            upper_left, upper_right, lower_left, lower_right = (
                gathered_dot(table, index, grad_rows[rows]).view(*x.shape[:2], len(CORNERS), layout.samples).unbind(2))
            upper, lower = torch.lerp(upper_left, upper_right, x), torch.lerp(lower_left, lower_right, x)
            grad_weights[chunk] = torch.lerp(upper, lower, y)
            slope = torch.lerp(upper_right - upper_left, lower_right - lower_left, y)
            grad_locations[chunk][..., 0] = slope * weight * layout.width
            grad_locations[chunk][..., 1] = (lower - upper) * weight * layout.height
        del table
        grad_value = layout.grad_value(cells, corner_weights, grad_rows).to(value.dtype)
        return (grad_value, grad_locations.view_as(sampling_locations), grad_weights.view_as(attention_weights), None,
                None)


class TableLayout:
    """Where the levels lie in the bordered table, row (b·T + t)·M + m, as constants shaped for a chunk of tokens.

    int32 holds every row number: a table of 2**31 rows would not fit any memory.
    """

    def __init__(self, value: Tensor, sampling_locations: Tensor, attention_weights: Tensor,
                 sizes: tuple[tuple[int, int], ...]):
        self.sizes = sizes
        self.batch, self.queries, self.heads, levels, points = attention_weights.shape
        self.channels = value.shape[-1]
        self.tokens, self.samples = self.batch * self.queries, levels * points
        self.dtype = compute_dtype(value, sampling_locations, attention_weights)
        self.bytes_each = self.heads * self.samples * len(CORNERS) * self.dtype.itemsize    # a token's corner weights
        self.areas = [height * width for height, width in sizes]
        self.bordered_sizes = [(height + 2 * BORDER, width + 2 * BORDER) for height, width in sizes]
        self.bordered_areas = [height * width for height, width in self.bordered_sizes]
        self.positions = sum(self.bordered_areas)

        def of_each_sample(numbers: list[int], dtype: torch.dtype) -> Tensor:
            return constant(tuple(number for number in numbers for _ in range(points)), dtype, value.device)

        starts = [sum(self.bordered_areas[:level]) for level in range(levels)]
        self.height = of_each_sample([height for height, _ in sizes], self.dtype)
        self.width = of_each_sample([width for _, width in sizes], self.dtype)
        self.row_step = of_each_sample([width * self.heads for _, width in self.bordered_sizes], torch.int32)
        head = torch.arange(self.heads, dtype=torch.int32, device=value.device)
        self.origin = of_each_sample([start * self.heads for start in starts], torch.int32) + head[:, None]
        image = torch.arange(self.batch, dtype=torch.int32, device=value.device)
        self.image_origin = (image * (self.positions * self.heads)).repeat_interleave(self.queries)[:, None, None]
        self.scale = torch.stack((self.width, self.height), -1).repeat(self.heads, 1).flatten()
        self.pixel_offset = torch.full_like(self.scale[:1], BORDER - 0.5)
        self.nearest, self.farthest = torch.zeros_like(self.scale), self.scale + BORDER
        self.first_corner, self.last_corner = self.nearest.to(torch.int32), self.farthest.to(torch.int32)
        self.corner_steps = torch.stack([dy * self.row_step + dx * self.heads for dy, dx in CORNERS])

    def make_table(self, value: Tensor) -> Tensor:
        """value with its borders: (B·T·M, D)."""
        table = value.new_zeros(self.batch, self.positions, self.heads, self.channels, dtype=self.dtype)
        for level, pixels, size in zip(self.levels(table), value.split(self.areas, 1), self.sizes):
            level[:, BORDER:-BORDER, BORDER:-BORDER] = pixels.unflatten(1, size)
        return table.view(-1, self.channels)

    def levels(self, table: Tensor) -> list[Tensor]:
        """Views (B, H + borders, W + borders, M, D) of the table's levels."""
        table = table.view(self.batch, self.positions, self.heads, self.channels)
        return [level.unflatten(1, size)
                for level, size in zip(table.split(self.bordered_areas, dim=1), self.bordered_sizes)]

    def locate(self, locations: Tensor, chunk: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Upper left corner of each sample as a table row; how far right of and below it the sample lies: (n, M, J).

        locations: (n, M·J·2), those of the chunk of tokens.
        """
        locations = locations.to(self.dtype)
        shape = len(locations), self.heads, self.samples, 2
        pixel = torch.addcmul(self.pixel_offset, locations, self.scale).clamp_(self.nearest, self.farthest)
        # What is not a number converts to any integer; held inside the table, its fraction stays not a number.
        corner = pixel.to(torch.int32).clamp_(self.first_corner, self.last_corner)
        column, row = corner.view(shape).unbind(-1)
        cell = torch.addcmul(self.origin + self.image_origin[chunk], row, self.row_step).add_(column, alpha=self.heads)
        x, y = pixel.frac_().view(shape).unbind(-1)
        return cell, x, y

    def corner_rows(self, cell: Tensor) -> Tensor:
        """Table rows (n, M, 4, J) of all corners, from the upper left ones'."""
        return cell[:, :, None] + self.corner_steps

    def grad_value(self, cells: Tensor, corner_weights: Tensor, grad_rows: Tensor) -> Tensor:
        """(B, S, M, D) from cells (N, M, J) and their corners' weights (4, N, M, J).

        Sorting the cells serves all corners: the others' sums lie one row or column beside the upper left one's.
        """
        scatter = WeightedScatter(cells.flatten(0, 1), self.batch * self.positions * self.heads)
        grad_value = grad_rows.new_zeros(self.batch, sum(self.areas), self.heads, self.channels)
        for (dy, dx), weight in zip(CORNERS, corner_weights):
            top, left = BORDER - dy, BORDER - dx
            sums = self.levels(scatter(grad_rows, weight))
            for grad_level, level_sums, (height, width) in zip(grad_value.split(self.areas, 1), sums, self.sizes):
                grad_level.unflatten(1, (height, width)).add_(level_sums[:, top:top + height, left:left + width])
        return grad_value


def fill_corner_weights(out: Sequence[Tensor], x: Tensor, y: Tensor, weight: Tensor) -> None:
    """Share the attention weight of each sample among its corners, in the order of CORNERS."""
    upper_left, upper_right, lower_left, lower_right = out
    right = weight * x
    left = weight - right
    torch.mul(right, y, out=lower_right)
    torch.sub(right, lower_right, out=upper_right)
    torch.mul(left, y, out=lower_left)
    torch.sub(left, lower_left, out=upper_left)

"""Triton kernels of CARAFE and of its two gradients, for CUDA; ``carafe_reference`` defines what they compute.

Each program owns what it writes, so that nothing is added by atomics and results repeat bit for bit: in the forward
pass and in the mask's gradient some output pixels of a row, in the input's gradient some input pixels, which gather
from the output pixels that read them. Maps may have any strides, channels-last as well as contiguous.

N: batch, C: channels, G: channel groups, k: kernel size, u: upsampling factor, H, W: input map; a program's block has
PIXELS pixels of one row and CHANNELS channels of one group.
"""
import torch
import triton
import triton.language as tl
from torch import Tensor

from freqdino.ops.carafe import output_like
from freqdino.ops.weighted_gather import compute_dtype

MAX_PIXELS, MAX_CHANNELS = 64, 16
WARPS = 4
TYPES = {torch.float32: tl.float32, torch.float64: tl.float64}


@triton.jit
def pixels_of_row(row_width, PIXELS: tl.constexpr):
    """The row and the columns of a program's pixels, and which of the columns exist."""
    blocks = tl.cdiv(row_width, PIXELS)
    column = tl.program_id(0) % blocks * PIXELS + tl.arange(0, PIXELS)
    return tl.program_id(0) // blocks, column, column < row_width


@triton.jit
def channels_of_group(GROUP_CHANNELS: tl.constexpr, CHANNELS: tl.constexpr):
    """The group and the channels of a program's block, counted within the group, and which of them exist."""
    blocks = tl.cdiv(GROUP_CHANNELS, CHANNELS)
    channel = tl.program_id(1) % blocks * CHANNELS + tl.arange(0, CHANNELS)
    return tl.program_id(1) // blocks, channel, channel < GROUP_CHANNELS


@triton.jit
def output_kernel(x, mask, output, height, width,
                  x_image, x_channel, x_row, x_column, mask_image, mask_channel, mask_row, mask_column,
                  output_image, output_channel, output_row, output_column,
                  GROUP_CHANNELS: tl.constexpr, KERNEL: tl.constexpr, UP: tl.constexpr, SUM: tl.constexpr,
                  PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
    image = tl.program_id(2).to(tl.int64)
    row, column, exists = pixels_of_row(width * UP, PIXELS)
    group, channel, chosen = channels_of_group(GROUP_CHANNELS, CHANNELS)
    channel += group * GROUP_CHANNELS
    x += image * x_image
    mask += image * mask_image + group * KERNEL * KERNEL * mask_channel + row * mask_row
    sums = tl.zeros((CHANNELS, PIXELS), dtype=SUM)
    for tap in range(KERNEL * KERNEL):
        source_row = row // UP + tap // KERNEL - KERNEL // 2
        source_column = column // UP + tap % KERNEL - KERNEL // 2
        inside = exists & (source_row >= 0) & (source_row < height) & (source_column >= 0) & (source_column < width)
        weight = tl.load(mask + tap * mask_channel + column * mask_column, mask=exists, other=0)
        place = channel[:, None] * x_channel + (source_row * x_row + source_column * x_column)[None, :]
        value = tl.load(x + place, mask=chosen[:, None] & inside[None, :], other=0)
        sums += value.to(SUM) * weight.to(SUM)[None, :]
    place = channel[:, None] * output_channel + (row * output_row + column * output_column)[None, :]
    tl.store(output + image * output_image + place, sums.to(output.dtype.element_ty),
             mask=chosen[:, None] & exists[None, :])


@triton.jit
def mask_gradient_kernel(x, grad_output, grad_mask, height, width,
                         x_image, x_channel, x_row, x_column, output_image, output_channel, output_row, output_column,
                         mask_image, mask_channel, mask_row, mask_column,
                         GROUP_CHANNELS: tl.constexpr, KERNEL: tl.constexpr, UP: tl.constexpr, SUM: tl.constexpr,
                         PIXELS: tl.constexpr, TAPS: tl.constexpr):
    image, group = tl.program_id(2).to(tl.int64), tl.program_id(1)
    row, column, exists = pixels_of_row(width * UP, PIXELS)
    tap = tl.arange(0, TAPS)  # the power of two that holds KERNEL * KERNEL
    source_row = row // UP + tap[:, None] // KERNEL - KERNEL // 2
    source_column = column[None, :] // UP + tap[:, None] % KERNEL - KERNEL // 2
    chosen = (tap < KERNEL * KERNEL)[:, None] & exists[None, :]
    inside = chosen & (source_row >= 0) & (source_row < height) & (source_column >= 0) & (source_column < width)
    x += image * x_image + group * GROUP_CHANNELS * x_channel + source_row * x_row + source_column * x_column
    grad_output += (image * output_image + group * GROUP_CHANNELS * output_channel
                    + row * output_row + column * output_column)
    sums = tl.zeros((TAPS, PIXELS), dtype=SUM)
    for channel in range(GROUP_CHANNELS):
        value = tl.load(x + channel * x_channel, mask=inside, other=0)
        grad = tl.load(grad_output + channel * output_channel, mask=exists, other=0)
        sums += value.to(SUM) * grad.to(SUM)[None, :]
    place = (group * KERNEL * KERNEL + tap)[:, None] * mask_channel + (row * mask_row + column * mask_column)[None, :]
    tl.store(grad_mask + image * mask_image + place, sums.to(grad_mask.dtype.element_ty), mask=chosen)


@triton.jit
def input_gradient_kernel(mask, grad_output, grad_x, height, width,
                          mask_image, mask_channel, mask_row, mask_column,
                          output_image, output_channel, output_row, output_column,
                          x_image, x_channel, x_row, x_column,
                          GROUP_CHANNELS: tl.constexpr, KERNEL: tl.constexpr, UP: tl.constexpr, SUM: tl.constexpr,
                          PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
    image = tl.program_id(2).to(tl.int64)
    row, column, exists = pixels_of_row(width, PIXELS)
    group, channel, chosen = channels_of_group(GROUP_CHANNELS, CHANNELS)
    channel += group * GROUP_CHANNELS
    mask += image * mask_image + group * KERNEL * KERNEL * mask_channel
    grad_output += image * output_image
    sums = tl.zeros((CHANNELS, PIXELS), dtype=SUM)
    for reader in range(KERNEL * KERNEL * UP * UP):
        # The output pixels that read this pixel as their tap are those of the cell as far on the other side of it.
        tap, part = reader // (UP * UP), reader % (UP * UP)
        cell_row, cell_column = row - tap // KERNEL + KERNEL // 2, column - tap % KERNEL + KERNEL // 2
        inside = exists & (cell_row >= 0) & (cell_row < height) & (cell_column >= 0) & (cell_column < width)
        reader_row, reader_column = cell_row * UP + part // UP, cell_column * UP + part % UP
        weight = tl.load(mask + tap * mask_channel + reader_row * mask_row + reader_column * mask_column,
                         mask=inside, other=0)
        place = channel[:, None] * output_channel + (reader_row * output_row + reader_column * output_column)[None, :]
        grad = tl.load(grad_output + place, mask=chosen[:, None] & inside[None, :], other=0)
        sums += grad.to(SUM) * weight.to(SUM)[None, :]
    place = channel[:, None] * x_channel + (row * x_row + column * x_column)[None, :]
    tl.store(grad_x + image * x_image + place, sums.to(grad_x.dtype.element_ty),
             mask=chosen[:, None] & exists[None, :])


# torch.compile looks into operators that Triton kernels make up; not into interpreted ones.
SEEN_THROUGH = isinstance(output_kernel, triton.JITFunction)
define = torch.library.triton_op if SEEN_THROUGH else torch.library.custom_op


@define("freqdino::carafe", mutates_args=())
def carafe_output(x: Tensor, mask: Tensor, kernel_size: int, group: int, up: int) -> Tensor:
    """:func:`freqdino.ops.carafe.carafe` of arguments that it has checked."""
    batch, channels, height, width = x.shape
    output = output_like(x, up)
    pixels, channel_block = block(width * up, MAX_PIXELS), block(channels // group, MAX_CHANNELS)
    launch(output_kernel, (height * up * triton.cdiv(width * up, pixels),
                           group * triton.cdiv(channels // group, channel_block), batch),
           (x, mask, output), (height, width), GROUP_CHANNELS=channels // group, KERNEL=kernel_size, UP=up,
           SUM=TYPES[compute_dtype(x, mask)], PIXELS=pixels, CHANNELS=channel_block)
    return output


@define("freqdino::carafe_mask_gradient", mutates_args=())
def carafe_mask_gradient(grad_output: Tensor, x: Tensor, mask: Tensor, kernel_size: int, group: int, up: int) -> Tensor:
    """The gradient of the mask, of its shape and type."""
    batch, channels, height, width = x.shape
    grad_mask = torch.empty_like(mask)
    pixels = block(width * up, MAX_PIXELS)
    launch(mask_gradient_kernel, (height * up * triton.cdiv(width * up, pixels), group, batch),
           (x, grad_output, grad_mask), (height, width), GROUP_CHANNELS=channels // group, KERNEL=kernel_size, UP=up,
           SUM=TYPES[compute_dtype(x, mask)], PIXELS=pixels, TAPS=triton.next_power_of_2(kernel_size**2))
    return grad_mask


@define("freqdino::carafe_input_gradient", mutates_args=())
def carafe_input_gradient(grad_output: Tensor, x: Tensor, mask: Tensor, kernel_size: int, group: int,
                          up: int) -> Tensor:
    """The gradient of x, of its shape and type."""
    batch, channels, height, width = x.shape
    grad_x = torch.empty_like(x)
    pixels, channel_block = block(width, MAX_PIXELS), block(channels // group, MAX_CHANNELS)
    launch(input_gradient_kernel, (height * triton.cdiv(width, pixels),
                                   group * triton.cdiv(channels // group, channel_block), batch),
           (mask, grad_output, grad_x), (height, width), GROUP_CHANNELS=channels // group, KERNEL=kernel_size, UP=up,
           SUM=TYPES[compute_dtype(x, mask)], PIXELS=pixels, CHANNELS=channel_block)
    return grad_x


@carafe_output.register_fake
def _(x, mask, kernel_size, group, up):
    return output_like(x, up)


@carafe_mask_gradient.register_fake
def _(grad_output, x, mask, kernel_size, group, up):
    return torch.empty_like(mask)


@carafe_input_gradient.register_fake
def _(grad_output, x, mask, kernel_size, group, up):
    return torch.empty_like(x)


def remember(ctx, inputs, output):
    x, mask, *ctx.geometry = inputs
    ctx.save_for_backward(x, mask)


def gradients(ctx, grad_output):
    x, mask = ctx.saved_tensors
    of_x, of_mask, *_ = ctx.needs_input_grad
    return (carafe_input_gradient(grad_output, x, mask, *ctx.geometry) if of_x else None,
            carafe_mask_gradient(grad_output, x, mask, *ctx.geometry) if of_mask else None, None, None, None)


carafe_output.register_autograd(gradients, setup_context=remember)


def block(count: int, largest: int) -> int:
    return min(largest, triton.next_power_of_2(max(1, count)))


def launch(kernel, grid: tuple[int, int, int], tensors: tuple[Tensor, ...], sizes: tuple[int, int],
           **constants) -> None:
    if 0 not in grid:
        strides = [stride for tensor in tensors for stride in tensor.stride()]
        if SEEN_THROUGH:
            kernel = torch.library.wrap_triton(kernel)
        kernel[grid](*tensors, *sizes, *strides, **constants, num_warps=WARPS)

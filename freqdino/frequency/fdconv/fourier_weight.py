"""Fourier Disjoint Weight: a convolution weight kept as the Fourier coefficients of one matrix, in disjoint groups.

Source: Frequency Dynamic Convolution for Dense Image Prediction (FDConv, CVPR 2025, arXiv 2503.18783), section
"Fourier Disjoint Weight".

Shape key: Co, Ci: output and input channels (Ci of one convolution group), kh, kw: kernel height and width.
The weight (Co, Ci, kh, kw) is read as a matrix of R = Co·kh rows and K = Ci·kw columns, row = o·kh + ky and
column = i·kw + kx; its real FFT has R × (K//2 + 1) coefficients.
"""
import torch
from torch import Tensor

from freqdino.errors import ArgumentError
from freqdino.ops.modules import is_exported, is_recorded, ready_to_flatten
from freqdino.ops.real_fourier import inverse_real_transform
from freqdino.ops.registered import RegisteredFunction


def frequency_groups(rows: int, columns: int, kernel_num: int) -> Tensor:
    """The group of every coefficient of a rows × columns matrix: int64 (rows, columns//2 + 1), values below kernel_num.

    Coefficients are ordered by radius √(fy² + fx²), those of equal radius row by row, and cut into ``kernel_num``
    groups of equal size; where they do not divide, the last group takes the rest. The radii are compared as integers,
    so that the order does not depend on the processor. ValueError if there are more groups than coefficients.
    """
    half = columns // 2 + 1
    count = rows * half
    if not 1 <= kernel_num <= count:
        raise ArgumentError("kernel_num", f"must lie between 1 and the {count} Fourier coefficients of a {rows} × "
                            f"{columns} weight matrix, got {kernel_num}")
    fy = torch.arange(rows)
    fy = torch.where(fy < (rows + 1) // 2, fy, fy - rows)
    fx = torch.arange(half)
    squared_radius = (fy[:, None] * columns) ** 2 + (fx * rows) ** 2
    order = squared_radius.flatten().argsort(stable=True)
    groups = torch.empty(count, dtype=torch.int64)
    groups[order] = (torch.arange(count) // (count // kernel_num)).clamp(max=kernel_num - 1)
    return groups.view(rows, half)


def weight_to_spectrum(weight: Tensor) -> Tensor:
    """(Co, Ci, kh, kw) -> real and imaginary parts (R, K//2 + 1, 2), in float32 at least."""
    out_channels, in_channels, height, width = weight.shape
    matrix = weight.to(at_least_float32(weight)).permute(0, 2, 1, 3).reshape(out_channels * height, in_channels * width)
    return torch.view_as_real(torch.fft.rfft2(matrix))


def spectrum_to_matrix(spectrum: Tensor, columns: int) -> Tensor:
    """(B, R, K//2 + 1, 2) -> the matrices (B, R, K). K is asked for, as it may be odd."""
    # Two calls take two thirds of irfft2's time on a CPU.
    return torch.fft.irfft(torch.fft.ifft(torch.view_as_complex(spectrum), dim=-2), n=columns)


def matrix_to_weight(matrix: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
    """(B, R, K) -> (B, Co, Ci, kh, kw), a view. ``shape``: (Co, Ci, kh, kw)."""
    out_channels, in_channels, height, width = shape
    return matrix.unflatten(1, (out_channels, height)).unflatten(3, (in_channels, width)).transpose(2, 3)


def at_least_float32(tensor: Tensor) -> torch.dtype:
    """The type to transform in: the FFT has no bfloat16, and on many processors no float16."""
    return torch.promote_types(tensor.dtype, torch.float32)


def grouped_matrices(coefficients: Tensor, gains: Tensor, group_map: Tensor, columns: int) -> Tensor:
    """The matrices (B, R, K) whose coefficients are Σ_s coefficients[s] · gains[:, s, group_map].

    coefficients: (p, R, K//2 + 1, 2), sets to be summed. gains: (B, p, n), a factor for each of n groups.
    group_map: int32 (R, K//2 + 1), the group of each coefficient.
    """
    if is_exported():       # the parts apart: other runtimes are slow at products with innermost pairs
        factors = spread_at_once(gains, group_map)[..., 0]
        real, imaginary = ((part * factors).sum(1) for part in coefficients.unbind(-1))
        return ready_to_flatten(inverse_real_transform(real, imaginary, columns))
    if is_recorded():
        spectrum = (coefficients * gains[:, :, group_map.long()].unsqueeze(-1)).sum(1)
        return spectrum_to_matrix(spectrum, columns)
    return GroupedMatrices.apply(coefficients, gains, group_map, columns)


class GroupedMatrices(RegisteredFunction, schema="""grouped_matrices(
        Tensor coefficients, Tensor gains, Tensor group_map, int columns) -> Tensor"""):
    """`grouped_matrices`: neither a spectrum nor its gradient is kept. On the CPU image by image, for the cache's sake;
    elsewhere all together in few operators.
    """

    @staticmethod
    def empty(coefficients, gains, group_map, columns):
        return gains.new_empty(len(gains), coefficients.shape[1], columns)

    @staticmethod
    def forward(coefficients: Tensor, gains: Tensor, group_map: Tensor, columns: int) -> Tensor:
        if coefficients.device.type != "cpu":
            return matrices_at_once(coefficients, gains, group_map, columns)
        coefficients = torch.view_as_complex(coefficients)
        matrices = gains.new_empty(len(gains), coefficients.shape[1], columns)
        for matrix, shares in zip(matrices, gains):
            spectrum = coefficients[0] * spread(shares[0], group_map)
            for coefficient, share in zip(coefficients[1:], shares[1:]):
                spectrum.addcmul_(coefficient, spread(share, group_map))
            # A transform along rows leaves them innermost in memory, where one along columns takes twice as long.
            matrix.copy_(torch.fft.irfft(torch.fft.ifft(spectrum, dim=-2).contiguous(), n=columns))
        return matrices

    @staticmethod
    def backward(ctx, matrices_grad: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        coefficients, gains, group_map = ctx.saved_tensors
        if matrices_grad.device.type != "cpu":
            gradients = gradients_at_once(matrices_grad, coefficients, gains, group_map, ctx.needs_input_grad[0])
            return *gradients, None, None
        # Rows innermost, as the transform of a gradient has them: everything that meets it is laid out so.
        group_map = group_map.T.contiguous()
        index = group_map.flatten().long()
        conjugate = torch.view_as_complex(coefficients).mT.conj().resolve_conj().contiguous()
        conjugate[:, mirrored(matrices_grad)] *= 2
        total = torch.zeros_like(conjugate) if ctx.needs_input_grad[0] else None
        gains_grad = torch.zeros_like(gains)
        for image, matrix_grad in enumerate(matrices_grad):
            gradient = torch.fft.fft(torch.fft.rfft(matrix_grad, norm="forward"), dim=-2, norm="forward").mT
            for share, gain in enumerate(gains[image]):
                products = (conjugate[share] * gradient).real.flatten()
                gains_grad[image, share].scatter_add_(0, index, products)
                if total is not None:
                    total[share].addcmul_(gradient, spread(gain, group_map))
        if total is not None:
            total[:, mirrored(matrices_grad)] *= 2
            total = torch.view_as_real(total.mT.contiguous())
        return total, gains_grad, None, None


def matrices_at_once(coefficients: Tensor, gains: Tensor, group_map: Tensor, columns: int) -> Tensor:
    """`grouped_matrices`."""
    spectra = coefficients * spread_at_once(gains, group_map)
    spectrum = torch.view_as_complex(spectra.sum(1) if len(coefficients) > 1 else spectra[:, 0])
    return torch.fft.irfft2(spectrum, s=(spectrum.shape[1], columns))


def gradients_at_once(matrices_grad: Tensor, coefficients: Tensor, gains: Tensor, group_map: Tensor,
                      of_coefficients: bool) -> tuple[Tensor | None, Tensor]:
    """The gradients of `matrices_at_once` for its coefficients, where they are asked for, and gains."""
    gradient = torch.view_as_real(torch.fft.rfft2(matrices_grad, norm="forward"))
    gradient[:, :, mirrored(matrices_grad)].mul_(2)
    gradient = gradient.unsqueeze(1)                # (B, 1, R, K//2 + 1, 2)
    products = (gradient * coefficients).sum(-1).flatten(2)
    gains_grad = torch.zeros_like(gains).index_add_(2, group_map.flatten(), products)
    total = (gradient * spread_at_once(gains, group_map)).sum(0) if of_coefficients else None
    return total, gains_grad


def spread_at_once(gains: Tensor, group_map: Tensor) -> Tensor:
    """(B, p, n) -> (B, p, *group_map's shape, 1)."""
    return gains.index_select(2, group_map.flatten()).view(*gains.shape[:2], *group_map.shape, 1)


def mirrored(matrices: Tensor) -> slice:
    """The columns of a half spectrum that stand for their mirror images too: not the first, nor a last of an even K."""
    return slice(1, (matrices.shape[-1] + 1) // 2)


def spread(gains: Tensor, group_map: Tensor) -> Tensor:
    """Each coefficient's factor, that of its group: (n,) -> group_map's shape, complex as the coefficients."""
    return torch.complex(gains, torch.zeros_like(gains)).index_select(0, group_map.flatten()).view(group_map.shape)

"""Content-aware reassembly of features: each output pixel is a weighted sum of the k × k input pixels round its source.

Source: Wang et al., "CARAFE: Content-Aware ReAssembly of FEatures", ICCV 2019, section 3.2; taps outside the map count
as zero and the rest is not renormalised, as in the authors' CUDA operator.

N: batch, C: channels, G: channel groups, k: kernel size, H, W: input map, u: upsampling factor.
"""
import torch
from torch import Tensor
from torch.nn import functional as F


def carafe(x: Tensor, mask: Tensor, kernel_size: int, group: int, up: int) -> Tensor:
    """out[c, y, x'] = Σ_{i,j<k} x[c, ⌊y/u⌋+i−k//2, ⌊x'/u⌋+j−k//2] · mask[(g·k+i)·k+j, y, x'], with g = c div (C/G).

    Args:
        x: (N, C, H, W).
        mask: (N, G·k², H·u, W·u), already normalised.
        kernel_size: k, odd.
        group: G, divides C.
        up: u, at least 1.

    Returns:
        (N, C, H·u, W·u).

    Raises:
        ValueError: arguments whose ranks, sizes or channels do not fit each other.
    """
    check_arguments(x, mask, kernel_size, group, up)
    return carafe_reference(x, mask, kernel_size, group, up)


def carafe_reference(x: Tensor, mask: Tensor, kernel_size: int, group: int, up: int) -> Tensor:
    """The definition of :func:`carafe`, by unfolding: it makes k² copies of the features."""
    check_arguments(x, mask, kernel_size, group, up)
    batch, channels, height, width = x.shape
    taps = F.unfold(x, kernel_size, padding=kernel_size // 2)
    taps = taps.view(batch, group, channels // group, kernel_size**2, height, 1, width, 1)
    weights = mask.view(batch, group, 1, kernel_size**2, height, up, width, up)
    return (taps * weights).sum(dim=3).reshape(batch, channels, height * up, width * up)


def check_arguments(x: Tensor, mask: Tensor, kernel_size: int, group: int, up: int) -> None:
    for name, tensor in (("x", x), ("mask", mask)):
        if tensor.dim() != 4:
            raise ValueError(f"{name} must have 4 dimensions (N, C, H, W), got {tensor.dim()}: {tuple(tensor.shape)}")
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

"""A2U: filters from an affinity of the fine map with itself, of low rank and second order.

Source: Dai et al., "Learning Affinity-Aware Upsampling for Deep Image Matting", CVPR 2021 (arXiv 2011.14288), in the
form of the tables of FreqFusion's paper: k 3, encoding kernel 6, shared by the channels, one map of affinities.

B: batch, C: channels of hr, H × W: coarse map lr.
"""
import math
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from freqdino.frequency.rivals.upsampler import FilterUpsampler, group_norm, init_convolutions
from freqdino.ops.autocast import without_autocast
from freqdino.ops.modules import is_exported
from freqdino.ops.pooling import CellAverages

ENCODING_KERNEL, STRIDE, PADDING = 6, 2, 2


class A2U(FilterUpsampler):
    """Two 6 × 6 kernels, which hr itself gives, encode it; the product of the two codes is the affinity a of a pixel.

    Logits of a fine pixel are σ(P·a), P nine numbers for each of the 2 × 2 sub-pixels, from hr's mean. 42·C + 38
    parameters: 10,790 at 256 channels, of which 9,728 are the weights that the tables count. Parameter names and the
    initialisation (Xavier-uniform) are ours.
    """

    filter_size = 3

    def __init__(self, *, hr_channels: int, lr_channels: int, odd_sides: bool = False):
        """
        Args:
            hr_channels: C, a multiple of 32.
            lr_channels: C_l.
            odd_sides: let hr have odd sides, which are then extended as other upsamplers extend them.
        Raises ValueError: another number of channels.
        """
        super().__init__(hr_channels=hr_channels, lr_channels=lr_channels)
        self.odd_sides = odd_sides
        self.cells = CellAverages(ENCODING_KERNEL)
        self.first_kernel = nn.Conv2d(hr_channels, 1, kernel_size=1)
        self.second_kernel = nn.Conv2d(hr_channels, 1, kernel_size=1)
        self.first_norm = group_norm("hr_channels", hr_channels)
        self.second_norm = group_norm("hr_channels", hr_channels)
        self.projection = nn.Conv2d(hr_channels, 4 * self.filter_size**2, kernel_size=1)
        self.reset_parameters()

    def reset_parameters(self):
        init_convolutions(self)

    def forward(self, hr: Tensor, lr: Tensor) -> Tensor:
        """As every upsampler's. Raises ValueError, without ``odd_sides``, for an hr that has any."""
        if not self.odd_sides and any(side % 2 for side in hr.shape[2:]):
            raise ValueError(f"hr must have even sides for A2U, got {tuple(hr.shape[2:])} (height, width); "
                             "odd_sides=True extends others")
        return super().forward(hr, lr)

    def logits(self, hr: Tensor, lr: Tensor) -> Tensor:
        cells = self.cells(hr)
        first = F.leaky_relu(self.first_norm(encode(hr, self.first_kernel(cells))))
        second = F.leaky_relu(self.second_norm(encode(hr, self.second_kernel(cells))))
        projection = self.projection(hr.mean(dim=(2, 3), keepdim=True))
        precise = torch.promote_types(hr.dtype, torch.float32)
        with without_autocast(hr):
            affinity = (first.to(precise) * second.to(precise)).sum(dim=1, keepdim=True) / math.sqrt(hr.shape[1])
            return F.pixel_shuffle(projection.to(precise) * affinity, 2).sigmoid()


def encode(x: Tensor, kernels: Tensor) -> Tensor:
    """Every channel of an image convolved with the image's kernel, at stride 2.

    Args:
        x: (B, C, 2·H, 2·W).
        kernels: (B, 1, 6, 6).
    Returns (B, C, H, W).
    """
    if is_exported():       # the number of images may be open, which as a number of groups it could not be
        return encode_by_taps(x, kernels)
    images = x.transpose(0, 1)      # as channels of the C channels as images
    return F.conv2d(images, kernels, stride=STRIDE, padding=PADDING, groups=x.shape[0]).transpose(0, 1)


def encode_by_taps(x: Tensor, kernels: Tensor) -> Tensor:
    """`encode` in plain operators."""
    height, width = x.shape[2:]
    padded = F.pad(x, (PADDING,) * 4)
    return sum(kernels[:, :, row, column, None, None] * padded[:, :, row:row + height:STRIDE,
                                                               column:column + width:STRIDE]
               for row, column in product(range(ENCODING_KERNEL), repeat=2))

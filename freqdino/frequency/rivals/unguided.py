"""Upsamplers that read the coarse map alone: resizing, deconvolution, pixel shuffle, CARAFE, DySample.

Sources: nearest and bilinear resizing; deconvolution (Zeiler et al., CVPR 2010; Long et al., arXiv 1411.4038); pixel
shuffle (Shi et al., arXiv 1609.05158); CARAFE (Wang et al., arXiv 1905.02188); DySample (Liu et al., arXiv 2308.15085).
Of each the variant whose parameters, at three modules of 256 channels, are those of the comparison in FreqFusion's
paper (arXiv 2408.12879, its table of Panoptic FPN). CARAFE and DySample are made of FreqFusion's own parts.

B: batch, C: channels of lr, H × W: coarse map lr, G: channel groups.
"""
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from freqdino.errors import ArgumentError
from freqdino.frequency.argument_checks import check_choice
from freqdino.frequency.freqfusion.offset_generator import sample_bilinear
from freqdino.frequency.rivals.upsampler import FilterUpsampler, Upsampler, init_convolutions
from freqdino.ops.autocast import without_autocast


class Interpolation(Upsampler):
    """Resizing without parameters.

    >>> resize = Interpolation(hr_channels=8, lr_channels=8, mode="nearest")
    >>> resize(torch.zeros(1, 8, 6, 4), torch.rand(1, 8, 3, 2)).shape
    torch.Size([1, 8, 6, 4])
    """

    reads_hr = False

    def __init__(self, *, hr_channels: int, lr_channels: int, mode: str):
        """``mode``: "nearest" or "bilinear" (align_corners False). Raises ValueError for another one."""
        super().__init__(hr_channels=hr_channels, lr_channels=lr_channels)
        check_choice(("nearest", "bilinear"), mode=mode)
        self.mode = mode

    def upsample(self, hr: Tensor, lr: Tensor) -> Tensor:
        return F.interpolate(lr, scale_factor=2.0, mode=self.mode)


class Deconvolution(Upsampler):
    """A 3 × 3 transposed convolution of stride 2.

    9·C² + C parameters: 1.8 M at three modules of 256 channels, as published (kernels of 2 or 4 would give 0.8, 3.1 M).
    """

    reads_hr = False

    def __init__(self, *, hr_channels: int, lr_channels: int):
        super().__init__(hr_channels=hr_channels, lr_channels=lr_channels)
        self.deconvolution = nn.ConvTranspose2d(lr_channels, lr_channels, kernel_size=3, stride=2, padding=1,
                                                output_padding=1)
        self.reset_parameters()

    def reset_parameters(self):
        init_convolutions(self)

    def upsample(self, hr: Tensor, lr: Tensor) -> Tensor:
        return self.deconvolution(lr)


class PixelShuffle(Upsampler):
    """A 3 × 3 convolution to 4·C channels, which become the 2 × 2 pixels of a pixel.

    36·C² + 4·C parameters: 7.1 M at three modules of 256 channels, as published.
    """

    reads_hr = False

    def __init__(self, *, hr_channels: int, lr_channels: int):
        super().__init__(hr_channels=hr_channels, lr_channels=lr_channels)
        self.convolution = nn.Conv2d(lr_channels, 4 * lr_channels, kernel_size=3, padding=1)
        self.reset_parameters()

    def reset_parameters(self):
        init_convolutions(self)

    def upsample(self, hr: Tensor, lr: Tensor) -> Tensor:
        return F.pixel_shuffle(self.convolution(lr), 2)


class CARAFE(FilterUpsampler):
    """Content-aware reassembly: filters of 5 × 5 taps for each fine pixel, predicted from the coarse map.

    The paper's setting: 64 compressed channels, encoder kernel 3, k 5, one group. 64·C + 57,764 parameters: 0.2 M at
    three modules of 256 channels, as published. Parameter names are the authors'.
    """

    reads_hr = False
    COMPRESSED_CHANNELS = 64

    def __init__(self, *, hr_channels: int, lr_channels: int):
        super().__init__(hr_channels=hr_channels, lr_channels=lr_channels)
        self.channel_compressor = nn.Conv2d(lr_channels, self.COMPRESSED_CHANNELS, kernel_size=1)
        self.content_encoder = nn.Conv2d(self.COMPRESSED_CHANNELS, 4 * self.filter_size**2, kernel_size=3, padding=1)
        self.reset_parameters()

    def reset_parameters(self):
        init_convolutions(self)
        nn.init.normal_(self.content_encoder.weight, std=0.001)

    def logits(self, hr: Tensor, lr: Tensor) -> Tensor:
        return F.pixel_shuffle(self.content_encoder(self.channel_compressor(lr)), 2)


class DySample(Upsampler):
    """Bilinear upsampling at positions that are moved by an offset times a scope.

    The paper's variants: ``shuffle_first`` predicts the offsets of each fine pixel after a pixel shuffle, from C/4
    channels ("pl", its DySample-S), without it the four of a coarse pixel come from that pixel ("lp"). The scope is a
    quarter of a coarse pixel, or with ``dynamic_scope`` (the "+" of the names) a predicted 0..½. Parameters: lp
    (C + 1)·8·G, 8,224 at 256 channels; lp+ (2·C + 1)·8·G and pl+ with 8 groups (C/2 + 1)·2·G: 49.2 K and 6.2 K at
    three modules of 256 channels, as published. Parameter names are the authors'.
    """

    reads_hr = False
    SCOPE = 0.25

    def __init__(self, *, hr_channels: int, lr_channels: int, groups: int = 4, shuffle_first: bool = False,
                 dynamic_scope: bool = False):
        """
        Args:
            hr_channels: C_h.
            lr_channels: C.
            groups: G, channel groups with positions of their own.
            shuffle_first: predict after the pixel shuffle.
            dynamic_scope: predict the scope.
        Raises ValueError: channels that the groups, or with ``shuffle_first`` the four pixels, do not divide.
        """
        super().__init__(hr_channels=hr_channels, lr_channels=lr_channels)
        if groups < 1:
            raise ArgumentError("groups", f"must be at least 1, got {groups}")
        if lr_channels % groups:
            raise ArgumentError("lr_channels", f"must be a multiple of the {groups} groups, got {lr_channels}")
        if shuffle_first and lr_channels % 4:
            raise ArgumentError("lr_channels", f"must be a multiple of 4 with shuffle_first, got {lr_channels}")
        self.shuffle_first = shuffle_first
        seen, predicted = (lr_channels // 4, 2 * groups) if shuffle_first else (lr_channels, 8 * groups)
        self.offset = nn.Conv2d(seen, predicted, kernel_size=1)
        self.scope = nn.Conv2d(seen, predicted, kernel_size=1, bias=False) if dynamic_scope else None
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.normal_(self.offset.weight, std=0.001)
        nn.init.zeros_(self.offset.bias)
        if self.scope is not None:
            nn.init.zeros_(self.scope.weight)

    def upsample(self, hr: Tensor, lr: Tensor) -> Tensor:
        seen = F.pixel_shuffle(lr, 2) if self.shuffle_first else lr
        offset = self._of_fine_pixels(self.offset, seen)
        scope = None if self.scope is None else self._of_fine_pixels(self.scope, seen)
        # Half precision cannot tell neighbouring positions of a large map apart.
        precise = torch.promote_types(lr.dtype, torch.float32)
        with without_autocast(lr):
            reach = self.SCOPE if scope is None else 0.5 * scope.to(precise).sigmoid()
            dx, dy = (offset.to(precise) * reach).chunk(2, dim=1)
            y, x = (subpixel_centres(size, dx) for size in lr.shape[2:])
            return sample_bilinear(lr.to(precise), x + dx, y[:, None] + dy)

    def _of_fine_pixels(self, predict: nn.Conv2d, seen: Tensor) -> Tensor:
        """(B, 2·G, 2·H, 2·W): x of every group, then y."""
        return predict(seen) if self.shuffle_first else F.pixel_shuffle(predict(seen), 2)


def subpixel_centres(size: int, like: Tensor) -> Tensor:
    """(2·size,): where the halves of an axis's pixels lie, in whole pixels, 0 being the centre of the first."""
    return (torch.arange(2 * size, dtype=like.dtype, device=like.device) - 0.5) / 2

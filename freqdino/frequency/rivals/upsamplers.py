"""The upsamplers that FreqFusion is compared with, each as a feature pyramid uses it: two maps in, their sum out.

Sources: nearest and bilinear resizing; deconvolution (Zeiler et al., CVPR 2010; Long et al., arXiv 1411.4038); pixel
shuffle (Shi et al., arXiv 1609.05158); CARAFE (Wang et al., arXiv 1905.02188); DySample (Liu et al., arXiv 2308.15085).
Of each the variant whose parameters, at three fusions of 256 channels, are those of the comparison in FreqFusion's
paper (arXiv 2408.12879, its table of Panoptic FPN). CARAFE and DySample are made of FreqFusion's own parts.

B: batch, C: channels, H × W: coarse map lr, Y × X: fine map hr, k: filter size, G: channel groups.
"""
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from freqdino.errors import ArgumentError
from freqdino.frequency.argument_checks import check_choice
from freqdino.frequency.freqfusion.fusion import extend, make_filters, tap_window
from freqdino.frequency.freqfusion.offset_generator import sample_bilinear
from freqdino.ops.autocast import without_autocast
from freqdino.ops.backends import HasOperators
from freqdino.ops.carafe import TRITON, carafe
from freqdino.ops.modules import with_zero_gradients


class UpsampleSum(nn.Module):
    """hr + upsampled lr; a subclass defines ``upsample``, (B, C, H, W) -> (B, C, 2·H, 2·W).

    Sizes as in FreqFusion: where the fine map has 2·H + 1 rows the last row of lr is repeated first, where it has
    2·H − 1 the last row of the upsampled map is cut off; likewise columns.
    """

    def forward(self, hr: Tensor, lr: Tensor) -> Tensor:
        """(B, C, Y, X) and (B, C, H, W) -> (B, C, Y, X), 2·H − 1 ≤ Y ≤ 2·H + 1 and 2·W − 1 ≤ X ≤ 2·W + 1.

        Raises ValueError: maps whose ranks, batches, channels or sizes do not fit.
        """
        check_maps(hr, lr)
        if hr.shape[0] == 0:     # torch's pixel shuffle has no gradient for an empty batch
            return with_zero_gradients(hr + lr.sum(), self)
        height, width = hr.shape[2:]
        return hr + self.upsample(extend(lr, (height, width)))[..., :height, :width]

    def upsample(self, lr: Tensor) -> Tensor:
        raise NotImplementedError


class InterpolationSum(UpsampleSum):
    """Resizing without parameters.

    >>> InterpolationSum("nearest")(torch.zeros(1, 8, 6, 4), torch.rand(1, 8, 3, 2)).shape
    torch.Size([1, 8, 6, 4])
    """

    def __init__(self, mode: str):
        """``mode``: "nearest" or "bilinear" (align_corners False). Raises ValueError for another one."""
        super().__init__()
        check_choice(("nearest", "bilinear"), mode=mode)
        self.mode = mode

    def upsample(self, lr: Tensor) -> Tensor:
        return F.interpolate(lr, scale_factor=2.0, mode=self.mode)


class DeconvolutionSum(UpsampleSum):
    """A 3 × 3 transposed convolution of stride 2.

    9·C² + C parameters: 1.8 M at three fusions of 256 channels, as published (kernels of 2 or 4 would give 0.8, 3.1 M).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.deconvolution = nn.ConvTranspose2d(channels, channels, kernel_size=3, stride=2, padding=1,
                                                output_padding=1)
        self.reset_parameters()

    def reset_parameters(self):
        init_convolutions(self)

    def upsample(self, lr: Tensor) -> Tensor:
        return self.deconvolution(lr)


class PixelShuffleSum(UpsampleSum):
    """A 3 × 3 convolution to 4·C channels, which become the 2 × 2 pixels of a pixel.

    36·C² + 4·C parameters: 7.1 M at three fusions of 256 channels, as published.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.convolution = nn.Conv2d(channels, 4 * channels, kernel_size=3, padding=1)
        self.reset_parameters()

    def reset_parameters(self):
        init_convolutions(self)

    def upsample(self, lr: Tensor) -> Tensor:
        return F.pixel_shuffle(self.convolution(lr), 2)


class CarafeSum(HasOperators, UpsampleSum):
    """Content-aware reassembly: filters of 5 × 5 taps for each fine pixel, predicted from the coarse map.

    The paper's setting: 64 compressed channels, encoder kernel 3, k 5, one group. 64·C + 57,764 parameters: 0.2 M at
    three fusions of 256 channels, as published. Parameter names are the authors'.
    """

    kernel = TRITON
    COMPRESSED_CHANNELS, KERNEL = 64, 5

    def __init__(self, channels: int):
        super().__init__()
        self.channel_compressor = nn.Conv2d(channels, self.COMPRESSED_CHANNELS, kernel_size=1)
        self.content_encoder = nn.Conv2d(self.COMPRESSED_CHANNELS, 4 * self.KERNEL**2, kernel_size=3, padding=1)
        self.reset_parameters()

    def reset_parameters(self):
        init_convolutions(self)
        nn.init.normal_(self.content_encoder.weight, std=0.001)

    def upsample(self, lr: Tensor) -> Tensor:
        logits = F.pixel_shuffle(self.content_encoder(self.channel_compressor(lr)), 2)
        filters = make_filters(logits, tap_window(self.KERNEL, hamming=False), groups=1)
        return carafe(lr, filters, self.KERNEL, group=1, up=2, operators=self.operators)


class DySampleSum(UpsampleSum):
    """Bilinear upsampling at positions that are moved by an offset times a scope of 0..½ coarse pixels ("dynamic
    scope factor", the "+" of the paper's names).

    DySample+ predicts the four offsets of a coarse pixel from it; DySample-S+ (``shuffle_first``) those of each fine
    pixel after a pixel shuffle, from C/4 channels. With the paper's 4 and 8 groups they have (2·C + 1)·8·G and
    (C/2 + 1)·2·G parameters: 49.2 K and 6.2 K at three fusions of 256 channels, as published. Parameter names are the
    authors'.
    """

    def __init__(self, channels: int, *, groups: int, shuffle_first: bool):
        """
        Args:
            channels: C.
            groups: G, channel groups with positions of their own.
            shuffle_first: DySample-S+ rather than DySample+.
        Raises ValueError: groups, or with ``shuffle_first`` the four pixels, that do not divide the channels.
        """
        super().__init__()
        if groups < 1 or channels % groups:
            raise ArgumentError("groups", f"must divide the {channels} channels, got {groups}")
        if shuffle_first and channels % 4:
            raise ArgumentError("shuffle_first", f"needs channels that 4 divides, got {channels}")
        self.shuffle_first = shuffle_first
        seen, predicted = (channels // 4, 2 * groups) if shuffle_first else (channels, 8 * groups)
        self.offset = nn.Conv2d(seen, predicted, kernel_size=1)
        self.scope = nn.Conv2d(seen, predicted, kernel_size=1, bias=False)
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.normal_(self.offset.weight, std=0.001)
        nn.init.zeros_(self.offset.bias)
        nn.init.zeros_(self.scope.weight)

    def upsample(self, lr: Tensor) -> Tensor:
        seen = F.pixel_shuffle(lr, 2) if self.shuffle_first else lr
        offset, scope = self.offset(seen), self.scope(seen)
        if not self.shuffle_first:
            offset, scope = F.pixel_shuffle(offset, 2), F.pixel_shuffle(scope, 2)
        # Half precision cannot tell neighbouring positions of a large map apart.
        precise = torch.promote_types(lr.dtype, torch.float32)
        with without_autocast(lr):
            dx, dy = (0.5 * offset.to(precise) * scope.to(precise).sigmoid()).chunk(2, dim=1)
            y, x = (subpixel_centres(size, dx) for size in lr.shape[2:])
            return sample_bilinear(lr.to(precise), x + dx, y[:, None] + dy).to(lr.dtype)


def check_maps(hr: Tensor, lr: Tensor) -> None:
    for name, feature_map in (("hr", hr), ("lr", lr)):
        if feature_map.dim() != 4:
            raise ValueError(f"{name} must have 4 dimensions (B, C, H, W), got {feature_map.dim()}: "
                             f"{tuple(feature_map.shape)}")
    if hr.shape[:2] != lr.shape[:2]:
        raise ValueError(f"hr and lr must be of one batch size and as many channels, got {tuple(hr.shape[:2])} and "
                         f"{tuple(lr.shape[:2])}")
    if any(coarse < 1 or abs(fine - 2 * coarse) > 1 for fine, coarse in zip(hr.shape[2:], lr.shape[2:])):
        raise ValueError(f"hr must be twice the size of lr, give or take one pixel, got {tuple(hr.shape[2:])} and "
                         f"{tuple(lr.shape[2:])} (height, width)")


def init_convolutions(module: nn.Module) -> None:
    """Xavier-uniform weights, no bias."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)


def subpixel_centres(size: int, like: Tensor) -> Tensor:
    """(2·size,): where the halves of an axis's pixels lie, in whole pixels, 0 being the centre of the first."""
    return (torch.arange(2 * size, dtype=like.dtype, device=like.device) - 0.5) / 2

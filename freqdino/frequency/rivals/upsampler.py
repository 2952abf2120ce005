"""What FreqFusion's rivals among the upsamplers share: the call ``upsampler(hr, lr)``, sizes, filters, the sum.

Source of the comparison: FreqFusion (arXiv 2408.12879). An upsampler returns lr at hr's size; `as_fusion` makes of it
what a feature pyramid calls, which adds hr. Filters are applied by CARAFE (Wang et al., arXiv 1905.02188).

B: batch, C_h, C_l: channels of the maps, H × W: coarse map lr, Y × X: fine map hr, k: filter size.
"""
from torch import Tensor, nn
from torch.nn import functional as F

from freqdino.errors import ArgumentError
from freqdino.frequency.argument_checks import check_counts
from freqdino.frequency.freqfusion.fusion import extend, make_filters, tap_window
from freqdino.ops.backends import HasOperators
from freqdino.ops.carafe import TRITON, carafe
from freqdino.ops.modules import PutBefore, put_before, same_size, with_zero_gradients

NORM_GROUPS = 32        # of the group normalisations in A2U and SAPA


class Upsampler(nn.Module):
    """lr at hr's size; a subclass defines ``upsample`` for an hr of exactly twice lr's size.

    Sizes as in FreqFusion: where the fine map has 2·H + 1 rows the last row of lr is repeated first, where it has
    2·H − 1 the last row of the upsampled map is cut off; hr's last row is repeated where their number is odd. Likewise
    columns. ``reads_hr``: whether anything but hr's size matters. ``fuses``: whether hr is in the result.
    """

    reads_hr, fuses = True, False

    def __init__(self, *, hr_channels: int, lr_channels: int):
        """
        Args:
            hr_channels: C_h.
            lr_channels: C_l.
        Raises ValueError: a number below 1.
        """
        super().__init__()
        check_counts(hr_channels=hr_channels, lr_channels=lr_channels)
        self.hr_channels, self.lr_channels = hr_channels, lr_channels

    def forward(self, hr: Tensor, lr: Tensor) -> Tensor:
        """(B, C_h, Y, X) and (B, C_l, H, W) -> (B, C_l, Y, X), 2·H − 1 ≤ Y ≤ 2·H + 1 and 2·W − 1 ≤ X ≤ 2·W + 1.

        Raises ValueError: maps whose ranks, batches, channels or sizes do not fit.
        """
        self._check_maps(hr, lr)
        height, width = hr.shape[2:]
        if hr.shape[0] == 0:     # torch's pixel shuffle has no gradient for an empty batch
            return with_zero_gradients(lr.new_empty(0, self.lr_channels, height, width) + lr.sum() + hr.sum(), self)
        lr = extend(lr, (height, width))
        hr = repeat_to_even(hr) if self.reads_hr else hr
        upsampled = self.upsample(hr, lr).to(lr.dtype)
        return upsampled if same_size(upsampled.shape[2:], (height, width)) else upsampled[..., :height, :width]

    def upsample(self, hr: Tensor, lr: Tensor) -> Tensor:
        """(B, C_h, 2·H, 2·W) and (B, C_l, H, W) -> (B, C_l, 2·H, 2·W)."""
        raise NotImplementedError

    def _check_maps(self, hr: Tensor, lr: Tensor) -> None:
        for name, feature_map, channels in (("hr", hr, self.hr_channels), ("lr", lr, self.lr_channels)):
            if feature_map.dim() != 4:
                raise ValueError(f"{name} must have 4 dimensions (B, C, H, W), got {feature_map.dim()}: "
                                 f"{tuple(feature_map.shape)}")
            if feature_map.shape[1] != channels:
                raise ValueError(f"{name} must have {channels} channels, got {feature_map.shape[1]}")
        if hr.shape[0] != lr.shape[0]:
            raise ValueError(f"hr and lr must be of one batch size, got {hr.shape[0]} and {lr.shape[0]}")
        if any(coarse < 1 or abs(fine - 2 * coarse) > 1 for fine, coarse in zip(hr.shape[2:], lr.shape[2:])):
            raise ValueError(f"hr must be twice the size of lr, give or take one pixel, got {tuple(hr.shape[2:])} and "
                             f"{tuple(lr.shape[2:])} (height, width)")


class FilterUpsampler(HasOperators, Upsampler):
    """Each fine pixel is a weighted sum of the k × k coarse pixels round its own; a subclass defines ``logits``.

    Taps outside the map count zero, and their weights stay in the softmax.
    """

    kernel = TRITON
    filter_size = 5

    def upsample(self, hr: Tensor, lr: Tensor) -> Tensor:
        filters = make_filters(self.logits(hr, lr), tap_window(self.filter_size, hamming=False), groups=1)
        return carafe(lr, filters, self.filter_size, group=1, up=2, operators=self.operators)

    def logits(self, hr: Tensor, lr: Tensor) -> Tensor:
        """(B, C_h, 2·H, 2·W) and (B, C_l, H, W) -> (B, k², 2·H, 2·W), whose softmax is the filters."""
        raise NotImplementedError


class UpsampleSum(PutBefore):
    """Before an upsampler's class: hr plus the upsampled map, (B, C, Y, X)."""

    fuses = True

    def forward(self, hr: Tensor, lr: Tensor) -> Tensor:
        return hr + super().forward(hr, lr)


def as_fusion(upsampler: Upsampler) -> Upsampler:
    """The upsampler, in place, as ``fuse(hr, lr)`` of a feature pyramid: hr is added to what it returns.

    Unless it is in it already, as with FADE's gate. State-dict keys stay. Raises ValueError: other channels in hr than
    in lr.

    >>> import torch
    >>> from freqdino.frequency.rivals import CARAFE
    >>> fuse = as_fusion(CARAFE(hr_channels=8, lr_channels=8))
    >>> fuse(torch.zeros(1, 8, 6, 4), torch.rand(1, 8, 3, 2)).shape
    torch.Size([1, 8, 6, 4])
    """
    if upsampler.hr_channels != upsampler.lr_channels:
        raise ArgumentError("lr_channels", f"must be as many as hr_channels, {upsampler.hr_channels}, for a sum, got "
                            f"{upsampler.lr_channels}")
    if not upsampler.fuses:
        put_before(UpsampleSum, upsampler)
    return upsampler


def repeat_to_even(hr: Tensor) -> Tensor:
    """Repeats the last row and the last column where their number is odd."""
    rows, columns = (side % 2 for side in hr.shape[2:])
    return F.pad(hr, (0, columns, 0, rows), mode="replicate") if rows or columns else hr


def group_norm(argument: str, channels: int) -> nn.GroupNorm:
    """Of NORM_GROUPS groups. Raises ValueError about the argument that has the channels, where they do not divide."""
    if channels % NORM_GROUPS:
        raise ArgumentError(argument, f"must be a multiple of {NORM_GROUPS}, the groups of its normalisation, got "
                            f"{channels}")
    return nn.GroupNorm(NORM_GROUPS, channels)


def init_convolutions(module: nn.Module) -> None:
    """Xavier-uniform weights, biases of zero."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

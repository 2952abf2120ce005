"""FreqFusion: frequency-aware fusion of a high-resolution and a low-resolution feature map.

Source: Chen et al., "Frequency-aware Feature Fusion for Dense Image Prediction", TPAMI 2024 (arXiv 2408.12879). Three
generators: adaptive low-pass filters smooth the low-resolution map while it is upsampled, offsets resample it where it
is inconsistent (``offset_generator.py``), adaptive high-pass filters bring out the detail of the high-resolution map.

B: batch, C_h, C_l: channels of the maps, D: compressed channels, G: up_group, k: filter size,
H × W: low-resolution map, Y × X: high-resolution map; h, l: the compressed maps.
N(logits): the filters made of logits. R(x, filters, u): x upsampled u times and filtered by CARAFE.
"""
import warnings

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn import functional as F

from freqdino.errors import ArgumentError
from freqdino.frequency.argument_checks import check_choice, check_counts, check_type
from freqdino.frequency.freqfusion.offset_generator import SimilarityGuidedSampler, joint_conv
from freqdino.ops.backends import HasOperators
from freqdino.ops.carafe import TRITON, carafe
from freqdino.ops.modules import is_exported, is_recorded, kept_whole, with_zero_gradients

UPSAMPLE_MODES = ("nearest", "bilinear", "bicubic")


class FreqFusion(HasOperators, nn.Module):
    """Fuses a high-resolution map with one of half its size; the caller adds the two results.

    Arguments, defaults and state-dict keys are the published ones. What differs: ``up_group`` may exceed 1 (every group
    of channels, those of the filter logits included, then has filters of its own), sizes need not be exact multiples
    (see :meth:`forward`), and half precision works.

    >>> fusion = FreqFusion(64, 32)
    >>> lowpass_filters, hr, lr = fusion(torch.rand(1, 64, 16, 24), torch.rand(1, 32, 8, 12))
    >>> lowpass_filters.shape, hr.shape, lr.shape
    (torch.Size([1, 25, 16, 24]), torch.Size([1, 64, 16, 24]), torch.Size([1, 32, 16, 24]))
    """

    kernel = TRITON

    def __init__(self, hr_channels: int, lr_channels: int, *, scale_factor: int = 1, lowpass_kernel: int = 5,
                 highpass_kernel: int = 3, up_group: int = 1, encoder_kernel: int = 3, encoder_dilation: int = 1,
                 compressed_channels: int = 64, align_corners: bool = False, upsample_mode: str = "nearest",
                 feature_resample: bool = False, feature_resample_group: int = 4, comp_feat_upsample: bool = True,
                 use_high_pass: bool = True, use_low_pass: bool = True, hr_residual: bool = True,
                 semi_conv: bool = True, hamming_window: bool = True, feature_resample_norm: bool = True,
                 direction_feat: str = "sim_concat", checkpoint: bool = False):
        """
        Args:
            hr_channels: C_h.
            lr_channels: C_l.
            scale_factor: only 1; the published code has no other that works.
            lowpass_kernel: side of the low-pass filters, odd.
            highpass_kernel: side of the high-pass filters, odd.
            up_group: G, groups of channels with low-pass and high-pass filters of their own.
            encoder_kernel: kernel size of the content encoders, odd.
            encoder_dilation: dilation of the content encoders.
            compressed_channels: D, what the filters and offsets are predicted from.
            align_corners: of the resizing under ``upsample_mode``; computes nothing where that is unused or "nearest".
            upsample_mode: how the low-resolution map is resized with ``semi_conv=False``: "nearest", "bilinear" or
                "bicubic". Computes nothing otherwise.
            feature_resample: whether the offset generator resamples the upsampled map.
            feature_resample_group: channel groups of the offset generator; computes nothing without it.
            comp_feat_upsample: with ``semi_conv``, upsample the low-resolution logits by the filters that the
                high-resolution map predicts, and sharpen h, rather than repeat the logits' pixels.
            use_high_pass: whether the high-resolution map is sharpened; without it, it is returned as it is.
            use_low_pass: computes nothing, the low-pass filters are always in use (also in the published code).
            hr_residual: whether the high-resolution map is added to its high frequencies; computes nothing without
                ``use_high_pass``.
            semi_conv: encode h and l apart and add their logits; without it, encode their sum.
            hamming_window: whether a Hamming window dampens the outer taps of the filters.
            feature_resample_norm: whether the offset generator normalises its guides.
            direction_feat: what its heads see, see `SimilarityGuidedSampler`; computes nothing without it.
            checkpoint: keep no activations for the backward pass, compute them again.

        Arguments set to another value than their default where they compute nothing give one warning.

        Raises ValueError: an argument out of its range, groups that do not divide the channels, or
        ``use_high_pass=False`` with ``semi_conv`` and ``comp_feat_upsample``, which is undefined.
        """
        super().__init__()
        check_counts(hr_channels=hr_channels, lr_channels=lr_channels, up_group=up_group,
                     compressed_channels=compressed_channels, encoder_dilation=encoder_dilation,
                     feature_resample_group=feature_resample_group)
        for name, value in (("lowpass_kernel", lowpass_kernel), ("highpass_kernel", highpass_kernel),
                            ("encoder_kernel", encoder_kernel)):
            if not isinstance(value, int) or value < 1 or value % 2 == 0:
                raise ArgumentError(name, f"must be odd and positive, got {value}")
        for name, value in (("hr_channels", hr_channels), ("lr_channels", lr_channels),
                            ("compressed_channels", compressed_channels)):
            if value % up_group:
                raise ArgumentError(name, f"must be a multiple of up_group, got up_group {up_group}, {name} {value}")
        if feature_resample and lr_channels % feature_resample_group:
            raise ArgumentError("feature_resample_group", "must divide lr_channels, got feature_resample_group "
                                f"{feature_resample_group}, lr_channels {lr_channels}")
        if scale_factor != 1:
            raise ArgumentError("scale_factor", f"must be 1, got {scale_factor}")
        check_choice(UPSAMPLE_MODES, upsample_mode=upsample_mode)
        if not use_high_pass and semi_conv and comp_feat_upsample:
            raise ArgumentError("use_high_pass", "is False, which with semi_conv=True and comp_feat_upsample=True is "
                                "undefined: switch one of the latter off, or use_high_pass on")
        without_effect = {
            "use_low_pass": not use_low_pass,
            "upsample_mode": upsample_mode != "nearest" and semi_conv,
            "align_corners": align_corners and (semi_conv or upsample_mode == "nearest"),
            "hr_residual": not hr_residual and not use_high_pass,
            "feature_resample_group": feature_resample_group != 4 and not feature_resample,
            "direction_feat": direction_feat != "sim_concat" and not feature_resample,
        }
        if any(without_effect.values()):
            names = ", ".join(name for name, idle in without_effect.items() if idle)
            warnings.warn(f"FreqFusion: {names} set, but without effect beside the other arguments", stacklevel=2)

        self.hr_channels = hr_channels
        self.lr_channels = lr_channels
        self.lowpass_kernel = lowpass_kernel
        self.highpass_kernel = highpass_kernel
        self.up_group = up_group
        self.align_corners = align_corners
        self.upsample_mode = upsample_mode
        self.comp_feat_upsample = comp_feat_upsample
        self.use_high_pass = use_high_pass
        self.hr_residual = hr_residual
        self.semi_conv = semi_conv
        self.hamming_window = hamming_window
        self.checkpoint = checkpoint

        def content_encoder(filter_size: int) -> nn.Conv2d:
            return nn.Conv2d(compressed_channels, up_group * filter_size**2, encoder_kernel,
                             padding=encoder_dilation * (encoder_kernel // 2), dilation=encoder_dilation)

        self.hr_channel_compressor = nn.Conv2d(hr_channels, compressed_channels, kernel_size=1)
        self.lr_channel_compressor = nn.Conv2d(lr_channels, compressed_channels, kernel_size=1)
        self.content_encoder = content_encoder(lowpass_kernel)
        self.content_encoder2 = content_encoder(highpass_kernel) if use_high_pass else None
        self.dysampler = SimilarityGuidedSampler(
            compressed_channels, groups=feature_resample_group, norm=feature_resample_norm,
            direction_feat=direction_feat,
        ) if feature_resample else None
        self.register_buffer("hamming_lowpass", tap_window(lowpass_kernel, hamming_window))
        self.register_buffer("hamming_highpass", tap_window(highpass_kernel, hamming_window))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform weights, N(0, 0.001) for the content encoders, no bias.

        The sampler starts with Xavier weights as well: its offsets are not near zero, and so the published results
        were trained.
        """
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        nn.init.normal_(self.content_encoder.weight, std=0.001)
        if self.use_high_pass:
            nn.init.normal_(self.content_encoder2.weight, std=0.001)
        self.hamming_lowpass.copy_(tap_window(self.lowpass_kernel, self.hamming_window))
        self.hamming_highpass.copy_(tap_window(self.highpass_kernel, self.hamming_window))

    def forward(self, hr_feat: Tensor, lr_feat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """
        Where Y = 2·H + 1 the last row of ``lr_feat`` is repeated once before anything else, where Y = 2·H − 1 the last
        row of what is upsampled is cut off; likewise for columns.

        Args:
            hr_feat: (B, C_h, Y, X), 2·H − 1 ≤ Y ≤ 2·H + 1 and 2·W − 1 ≤ X ≤ 2·W + 1.
            lr_feat: (B, C_l, H, W).
        Returns the low-pass filters (B, G·k², Y, X), each of which sums to one, the sharpened ``hr_feat`` (B, C_h, Y,
        X) and the upsampled ``lr_feat`` (B, C_l, Y, X), both of their inputs' types.

        Raises ValueError: maps whose ranks, channels, batches or sizes do not fit.
        """
        if (node := kept_whole(self, hr_feat, lr_feat)) is not None:
            return node
        self._check_maps(hr_feat, lr_feat)
        if hr_feat.shape[0] == 0:
            return self._fuse_nothing(hr_feat, lr_feat)
        if self.checkpoint and torch.is_grad_enabled() and not is_recorded():
            return torch.utils.checkpoint.checkpoint(self._fuse, hr_feat, lr_feat, use_reentrant=False)
        return self._fuse(hr_feat, lr_feat)

    def _check_maps(self, hr: Tensor, lr: Tensor) -> None:
        for name, feat, channels in (("hr_feat", hr, self.hr_channels), ("lr_feat", lr, self.lr_channels)):
            if feat.dim() != 4:
                raise ValueError(f"{name} must have 4 dimensions (B, C, H, W), got {feat.dim()}: {tuple(feat.shape)}")
            if feat.shape[1] != channels:
                raise ValueError(f"{name} must have {channels} channels, got {feat.shape[1]}")
            check_type(name, feat, self)
        if hr.shape[0] != lr.shape[0]:
            raise ValueError(f"hr_feat and lr_feat must be of one batch size, got {hr.shape[0]} and {lr.shape[0]}")
        for fine, coarse in zip(hr.shape[2:], lr.shape[2:]):
            if fine < 1 or coarse < 1 or abs(fine - 2 * coarse) > 1:
                raise ValueError(f"hr_feat must be twice the size of lr_feat, give or take one pixel, got "
                                 f"{tuple(hr.shape[2:])} and {tuple(lr.shape[2:])} (height, width)")

    def _fuse_nothing(self, hr: Tensor, lr: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The results of an empty batch; torch's pixel shuffle has no gradient for one."""
        size = hr.shape[2:]
        filters = with_zero_gradients(hr.new_empty(0, self.up_group * self.lowpass_kernel**2, *size), self)
        return filters, hr, with_zero_gradients(lr.sum() + lr.new_empty(0, self.lr_channels, *size), self)

    def _fuse(self, hr: Tensor, lr: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        lr = extend(lr, hr.shape[2:])
        if not is_exported():       # a graph would be tied to how the maps lie in memory
            # A pixel's channels side by side in memory are what filters, similarities and samples read.
            hr, lr = (feat.contiguous(memory_format=torch.channels_last) for feat in (hr, lr))
        h, l = self.hr_channel_compressor(hr), self.lr_channel_compressor(lr)
        h, lowpass_logits, highpass_logits = self._initial_fusion(h, l)

        # Adaptive low-pass filter generator
        lowpass = make_filters(lowpass_logits, self.hamming_lowpass, self.up_group)
        if self.semi_conv:
            lr_out = self._upsample(lr, lowpass)
        else:
            resized = resize_twofold(lr, hr.shape[2:], self.upsample_mode, self.align_corners)
            lr_out = carafe(resized, lowpass, self.lowpass_kernel, self.up_group, up=1, operators=self.operators)
        lr_out = lr_out.to(lr.dtype)

        # Offset generator
        if self.dysampler is not None:
            lr_out = self.dysampler(h, l, lr_out)

        # Adaptive high-pass filter generator
        if self.use_high_pass:
            smooth = self._smooth(hr, highpass_logits)
            hr = add_high_frequencies(hr, smooth) if self.hr_residual else hr - smooth
        return lowpass, hr, lr_out

    def _initial_fusion(self, h: Tensor, l: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """h, with its high frequencies added where all parts are on, and the logits of both kinds of filters at h's
        size: low-pass (B, G·k², Y, X) and high-pass, which are of no channels without ``use_high_pass``."""
        if not self.semi_conv:
            return h, *self._split(self._encode(h + resize_twofold(l, h.shape[2:])))
        if not self.comp_feat_upsample:
            return h, *self._split(self._encode(h) + resize_twofold(self._encode(l), h.shape[2:]))
        low_of_l, high_of_l = self._split(self._encode(l))
        high_of_h = self.content_encoder2(h)
        h = add_high_frequencies(h, self._smooth(h, high_of_h))
        low_of_h = self.content_encoder(h)
        low = low_of_h + self._upsample(low_of_l, make_filters(low_of_h, self.hamming_lowpass, self.up_group))
        high = high_of_h + self._upsample(high_of_l, make_filters(low, self.hamming_lowpass, self.up_group))
        return h, low, high

    def _encode(self, x: Tensor) -> Tensor:
        """The logits of the low-pass filters, then those of the high-pass filters."""
        if self.content_encoder2 is None:
            return self.content_encoder(x)
        return joint_conv(x, self.content_encoder, self.content_encoder2)

    def _split(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        return logits.tensor_split((self.up_group * self.lowpass_kernel**2,), dim=1)

    def _smooth(self, x: Tensor, logits: Tensor) -> Tensor:
        """R(x, N(logits), 1), what the high-pass filter takes away."""
        filters = make_filters(logits, self.hamming_highpass, self.up_group)
        return carafe(x, filters, self.highpass_kernel, self.up_group, up=1, operators=self.operators).to(x.dtype)

    def _upsample(self, x: Tensor, filters: Tensor) -> Tensor:
        """R(x, filters, 2) at the filters' size; where that is odd, the one row or column too many is cut off."""
        height, width = filters.shape[2:]
        if height % 2 or width % 2:
            filters = F.pad(filters, (0, width % 2, 0, height % 2))
        result = carafe(x, filters, self.lowpass_kernel, self.up_group, up=2, operators=self.operators)
        return result[..., :height, :width]


class FreqFusionSum(FreqFusion):
    """A drop-in for ``hr + upsample(lr)``; arguments and state-dict keys are FreqFusion's, C_h and C_l must be equal.

    >>> fuse = FreqFusionSum(64, 64)
    >>> fuse(torch.rand(1, 64, 16, 24), torch.rand(1, 64, 8, 12)).shape
    torch.Size([1, 64, 16, 24])
    """

    def forward(self, hr_feat: Tensor, lr_feat: Tensor) -> Tensor:
        """(B, C_h, Y, X) and (B, C_l, H, W) -> (B, C_h, Y, X): the sharpened map plus the upsampled one.

        Sizes and errors as in :meth:`FreqFusion.forward`.
        """
        if (node := kept_whole(self, hr_feat, lr_feat)) is not None:
            return node
        _, hr, lr = super().forward(hr_feat, lr_feat)
        return hr + lr


def tap_window(size: int, hamming: bool) -> Tensor:
    """A (1, 1, size, size) Hamming window, or [1.0], the published stand-in for none."""
    if not hamming:
        return torch.ones(1)
    line = torch.hamming_window(size, periodic=False)
    return torch.outer(line, line)[None, None]


def make_filters(logits: Tensor, window: Tensor, groups: int) -> Tensor:
    """N(logits): softmax over each group's taps, times the window, made to sum to one again.

    Args:
        logits: (B, G·k², H, W).
        window: (1, 1, k, k), or one element for none.
        groups: G.
    Returns (B, G·k², H, W), channels last in memory.
    """
    filters = logits.permute(0, 2, 3, 1).unflatten(-1, (groups, -1)).softmax(dim=-1)
    if window.numel() > 1:
        filters = filters * window.flatten()
        filters = filters / filters.sum(dim=-1, keepdim=True)
    return filters.flatten(-2).permute(0, 3, 1, 2)


def add_high_frequencies(x: Tensor, smooth: Tensor) -> Tensor:
    """x + (x − smooth), in one pass."""
    return torch.lerp(smooth, x, 2.0)


def extend(lr: Tensor, size: tuple[int, int]) -> Tensor:
    """Repeats the last row and the last column where twice the map falls one short of the size."""
    rows, columns = (max(fine - 2 * coarse, 0) for fine, coarse in zip(size, lr.shape[2:]))
    return F.pad(lr, (0, columns, 0, rows), mode="replicate") if rows or columns else lr


def resize_twofold(x: Tensor, size: tuple[int, int], mode: str = "nearest", align_corners: bool = False) -> Tensor:
    """Twice the map, less the last row or column where the size is odd."""
    resized = F.interpolate(x, scale_factor=2, mode=mode, align_corners=None if mode == "nearest" else align_corners)
    return resized[..., :size[0], :size[1]]

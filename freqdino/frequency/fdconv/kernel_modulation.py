"""Kernel Spatial Modulation: factors for a convolution's weight, predicted from each image's mean feature vector.

Source: Frequency Dynamic Convolution for Dense Image Prediction (FDConv, CVPR 2025, arXiv 2503.18783), section
"Kernel Spatial Modulation": a global branch (one factor a channel, a filter, a kernel position, a group of Fourier
coefficients) and a local branch (one factor an element of the weight).

Shape key: B: batch, Ci, Co: input and output channels, k² = kh·kw: kernel positions, n: groups of coefficients,
G: groups of the convolution.
"""
import copy
import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqdino.errors import ArgumentError
from freqdino.frequency.argument_checks import check_choice
from freqdino.frequency.fdconv.fourier_weight import at_least_float32
from freqdino.frequency.star_relu import StarReLU
from freqdino.ops.modules import ready_to_flatten

# Standard deviation of the weights of a head that starts neutral: not zero, so that gradients pass it from the first
# step. The published 1e-6 is too much for a network whose features are large, such as a deep one whose normalisations
# are frozen and not yet loaded: their mean enters squared (StarReLU).
NEAR_ZERO = 1e-20
SMALLEST_HIDDEN_WIDTH = 16


def slope(act: str, temp: float = 1.0) -> float:
    """What z is multiplied with before the sigmoid, or softmax, that makes a gate of it: 1 + tanh(z) is 2σ(2z)."""
    return (2 if act == "tanh" else 1) / temp


class KernelFactors(NamedTuple):
    """Factors of each image's weight: channel (B, Ci), filter (B, Co) or None, spatial (B, k²) or None."""
    channel: Tensor
    filter: Tensor | None
    spatial: Tensor | None


class NeutralHead(nn.Module):
    """A convolution whose weight starts near zero and whose bias, where it has one, is constant.

    Not an nn.Conv2d: loops that initialise or convert all convolutions of a network mean its layers, and would make a
    neutral modulation a random one.
    """

    def __init__(self, in_channels: int, out_channels: int, *kernel_size: int, groups: int = 1,
                 bias: float | None = 0.0):
        super().__init__()
        self.out_channels, self.kernel_size, self.groups, self.neutral_bias = out_channels, kernel_size, groups, bias
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *kernel_size))
        self.bias = None if bias is None else nn.Parameter(torch.empty(out_channels))
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.normal_(self.weight, std=NEAR_ZERO)
        if self.bias is not None:
            nn.init.constant_(self.bias, self.neutral_bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        return F.conv2d(x, self.weight, self.bias, padding=[size // 2 for size in self.kernel_size], groups=self.groups)


def make_neutral(module: nn.Module):
    """Reset all heads in the module, so that all factors are what leaves the weight or the map as it is."""
    for head in module.modules():
        if isinstance(head, NeutralHead):
            head.reset_parameters()


def add_neutral(parts: Mapping[str, nn.Module], state_dict: dict[str, Tensor], prefix: str) -> list[str]:
    """Add the entries of ``parts``, by their names, with all heads reset, unless some are there: their names.

    The parts themselves stay as they are: they change only when the entries are loaded.
    """
    if any(key.startswith(tuple(f"{prefix}{name}." for name in parts)) for key in state_dict):
        return []
    neutral = {}
    for name, part in parts.items():
        part = copy.deepcopy(part)
        make_neutral(part)
        neutral.update(part.state_dict(prefix=f"{prefix}{name}."))
    state_dict.update(neutral)
    return list(neutral)


def normalised(x: Tensor, norm: nn.Module) -> Tensor:
    """Batch normalisation of (B, C, H, W). One pixel, as one image has when it is pooled, has no statistics over the
    batch, so the running ones serve it.

    They stay as they were then, in training too, where torch's own layer raises an error. A SyncBatchNorm has those of
    the other processes.
    """
    if not norm.training or x.numel() != x.shape[1] or not isinstance(norm, nn.modules.batchnorm._BatchNorm):
        return norm(x)
    if isinstance(norm, nn.SyncBatchNorm) and torch.distributed.is_available() and torch.distributed.is_initialized() \
            and torch.distributed.get_world_size(norm.process_group) > 1:
        return norm(x)
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)


class KernelAttention(nn.Module):
    """Pooled features (B, Ci, 1, 1) -> logits (B, sum of counts) of up to four heads at once, one count a head.

    The heads are those of channels, filters, positions and kernels (ODConv, arXiv 2209.07947; FDConv's global branch
    has groups of coefficients in place of kernels); a count of 0 leaves one out. ``relu`` and ``head(width, count,
    name)``, which makes a head of weight (count, width, 1, 1) and bias, are the caller's. ``reduction``: hidden width
    over Ci, at least 16. A single image in training uses the running statistics of the BatchNorm.
    """

    HEADS = "channel_fc", "filter_fc", "spatial_fc", "kernel_fc"

    def __init__(self, in_channels: int, counts: tuple[int, int, int, int], *, reduction: float, relu: nn.Module,
                 head: Callable[[int, int, str], nn.Module]):
        super().__init__()
        hidden = max(int(in_channels * reduction), SMALLEST_HIDDEN_WIDTH)
        self.fc = nn.Conv2d(in_channels, hidden, 1, bias=False)
        self.bn = nn.BatchNorm2d(hidden)
        self.relu = relu
        for name, count in zip(self.HEADS, counts):
            setattr(self, name, head(hidden, count, name) if count else None)
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.kaiming_normal_(self.fc.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, pooled: Tensor) -> Tensor:
        hidden = self.relu(normalised(self.fc(pooled), self.bn))
        heads = self.heads()
        weight, bias = torch.cat([head.weight for head in heads]), torch.cat([head.bias for head in heads])
        return F.conv2d(hidden, weight, bias).flatten(1)

    def heads(self) -> list[nn.Module]:
        heads = [getattr(self, name) for name in self.HEADS]
        return [head for head in heads if head is not None]

    def counts(self) -> tuple[int, int, int, int]:
        """How many factors of channels, filters, positions and kernels there are."""
        heads = [getattr(self, name) for name in self.HEADS]
        return tuple(0 if head is None else head.out_channels for head in heads)


class KSMGlobal(KernelAttention):
    """Pooled features (B, Ci, 1, 1) -> logits (B, Ci [+ Co] [+ k²] + n), for all four heads at once.

    ``act`` makes factors of channels, filters and positions of a head's z: sigmoid: att_multi·σ(z/temp); tanh:
    1 + tanh(z/temp) = 2σ(2z/temp). ``kernel_act`` makes those of the n groups, whose neutral value is 1/n: sigmoid:
    2σ(z/kernel_temp)/n; tanh: (1 + tanh(z/kernel_temp))/n; softmax over the groups. The logits are what σ and softmax
    are taken of. All four heads start neutral, where the published code leaves the filter's at random: a pretrained
    convolution so keeps its function. A depth-wise convolution has no filter factor (it would be its channel's again),
    a 1 × 1 kernel no spatial one.
    """

    def __init__(self, in_channels: int, out_channels: int, *, positions: int, kernel_num: int, depthwise: bool,
                 reduction: float, temp: float, kernel_temp: float, att_multi: float, act: str, kernel_act: str):
        check_choice(("sigmoid", "tanh"), ksm_global_act=act)
        check_choice(("sigmoid", "tanh", "softmax"), ksm_kernel_act=kernel_act)
        for name, value, least in (("reduction", reduction, 0), ("kernel_temp", kernel_temp, 0), ("temp", temp, 0),
                                   ("att_multi", att_multi, 1)):
            if not isinstance(value, Real) or not value > least:
                raise ArgumentError(name, f"must be greater than {least}, got {value!r}")
        # The logit at which att_multi·σ is 1: zero for the default of 2.
        neutral = temp * math.log(1 / (att_multi - 1)) if act == "sigmoid" else 0.0
        super().__init__(
            in_channels, (in_channels, 0 if depthwise else out_channels, positions if positions > 1 else 0, kernel_num),
            reduction=reduction, relu=StarReLU(), head=lambda width, count, name: NeutralHead(
                width, count, 1, 1, bias=0.0 if name == "kernel_fc" else neutral))
        self.slopes = slope(act, temp), slope(kernel_act, kernel_temp)
        self.softmax, self.multiple = kernel_act == "softmax", att_multi if act == "sigmoid" else 2.0

    def forward(self, pooled: Tensor) -> Tensor:
        logits = super().forward(pooled)
        if self.slopes == (1, 1):
            return logits
        groups = self.kernel_fc.out_channels
        return torch.cat((self.slopes[0] * logits[:, :-groups], self.slopes[1] * logits[:, -groups:]), 1)

    def factors(self, logits: Tensor) -> KernelFactors:
        parts = (self.multiple * logits[:, :-self.kernel_fc.out_channels].sigmoid()).split(self.counts()[:3], 1)
        return KernelFactors(*(ready_to_flatten(part) if part.shape[1] else None for part in parts))

    def gains(self, logits: Tensor, scale: float) -> Tensor:
        """The factors of the n groups (B, n), times ``scale``."""
        logits = logits[:, -self.kernel_fc.out_channels:]
        return scale * self.group_scale() * (logits.softmax(1) if self.softmax else logits.sigmoid())

    def group_scale(self) -> float:
        """The factor of a group over its σ or softmax."""
        return 1.0 if self.softmax else 2 / self.kernel_fc.out_channels


class KSMLocal(nn.Module):
    """Pooled features (B, Ci) -> half the factor of each element of the weight, as σ(U V) with U and V of low rank.

    A one-dimensional convolution of ``width`` taps runs along the (layer-normalised) channels; its Co·k² outputs at
    channel i are the logits of the weight's elements that read channel i. The width grows with log2(Ci), as in ECA-Net.
    With G groups an output reads, as in the weight, the channels of its own group only. Laid out as the weight matrix
    (rows (o, ky), columns (i, kx)) the logits are the product of U, the convolution's weights, and V, its windows, once
    for each kx. ``act``: sigmoid, a factor of 2σ(z), or tanh, 1 + tanh(z) = 2σ(2z).
    """

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: tuple[int, int], groups: int, act: str):
        super().__init__()
        check_choice(("sigmoid", "tanh"), ksm_local_act=act)
        self.slope, self.groups, self.kernel_size = slope(act), groups, kernel_size
        width = round(math.log2(in_channels) / 2 + 0.5) // 2 * 2 + 1
        self.norm = nn.LayerNorm(in_channels)
        self.conv = NeutralHead(1, out_channels * math.prod(kernel_size), width, bias=None)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """U (B, G, R/G, kw·width) and V (B, G, kw·width, K), in float32 at least. R = Co·kh, K = (Ci/G)·kw."""
        dtype = at_least_float32(pooled)
        taps, (_, kernel_width) = self.conv.kernel_size[0], self.kernel_size
        windows = F.pad(self.norm(pooled), (taps // 2, taps // 2)).unfold(1, taps, 1).to(dtype)  # (B, Ci, width)
        windows = windows.unflatten(1, (self.groups, -1)).transpose(2, 3)
        # Row (kx', tap), column (i, kx): the window of i where kx' = kx, else 0.
        same_position = torch.eye(kernel_width, dtype=dtype, device=windows.device)[:, None, None, :]
        right = (windows[:, :, None, :, :, None] * same_position).flatten(4, 5).flatten(2, 3)
        left = self.conv.weight.to(dtype).view(self.groups, -1, kernel_width * taps)
        if self.slope != 1:
            left = self.slope * left
        return left.expand(pooled.shape[0], -1, -1, -1), right

    def logits(self, pooled: Tensor) -> Tensor:
        """The logits of all elements (B, Co·kh·kw, Ci), in float32 at least, where G is 1."""
        dtype, taps = at_least_float32(pooled), self.conv.weight
        taps = taps.to(dtype) if self.slope == 1 else self.slope * taps.to(dtype)
        return F.conv1d(self.norm(pooled)[:, None].to(dtype), taps, padding=taps.shape[2] // 2)

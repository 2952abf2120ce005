"""Frequency Band Modulation: a feature map split into frequency bands, each weighted pixel by pixel.

Source: Frequency Dynamic Convolution for Dense Image Prediction (FDConv, CVPR 2025, arXiv 2503.18783), section
"Frequency Band Modulation".

Shape key: B: batch, C: channels, H, W: map size, G: spatial groups, n: number of cut-offs.
"""
from collections.abc import Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from freqdino.errors import ArgumentError
from freqdino.frequency.argument_checks import check_choice, check_counts
from freqdino.frequency.fdconv.fourier_weight import at_least_float32
from freqdino.frequency.fdconv.kernel_modulation import NeutralHead, slope
from freqdino.frequency.fdconv.low_pass import (
    Box,
    add_low_passes,
    low_pass_box,
    low_passes,
    low_passes_at_once,
    low_passes_by_products,
    pass_bands,
)
from freqdino.ops.autocast import without_autocast
from freqdino.ops.blocking import by_pieces, place_bytes
from freqdino.ops.modules import is_exported, is_recorded


class FrequencyBandModulation(nn.Module):
    """(B, C, H, W) -> the same shape: the sum of x's frequency bands, each times a map that is predicted from x.

    The low-pass copies L_i of x at the cut-offs 0.5/k of ``k_list`` (L_0 = x) give the bands L_i − L_{i+1} and the
    rest L_n. Band i is multiplied by a map that conv_i predicts from x, one for each of G = ``spatial_group`` channel
    groups; the rest too if ``lowfreq_att``. ``act``: sigmoid (2σ) or tanh (1 + tanh). Starts as the identity.
    """

    def __init__(self, in_channels: int, *, k_list: Sequence[int] = (2, 4, 8), lowfreq_att: bool = False,
                 act: str = "sigmoid", spatial_group: int = 1, spatial_kernel: int = 3):
        super().__init__()
        check_choice(("sigmoid", "tanh"), **{"fbm_cfg's act": act})
        if not isinstance(k_list, Sequence) or not k_list or min(k_list) < 1:
            raise ArgumentError("fbm_cfg's k_list", f"must hold numbers of at least 1, got {k_list!r}")
        check_counts(**{"fbm_cfg's spatial_group": spatial_group, "fbm_cfg's spatial_kernel": spatial_kernel})
        if in_channels % spatial_group:
            raise ArgumentError("fbm_cfg's spatial_group",
                                f"must divide the {in_channels} channels, got {spatial_group}")
        if spatial_kernel % 2 == 0:
            raise ArgumentError("fbm_cfg's spatial_kernel", f"must be odd and positive, got {spatial_kernel}")
        self.k_list, self.act, self.spatial_group = tuple(k_list), act, spatial_group
        self.freq_weight_conv_list = nn.ModuleList(
            NeutralHead(in_channels, spatial_group, spatial_kernel, spatial_kernel, groups=spatial_group)
            for _ in range(len(k_list) + lowfreq_att))

    def forward(self, x: Tensor) -> Tensor:
        by_group = x.unflatten(1, (self.spatial_group, -1))
        if is_exported():
            precise = by_group.to(at_least_float32(x))
            with without_autocast(x):
                lows = low_passes_by_products(precise, self.k_list)
            changes = changes_of(self.band_maps(self.convolved(x)))
            return sum_of_products((precise, *lows), changes).flatten(1, 2).to(x.dtype)
        if torch.compiler.is_dynamo_compiling():
            masks = pass_bands(x.detach(), *x.shape[-2:], self.k_list)
            precise = by_group.to(at_least_float32(x))
            changes = changes_of(self.band_maps(self.multiplied(x)))
            return weighted_sum_reference(precise, masks, changes).flatten(1, 2).to(x.dtype)
        height, width = map(int, x.shape[-2:])      # torch.jit.trace has tensors there
        boxes = [low_pass_box(height, width, k) for k in self.k_list]
        if x.device.type != "cpu" and not is_recorded():
            maps = self.gates(self.convolved(x))
            bands = by_pieces(lambda part: WeightedBands.apply(part, maps, boxes), [by_group], 2,
                              place_bytes(by_group, 2) * (len(boxes) + 1))
            return bands.flatten(1, 2)
        changes, precise = changes_of(self.band_maps(self.multiplied(x))), by_group.to(at_least_float32(x))
        bands = by_pieces(lambda part: weighted_sum(part, boxes, changes), [precise], 2, place_bytes(precise, 2))
        return bands.flatten(1, 2).to(x.dtype)

    def band_maps(self, logits: Tensor) -> list[Tensor]:
        """One map (B, G, 1, H, W) a band, coarsest last, of the logits (B, G, bands, H, W)."""
        maps = list(self.gates(logits).unsqueeze(3).unbind(2))
        return maps if len(maps) > len(self.k_list) else [*maps, torch.ones_like(maps[0])]

    def gates(self, logits: Tensor) -> Tensor:
        return 2 * (logits if self.act == "sigmoid" else slope(self.act) * logits).sigmoid()

    def convolved(self, x: Tensor) -> Tensor:
        """The logits of the bands' maps (B, G, bands, H, W), coarsest last, by one convolution."""
        convs = self.freq_weight_conv_list
        weight = torch.stack([conv.weight for conv in convs], 1).flatten(0, 1)
        bias = torch.stack([conv.bias for conv in convs], 1).flatten()
        logits = F.conv2d(x, weight, bias, padding=convs[0].kernel_size[0] // 2, groups=self.spatial_group)
        return logits.unflatten(1, (self.spatial_group, -1))

    def multiplied(self, x: Tensor) -> Tensor:
        """The same logits by a product with all taps at once and a sum of the shifted results (``fold``, hence flip).

        For few output channels that takes a CPU a third of a convolution's time.
        """
        convs = self.freq_weight_conv_list
        size = convs[0].kernel_size[0]
        # (bands·G, C/G, k, k) -> (G, bands·k², C/G)
        taps = torch.stack([conv.weight for conv in convs], 1).flip(3, 4).permute(0, 1, 3, 4, 2).flatten(1, 3)
        responses = taps @ x.unflatten(1, (self.spatial_group, -1)).flatten(3)
        logits = F.fold(responses.flatten(1, 2), x.shape[-2:], size, padding=size // 2)
        bias = torch.stack([conv.bias for conv in convs], 1)[:, :, None, None]
        return logits.unflatten(1, (self.spatial_group, -1)) + bias.to(logits.dtype)


def changes_of(maps: Sequence[Tensor]) -> list[Tensor]:
    """Of the bands' maps what each low-pass copy is multiplied with: Σ_i (L_i − L_{i+1})·m_i = Σ_i L_i·(m_i − m_{i−1}),
    where m_{−1} is 0, so that no band is ever formed."""
    return [maps[0]] + [inner - outer for outer, inner in zip(maps, maps[1:])]


def weighted_sum(x: Tensor, boxes: Sequence[Box], weights: Sequence[Tensor]) -> Tensor:
    """x·weights[0] + Σ_i (x's frequencies in boxes[i])·weights[i + 1]. x: (B, G, channels, H, W)."""
    total = x * weights[0]
    for low, weight in zip(low_passes(x, boxes), weights[1:]):
        total.addcmul_(low, weight)
    return total


def weighted_sum_reference(x: Tensor, masks: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """The definition of ``weighted_sum``, with the boxes as masks."""
    spectrum = torch.fft.rfft2(x)
    return sum_of_products((x, *(torch.fft.irfft2(spectrum * mask, s=x.shape[-2:]) for mask in masks)), weights)


def sum_of_products(maps: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    return reduce(torch.add, map(torch.mul, maps, weights))


class WeightedBands(Function):
    """The sum of x's bands, each times its map, in few operators, as suits a GPU.

    x: (B, G, channels, H, W), maps: (B, G, n or n + 1, H, W); without the last the lowest frequencies stay as they are.
    Returns x's shape and type; computed in float32 at least.
    """

    @staticmethod
    def forward(ctx, x: Tensor, maps: Tensor, boxes: Sequence[Box]) -> Tensor:
        by_band = maps.movedim(2, 0).unsqueeze(3)       # (n or n + 1, B, G, 1, H, W)
        lows = x.new_empty(len(boxes) + 1, *x.shape, dtype=at_least_float32(x))
        lows[0].copy_(x)
        low_passes_at_once(lows[1:].flatten(1, 3), lows[0].flatten(0, 2), boxes)
        first, changes = by_band[0], lows.new_empty(len(boxes), *by_band.shape[1:])
        torch.sub(by_band[1:], by_band[:-1], out=changes[:len(by_band) - 1])
        if len(by_band) == len(changes):
            torch.sub(1, by_band[-1], out=changes[-1])
        ctx.save_for_backward(lows, first, changes)
        ctx.boxes, ctx.x_type, ctx.map_count = boxes, x.dtype, len(by_band)
        total = lows[0] * first
        for low, change in zip(lows[1:-1], changes[:-1]):
            total.addcmul_(low, change)
        return torch.addcmul(total, lows[-1], changes[-1], out=x.new_empty(x.shape))

    @staticmethod
    @once_differentiable
    def backward(ctx, y_grad: Tensor) -> tuple[Tensor | None, Tensor, None]:
        lows, first, changes = ctx.saved_tensors
        shares = (lows * y_grad).sum(3)                 # (n + 1, B, G, H, W)
        maps_grad = shares.new_empty(ctx.map_count, *shares.shape[1:], dtype=first.dtype)
        torch.sub(shares[:-1], shares[1:], out=maps_grad[:len(ctx.boxes)])
        maps_grad[len(ctx.boxes):] = shares[-1]         # of a map of the lowest frequencies
        maps_grad = maps_grad.movedim(0, 2)
        if not ctx.needs_input_grad[0]:
            return None, maps_grad, None
        x_grad = (y_grad * first).to(lows.dtype)
        add_low_passes(x_grad.flatten(0, 2), (y_grad * changes).flatten(1, 3), ctx.boxes)
        return x_grad.to(ctx.x_type), maps_grad, None

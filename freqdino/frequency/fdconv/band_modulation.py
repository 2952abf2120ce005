"""Frequency Band Modulation: a feature map split into frequency bands, each weighted pixel by pixel.

Source: Frequency Dynamic Convolution for Dense Image Prediction (FDConv, CVPR 2025, arXiv 2503.18783), section
"Frequency Band Modulation".

Shape key: B: batch, C: channels, H, W: map size, G: spatial groups, n: number of cut-offs.
"""
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqdino.errors import ArgumentError
from freqdino.frequency.argument_checks import check_choice, check_counts
from freqdino.frequency.fdconv.fourier_weight import at_least_float32
from freqdino.frequency.fdconv.kernel_modulation import NeutralHead, gate
from freqdino.ops.blocking import by_pieces, place_bytes

GRID = 64  # the published masks are drawn on a 64 × 64 map and resized


class Box(NamedTuple):
    """What a low-pass keeps of rfft2's coefficients: the ``top`` first and ``bottom`` last rows, ``left`` columns."""
    top: int
    bottom: int
    left: int


@lru_cache(maxsize=1024)
def low_pass_box(height: int, width: int, k: int) -> Box:
    """The box of frequencies up to 0.5/k on a height × width map.

    As in the published code the mask max(|fy|, |fx|) < 0.5/k + 1e-8 is drawn on a 64 × 64 map and resized to
    (height, width//2 + 1) by nearest neighbour, so that the rows kept may be a few more on the positive side.
    """
    def keep(count: int, size: int, rfft: bool) -> list[bool]:
        """The mask of ``count`` frequencies at ``size`` positions, in the published code's float32."""
        step, cut_off = float32(count / size), float32(0.5 / k + 1e-8)
        positions = (min(int(float32(position * step)), count - 1) for position in range(size))
        return [(place if rfft or 2 * place < GRID else GRID - place) / GRID < cut_off for place in positions]

    rows, columns = keep(GRID, height, False), keep(GRID // 2 + 1, width // 2 + 1, True)
    top = rows.index(False) if False in rows else height
    return Box(top, sum(rows) - top, sum(columns))


def float32(number: float) -> float:
    """Rounded to float32 (Veltkamp's splitting: the upper 24 of 53 bits)."""
    shifted = number * (2.0**29 + 1)
    return shifted - (shifted - number)


@torch.library.custom_op("freqdino::pass_bands", mutates_args=(),
                         schema="(Tensor x, SymInt height, SymInt width, int[] k_list) -> Tensor")
def pass_bands(x: Tensor, height: int, width: int, k_list: Sequence[int]) -> Tensor:
    """The boxes as masks, bool (n, height, width // 2 + 1) on x's device, for torch.compile.

    An operator that it does not look into: sizes that it keeps open are no numbers, and it simplifies ``float32`` away.
    """
    masks = torch.zeros(len(k_list), height, width // 2 + 1, dtype=torch.bool)
    for mask, k in zip(masks, k_list):
        box = low_pass_box(height, width, k)
        mask[:box.top, :box.left] = mask[height - box.bottom:, :box.left] = True
    return masks.to(x.device)


@pass_bands.register_fake
def _(x, height, width, k_list):
    return x.new_empty(len(k_list), height, width // 2 + 1, dtype=torch.bool)


def low_pass(spectrum: Tensor, width: int, box: Box) -> Tensor:
    """The map (…, H, width) that has those coefficients of a spectrum (…, H, ≥ left) which lie in the box."""
    height = spectrum.shape[-2]
    spectrum = spectrum[..., :box.left]
    if box.top < height:
        stop_band = spectrum.new_zeros(*spectrum.shape[:-2], height - box.top - box.bottom, box.left)
        spectrum = torch.cat((spectrum[..., :box.top, :], stop_band, spectrum[..., height - box.bottom:, :]), dim=-2)
    return torch.fft.irfft(torch.fft.ifft(spectrum, dim=-2), n=width)


class FrequencyBandModulation(nn.Module):
    """(B, C, H, W) -> the same shape: the sum of x's frequency bands, each times a map that is predicted from x.

    The low-pass copies L_i of x at the cut-offs 0.5/k of ``k_list`` (L_0 = x) give the bands L_i − L_{i+1} and the
    rest L_n. Band i is multiplied by gate(conv_i(x)), one map for each of G = ``spatial_group`` channel groups; the
    rest too if ``lowfreq_att``. ``act``: sigmoid (2σ) or tanh (1 + tanh). Starts as the identity.
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
        # Σ_i (L_i − L_{i+1})·m_i = L_0·m_0 + Σ_i L_i·(m_i − m_{i−1}): no band is ever formed.
        maps = self.band_maps(x)
        changes = [maps[0]] + [inner - outer for outer, inner in zip(maps, maps[1:])]
        precise = x.to(at_least_float32(x)).unflatten(1, (self.spatial_group, -1))
        if torch.compiler.is_dynamo_compiling():
            masks = pass_bands(x.detach(), *x.shape[-2:], self.k_list)
            return weighted_sum_reference(precise, masks, changes).flatten(1, 2).to(x.dtype)
        height, width = map(int, x.shape[-2:])      # torch.jit.trace has tensors there
        boxes = [low_pass_box(height, width, k) for k in self.k_list]
        bands = by_pieces(lambda part: weighted_sum(part, boxes, changes), [precise], 2, place_bytes(precise, 2))
        return bands.flatten(1, 2).to(x.dtype)

    def band_maps(self, x: Tensor) -> list[Tensor]:
        """One map (B, G, 1, H, W) a band, coarsest last.

        The convolutions give few channels, for which a product with all taps at once and a sum of the shifted results
        (``fold``, hence the flip) takes a third of the time of a convolution.
        """
        convs = self.freq_weight_conv_list
        size = convs[0].kernel_size[0]
        # (bands·G, C/G, k, k) -> (G, bands·k², C/G)
        taps = torch.stack([conv.weight for conv in convs], 1).flip(3, 4).permute(0, 1, 3, 4, 2).flatten(1, 3)
        responses = taps @ x.unflatten(1, (self.spatial_group, -1)).flatten(3)
        logits = F.fold(responses.flatten(1, 2), x.shape[-2:], size, padding=size // 2)
        logits = logits.unflatten(1, (self.spatial_group, 1, -1)) + torch.stack(
            [conv.bias for conv in convs], 1)[:, None, :, None, None].to(logits.dtype)
        maps = list(gate(logits, self.act).unbind(3))
        return maps if len(maps) > len(self.k_list) else [*maps, torch.ones_like(maps[0])]


def weighted_sum(x: Tensor, boxes: list[Box], weights: list[Tensor]) -> Tensor:
    """x·weights[0] + Σ_i (x's frequencies in boxes[i])·weights[i + 1]. x: (B, G, channels, H, W)."""
    columns = max(box.left for box in boxes)
    spectrum = torch.fft.fft(torch.fft.rfft(x)[..., :columns], dim=-2)
    total = x * weights[0]
    for box, weight in zip(boxes, weights[1:]):
        total.addcmul_(low_pass(spectrum, x.shape[-1], box), weight)
    return total


def weighted_sum_reference(x: Tensor, masks: Tensor, weights: list[Tensor]) -> Tensor:
    """The definition of ``weighted_sum``, with the boxes as masks."""
    spectrum = torch.fft.rfft2(x)
    total = x * weights[0]
    for mask, weight in zip(masks, weights[1:]):
        total = total + torch.fft.irfft2(spectrum * mask, s=x.shape[-2:]) * weight
    return total

"""What FDAM's modules multiply with on an image: the coefficients of inverted attention, the weights of FreqScale.

Source: FDAM (ICCV 2025, arXiv 2507.12006), supplement, equation 34 and figures 7 and 8.

B: batch, N: tokens, C: channels, H × W: map.
"""
import torch
from torch import Tensor

from freqdino.frequency import FrequencyScale, InversionGates
from freqdino.frequency.fdam.frequency_scale import resize_filters


def inversion_coefficients(gates: InversionGates, query: Tensor) -> tuple[Tensor, Tensor]:
    """S̄ and Ŝ, each (B, N, C), of X' = S̄ · A X + Ŝ · (X - A X), equation 34, the learned γ included.

    query: (B, N, C), what the gates are predicted from. The result is linear in A X and in X, so that two probes of the
    module itself give both coefficients.
    """
    ones, zeros = torch.ones_like(query), torch.zeros_like(query)
    return gates.invert(ones, ones, query), gates.invert(ones, zeros, query)


def scale_weights(scale: FrequencyScale, x: Tensor) -> Tensor:
    """The weight of each frequency in S(x), for a map x (B, C, H, W): (B, C, H, W), frequency zero first."""
    height, width = x.shape[2:]
    routing = torch.tanh(scale.reweight(x.mean((2, 3)))).unflatten(1, (scale.group, scale.num_filters))
    filters = torch.einsum("bgf,fchw->bgchw", routing, scale.complex_weights).flatten(1, 2)
    half_plane = resize_filters(filters, height, width // 2 + 1)
    # A real map's spectrum is symmetric: of the half plane's filter, this is what acts on both halves.
    return torch.fft.fft2(torch.fft.irfft2(half_plane, s=(height, width))).real

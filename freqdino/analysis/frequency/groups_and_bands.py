"""FDConv's weight by its groups of Fourier coefficients, and the frequency bands that it tells apart in a map.

Source: Frequency Dynamic Convolution for Dense Image Prediction (FDConv, CVPR 2025, arXiv 2503.18783).

p: param_ratio, n: kernel_num, R × K: the weight as a matrix, B: batch, H × W: map.
"""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from freqdino.frequency.fdconv.band_modulation import FrequencyBandModulation
from freqdino.frequency.fdconv.dynamic_weight import DynamicWeight
from freqdino.frequency.fdconv.fourier_weight import spectrum_to_matrix
from freqdino.frequency.fdconv.low_pass import low_pass, low_pass_box


def group_matrices(layer: DynamicWeight) -> Tensor:
    """The kernels of an active FDConv or FDLinear, one a group of coefficients: (p · n, R, K).

    They sum to the matrix of ``layer.static_weight()``.
    """
    coefficients = layer.coefficients() * layer.scale
    members = torch.stack([layer.group_map == group for group in range(int(layer.group_map.max()) + 1)])
    grouped = coefficients[:, None] * members[None, ..., None]
    return spectrum_to_matrix(grouped.flatten(0, 1), layer.matrix_columns)


def similarity_matrix(kernels: Tensor) -> Tensor:
    """Cosine similarity of every two of n kernels (n, ...): (n, n); a kernel of zeros has similarity 0."""
    directions = F.normalize(kernels.flatten(1), dim=1)
    return directions @ directions.mT


def band_masks(k_list: Sequence[int], height: int, width: int) -> Tensor:
    """What each band keeps of every frequency: (len(k_list) + 1, H, W), finest band first, frequency zero first.

    Read off the impulse responses of the low-passes that the module runs. The bands sum to one.
    """
    impulse = torch.zeros(height, width)
    impulse[0, 0] = 1
    spectrum = torch.fft.rfft2(impulse)
    passed = [torch.ones(height, width)]
    for k in k_list:
        response = torch.fft.fft2(low_pass(spectrum, width, low_pass_box(height, width, k))).real
        passed.append(response.round(decimals=5))   # of ones, zeros and halves, up to rounding errors
    return torch.stack([outer - inner for outer, inner in zip(passed, passed[1:])] + passed[-1:])


def band_weights(modulation: FrequencyBandModulation, x: Tensor) -> Tensor:
    """The weights of the bands at each pixel of the first image of x (B, C, H, W), averaged over the channel groups:
    (len(k_list) + 1, H, W), finest band first."""
    return torch.stack([weights[0].mean((0, 1)) for weights in modulation.band_maps(modulation.multiplied(x))])

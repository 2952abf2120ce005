"""What each operator costs: the rules that `flop_counting` applies, stated for users in `analyze_model.py`'s docstring.

A FLOP is one multiply-add, as in fvcore and the papers' tables. A rule takes the operator's arguments and ``output``
and returns FLOPs. It reads shapes, and ROIAlign's the boxes, so that the device, the kernel and the pieces that the
work is cut into do not matter. Where fvcore has a rule it is the same one, but for batch normalisation: 1 here, 2
there, and nothing in Detectron2's use of it.
"""
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torchvision  # noqa: F401  registers torch.ops.torchvision
from torch import Tensor
from torch.nn import functional as F

from freqdino.ops.carafe import CarafeByGathers
from freqdino.ops.ms_deform_attn import CORNERS, MSDeformAttn

aten = torch.ops.aten
PRODUCTS = [aten.mm, aten.bmm, aten.mv, aten.dot]
if torch.backends.mkldnn.is_available():
    PRODUCTS.append(torch.ops.mkldnn._linear_pointwise)     # the linear layers of `freqdino.layers.linear`

# Input elements that one output element reads, by the number with which grid_sampler names its interpolation.
GRID_SAMPLER_READS = {0: 4, 1: 0, 2: 16}
STATISTICS_FLOPS = 4    # of an element in a layer or group normalisation: mean, variance, shift, scale
FFT_FLOPS = 5           # times N·log2 N: the usual nominal count of a complex transform


class Rule(NamedTuple):
    """``flops(*arguments, output=...)``; ``makes_activations`` where the output counts among the activations."""
    flops: Callable[..., float]
    makes_activations: bool = False


def convolution(x: Tensor, weight: Tensor, bias, stride, padding, dilation, transposed: bool, *_,
                output: Tensor) -> int:
    positions = x if transposed else output
    return positions.numel() * math.prod(weight.shape[1:])


def product(a: Tensor, b: Tensor, *_, output: Tensor, **__) -> int:
    """Of matrices, batches of them, or a matrix and a vector."""
    return output.numel() * a.shape[-1]


def product_and_sum(summand: Tensor, a: Tensor, b: Tensor, *_, output: Tensor, **__) -> int:
    return product(a, b, output=output)


def attention(query: Tensor, key: Tensor, value: Tensor, *_, output: Tensor, **__) -> int:
    """(..., Q, D), (..., K, D), (..., K, E): scores of all pairs, then sums of the values; a mask saves nothing."""
    return math.prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def weighted_rows(table: Tensor, index: Tensor, *_, output) -> int:
    """embedding_bag: every gathered element is added once, with a weight or without."""
    return index.numel() * table.shape[1]


def deformable_attention(value: Tensor, sampling_locations: Tensor, attention_weights: Tensor, *_,
                         output: Tensor) -> int:
    return len(CORNERS) * attention_weights.numel() * value.shape[-1]


def reassembly(x: Tensor, mask: Tensor, kernel_size: int, group: int, up: int, *, output: Tensor) -> int:
    return output.numel() * kernel_size**2


def complex_fft(x: Tensor, dims, *_, output: Tensor) -> float:
    return FFT_FLOPS * fft_size(x, dims)


def real_fft(x: Tensor, dims, *_, output: Tensor) -> float:
    return FFT_FLOPS / 2 * fft_size(x, dims)


def inverse_real_fft(x: Tensor, dims, *_, output: Tensor) -> float:
    return FFT_FLOPS / 2 * fft_size(output, dims)


def fft_size(points: Tensor, dims: list[int]) -> float:
    """Σ N·log2 N over the transforms of N points each."""
    return points.numel() * math.log2(max(1, math.prod(points.shape[dim] for dim in dims)))


def layer_normalisation(x: Tensor, shape, weight: Tensor | None, *_, output) -> int:
    return x.numel() * (STATISTICS_FLOPS + (weight is not None))


def group_normalisation(x: Tensor, weight: Tensor | None, *_, output) -> int:
    return x.numel() * (STATISTICS_FLOPS + (weight is not None))


def each_input(x: Tensor, *_, output, **__) -> int:
    return x.numel()


def each_output(reads: int) -> Callable[..., int]:
    return lambda *_, output, **__: reads * output.numel()


def average_pooling(x: Tensor, kernel_size, *_, output: Tensor) -> int:
    return output.numel() * math.prod(kernel_size)


def grid_sampling(x: Tensor, grid: Tensor, interpolation: int = 0, *_, output: Tensor) -> int:
    return GRID_SAMPLER_READS[interpolation] * output.numel()


def roi_align(x: Tensor, rois: Tensor, scale: float, height: int, width: int, sampling_ratio: int, aligned: bool, *,
              output: Tensor) -> int:
    """Bilinear samples; ``sampling_ratio`` of 0 or less makes as many as a bin has pixels in each direction."""
    if sampling_ratio > 0:
        samples = len(rois) * sampling_ratio**2
    else:
        sides = (rois[:, 3:] - rois[:, 1:3]) * scale
        sides = sides if aligned else sides.clamp(min=1)
        samples = int((sides / sides.new_tensor([width, height])).ceil().prod(dim=1).sum())
    return 4 * samples * x.shape[1] * height * width


RULES = {
    aten.convolution: Rule(convolution, True),
    **dict.fromkeys(PRODUCTS, Rule(product, True)),
    **dict.fromkeys((aten.addmm, aten.baddbmm, aten.addmv), Rule(product_and_sum, True)),
    **dict.fromkeys((aten._embedding_bag, aten._embedding_bag_forward_only), Rule(weighted_rows, True)),
    aten._fft_c2c: Rule(complex_fft, True),
    aten._fft_r2c: Rule(real_fft, True),
    aten._fft_c2r: Rule(inverse_real_fft, True),
    torch.ops.torchvision.roi_align: Rule(roi_align, True),
    **dict.fromkeys((aten.grid_sampler_2d, aten.cudnn_grid_sampler), Rule(grid_sampling, True)),
    aten.native_layer_norm: Rule(layer_normalisation),
    aten.native_group_norm: Rule(group_normalisation),
    **dict.fromkeys((aten.native_batch_norm, aten.cudnn_batch_norm, aten.miopen_batch_norm,
                     aten._native_batch_norm_legit_no_training), Rule(each_input)),
    **dict.fromkeys((aten.mean, aten._adaptive_avg_pool2d, aten.col2im), Rule(each_input)),
    aten.avg_pool2d: Rule(average_pooling),
    aten.upsample_bilinear2d: Rule(each_output(4)),
    aten.upsample_bicubic2d: Rule(each_output(16)),
}
# Counted as a whole, from their arguments, whichever kernels or pieces they are computed by.
FUNCTION_RULES = {F.scaled_dot_product_attention: Rule(attention, True),
                  MSDeformAttn.apply: Rule(deformable_attention, True), CarafeByGathers.apply: Rule(reassembly, True)}

# Operators that move, make, convert, compare, sort or select: no FLOP. Views are known as such by their schema.
NO_ARITHMETIC = {getattr(aten, name) for name in """
    _local_scalar_dense _to_copy _unique2 _unsafe_view all amax amin any arange argmax argmin argsort bitwise_and
    bitwise_not bitwise_or bucketize cat clamp clamp_ clamp_max clamp_min clamp_min_ clone complex constant_pad_nd
    copy copy_ empty empty_like empty_strided eq eye fft_fftfreq fft_rfftfreq fill fill_ flip full full_like gather ge
    gt im2col index index_copy index_put index_put_ index_select isfinite isin isinf isnan le logical_and logical_not
    logical_or lt masked_fill masked_fill_ masked_scatter masked_select max max_pool2d_with_indices maximum min
    minimum ne new_empty new_empty_strided new_full new_ones new_zeros nonzero ones ones_like pixel_shuffle
    pixel_unshuffle promote_types reflection_pad2d relu relu_ repeat repeat_interleave replication_pad2d roll
    scalar_tensor scatter scatter_ searchsorted sign sort squeeze_ stack topk tril triu unsqueeze_ upsample_nearest1d
    upsample_nearest2d where zero_ zeros zeros_like
""".split()}

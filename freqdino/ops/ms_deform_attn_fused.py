"""Multi-scale deformable attention by deformops, one fused kernel on CUDA that needs no compiler toolkit.

Source: deformops (PyPI), https://github.com/tue-p8n/deformops. Letters as in :mod:`freqdino.ops.ms_deform_attn`.
"""
from itertools import accumulate

import torch
from torch import Tensor

from freqdino.ops.autocast import without_autocast
from freqdino.ops.backends import FusedKernel
from freqdino.ops.constants import constant


def fused(value: Tensor, sampling_locations: Tensor, attention_weights: Tensor,
          sizes: tuple[tuple[int, int], ...]) -> Tensor:
    """By deformops, whose kernels sum in float32 and add gradients of values by atomics."""
    from deformops.registry import msda

    areas = (height * width for height, width in sizes)
    starts = constant(tuple(accumulate(areas, initial=0))[:-1], torch.int64, value.device)
    shapes = constant(sizes, torch.int64, value.device)
    weights = attention_weights.to(value.dtype).flatten(3)
    with without_autocast(value):       # places stay as exact as they are
        output = msda(value, shapes, starts, sampling_locations, weights)
    return output.view(*sampling_locations.shape[:2], -1).to(value.dtype)


def trial(device: torch.device, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """Value and gradients of the fused kernel and of the definition; no location near a pixel's edge."""
    from freqdino.ops.ms_deform_attn import ms_deform_attn_reference

    generator = torch.Generator().manual_seed(0)
    sizes, shape = ((4, 8), (2, 4)), (2, 16, 8, 2, 4)
    value = torch.randn(2, 40, 8, 32, generator=generator).to(device, dtype)
    locations = ((torch.randint(-4, 68, (*shape, 2), generator=generator) * 8 + 3) / 512).to(device)
    weights = torch.rand(shape, generator=generator).to(device, dtype)
    grad = torch.randn(2, 16, 256, generator=generator).to(device, dtype)
    results = []
    for operator, to in ((lambda *inputs: fused(*inputs, sizes), dtype),
                         (lambda *inputs: ms_deform_attn_reference(inputs[0], sizes, *inputs[1:]), torch.float32)):
        inputs = [tensor.detach().requires_grad_() for tensor in (value.to(to), locations, weights.to(to))]
        output = operator(*inputs)
        results.append((output, *torch.autograd.grad(output, inputs, grad.to(to))))
    return list(zip(*results))


DEFORMOPS = FusedKernel("deformops' deformable attention", needs=("deformops", "triton"), repeats=False, trial=trial)

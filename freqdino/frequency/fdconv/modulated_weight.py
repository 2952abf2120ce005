"""A convolution's weight of each image under all of FDConv's factors at once, for devices where operators are dear.

Source: Frequency Dynamic Convolution for Dense Image Prediction (FDConv, CVPR 2025, arXiv 2503.18783), section
"Kernel Spatial Modulation".

Shape key: B: batch, Co, Ci: output and input channels, kh, kw: kernel size.
"""
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from freqdino.frequency.fdconv.fourier_weight import gradients_at_once, matrices_at_once


class Modulation(NamedTuple):
    """What a layer's factors are: f = σ(z) of channels, filters and positions, σ or softmax of the groups.

    counts: how many there are of each. scale: of the weight. shape: its own, (Co, Ci, kh, kw).
    """
    counts: tuple[int, int, int, int]
    softmax: bool
    scale: float
    shape: tuple[int, int, int, int]


def modulated_weight(coefficients: Tensor, group_map: Tensor, logits: Tensor, local: Tensor | None,
                     modulation: Modulation, dtype: torch.dtype) -> Tensor:
    """scale · W(groups) ⊙ σ(local) ⊙ σ(channel) ⊙ σ(filter) ⊙ σ(position): (B, Co, Ci, kh, kw) of type ``dtype``.

    coefficients, group_map: as for `grouped_matrices`, which makes W. logits: those of channels, filters, positions and
    groups, (B, sum of counts). local: logits of the elements (B, Co·kh·kw, Ci), or None for no such factor.

    >>> one = Modulation((1, 1, 0, 1), False, 16.0, (1, 1, 1, 1))
    >>> modulated_weight(torch.ones(1, 1, 1, 2), torch.zeros(1, 1, dtype=torch.int32), torch.zeros(1, 3), None, one,
    ...                  torch.float32)
    tensor([[[[[2.]]]]])
    """
    return ModulatedWeight.apply(coefficients, group_map, logits.to(coefficients.dtype), local, modulation, dtype)


class ModulatedWeight(Function):
    """`modulated_weight`. A factor is f = σ(z), so z's gradient is (1 − f) times the sum of weight times gradient over
    what f multiplies: one product serves all factors.
    """

    @staticmethod
    def forward(ctx, coefficients: Tensor, group_map: Tensor, logits: Tensor, local: Tensor | None,
                modulation: Modulation, dtype: torch.dtype) -> Tensor:
        shape, groups = modulation.shape, modulation.counts[3]
        if modulation.softmax:
            factors = torch.cat((logits[:, :-groups].sigmoid(), logits[:, -groups:].softmax(1)), 1)
        else:
            factors = logits.sigmoid()
        gains = (modulation.scale * factors[:, -groups:]).unflatten(1, (len(coefficients), -1))
        matrices = matrices_at_once(coefficients, gains, group_map, shape[1] * shape[3])
        gate = None if local is None else local.sigmoid()
        ctx.modulation = modulation
        ctx.save_for_backward(coefficients, group_map, gains, matrices, gate, factors)
        inputs, filters = spread(factors, modulation)
        rows = by_rows(matrices, shape)
        if gate is not None:
            rows = rows * gate_by_rows(gate, shape)
        if filters is not None:
            rows = rows * inputs if gate is None else rows.mul_(inputs)
            inputs = filters
        weight = matrices.new_empty(len(matrices), *shape, dtype=dtype)
        torch.mul(rows, inputs, out=weight.transpose(2, 3))
        return weight

    @staticmethod
    @once_differentiable
    def backward(ctx, weight_grad: Tensor) -> tuple[Tensor | None, ...]:
        coefficients, group_map, gains, matrices, gate, factors = ctx.saved_tensors
        shape, (_, filter_count, position_count, groups) = ctx.modulation.shape, ctx.modulation.counts
        inputs, filters = spread(factors, ctx.modulation)
        rows = by_rows(matrices, shape)
        gradient = torch.mul(weight_grad.transpose(2, 3), inputs, out=torch.empty_like(rows))
        if filters is not None:
            gradient.mul_(filters)
        if gate is not None:
            gradient.mul_(gate_by_rows(gate, shape))
        shares = gradient * rows                        # (B, Co, kh, Ci, kw)
        local_grad = None
        if gate is not None:
            local_grad = torch.addcmul(shares, shares, gate_by_rows(gate, shape), value=-1)
            local_grad = local_grad.transpose(3, 4).reshape(gate.shape)
        coefficients_grad, gains_grad = gradients_at_once(gradient.view(matrices.shape), coefficients, gains, group_map,
                                                          ctx.needs_input_grad[0])
        by_input = shares.sum(1)
        sums = [by_input.sum((1, 3)) if position_count else by_input.flatten(1)]
        if filter_count:
            sums.append(shares.sum((2, 3, 4)))
        if position_count:
            sums.append(by_input.sum(2).flatten(1))
        sums.append((gains_grad * gains).flatten(1))
        summed = meant = torch.cat(sums, 1)
        if ctx.modulation.softmax:      # whose (1 − f) meets the sum over all groups
            meant = torch.cat((*sums[:-1], sums[-1].sum(1, keepdim=True).expand(-1, groups)), 1)
        return coefficients_grad, None, torch.addcmul(summed, meant, factors, value=-1), local_grad, None, None


def by_rows(matrices: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
    """(B, Co·kh, Ci·kw) -> (B, Co, kh, Ci, kw), a view."""
    out_channels, in_channels, height, width = shape
    return matrices.view(-1, out_channels, height, in_channels, width)


def gate_by_rows(gate: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
    """(B, Co·kh·kw, Ci) -> (B, Co, kh, Ci, kw), a view."""
    out_channels, in_channels, height, width = shape
    return gate.view(-1, out_channels, height, width, in_channels).transpose(3, 4)


def spread(factors: Tensor, modulation: Modulation) -> tuple[Tensor, Tensor | None]:
    """The factors on channels and positions (B, 1, kh or 1, Ci, kw or 1), and on filters (B, Co, 1, 1, 1) or None."""
    channel, filters, position, _ = factors.split(modulation.counts, 1)
    inputs = channel[:, None, None, :, None]
    if position.shape[1]:
        inputs = inputs * position.unflatten(1, modulation.shape[2:])[:, None, :, None, :]
    return inputs, filters[:, :, None, None, None] if filters.shape[1] else None

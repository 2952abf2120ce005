"""Operators take tensors and gradients of any stride: the same results, and no slow path for them."""
import pytest
import torch

from freqdino.frequency.fdam.scale_spectrum import scale_spectrum
from freqdino.frequency.fdconv.fourier_weight import frequency_groups, grouped_matrices
from freqdino.frequency.fdconv.gated_product import gated, gated_product
from freqdino.layers import linear as linear_module
from freqdino.layers.linear import linear
from freqdino.ops import ms_deform_attn as attention_module
from freqdino.ops.carafe import carafe
from freqdino.ops.ms_deform_attn import ms_deform_attn

SHAPES = [(5, 4), (3, 2)]


def attend(value, locations, weights):
    return ms_deform_attn(value, SHAPES, locations.sigmoid(), weights)


def group(coefficients, gains):
    return grouped_matrices(coefficients.contiguous(), gains, frequency_groups(6, 8, 3).int(), 8)


def linear_relu(x, weight, bias):
    return linear(x, weight, bias, relu=True)


OPERATORS = {
    attend: [(2, 26, 3, 4), (2, 7, 3, 2, 5, 2), (2, 7, 3, 2, 5)],
    lambda x, mask: carafe(x, mask, 3, 2, 2): [(2, 6, 4, 5), (2, 18, 8, 10)],
    linear: [(2, 7, 5), (6, 5), (6,)],
    linear_relu: [(7, 5), (6, 5), (6,)],
    gated: [(2, 6, 5), (2, 6, 3), (2, 3, 5)],
    gated_product: [(2, 6, 5), (2, 6, 3), (2, 3, 5), (2, 10, 4)],
    group: [(1, 6, 5, 2), (2, 1, 3)],
    scale_spectrum: [(2, 3, 5, 6), (2, 3, 5, 4)],
}
LAYOUTS = {
    "expanded": lambda tensor: tensor[:1].clone().expand_as(tensor),
    "transposed": lambda tensor: tensor.transpose(0, -1).contiguous().transpose(0, -1),
    "strided": lambda tensor: torch.stack((tensor, tensor), -1)[..., 0],
}


def results(operator, inputs, grad_layout=lambda tensor: tensor):
    """The output and the gradients of a function whose gradient is random, or a constant as that of .sum()."""
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]     # keeps the strides
    output = operator(*inputs)
    gradient = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    return [output.detach(), *torch.autograd.grad(output, inputs, grad_layout(gradient))]


def dense(layout):
    return lambda tensor: layout(tensor).contiguous()


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_results(operator, layout):
    torch.manual_seed(0)
    inputs = [torch.randn(shape) for shape in OPERATORS[operator]]
    same = [layout(tensor) for tensor in inputs]
    for ours, expected in zip(results(operator, same, layout),
                              results(operator, [tensor.contiguous() for tensor in same], dense(layout))):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_a_sums_gradient_is_made_dense_before_it_is_gathered(monkeypatch):
    """Gathered from a gradient without strides, deformable attention's backward pass took three times as long."""
    seen = []
    gathered_dot = attention_module.gathered_dot
    monkeypatch.setattr(attention_module, "gathered_dot",
                        lambda table, index, rows: seen.append(rows) or gathered_dot(table, index, rows))
    inputs = [torch.randn(shape, requires_grad=True) for shape in OPERATORS[attend]]
    attend(*inputs).sum().backward()
    assert seen and all(rows.is_contiguous() for rows in seen)


@pytest.mark.parametrize("relu", [False, True])
def test_onednn_gets_no_strides_that_it_has_no_kernel_for(monkeypatch, relu):
    """Of an expanded gradient its product took a thousand times as long."""
    seen = []
    product = linear_module._onednn_product
    monkeypatch.setattr(linear_module, "_onednn_product",
                        lambda *tensors: seen.extend(tensors[:2]) or product(*tensors))
    x = torch.randn(7, 10)[:, ::2].requires_grad_()
    weight = torch.randn(6, 10)[:, ::2].requires_grad_()
    linear(x, weight, None, relu=relu).sum().backward()
    assert len(seen) == 6 and all(each.is_contiguous() or each.T.is_contiguous() for each in seen)

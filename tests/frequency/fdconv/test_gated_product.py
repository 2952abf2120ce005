"""Gated products against the formula written out, in one block and in many."""

import pytest
import torch

from freqdino.frequency.fdconv.gated_product import blocks, gated, gated_product
from freqdino.ops import blocking


def factors(count, outputs, run, columns, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    rows = outputs * run
    shapes = ((count, rows, columns), (count, rows, 3), (count, 3, columns), (count, run * columns, 5))
    return [torch.randn(shape, generator=generator, dtype=dtype, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("budget", [1, 640, 960, 2**21])
@pytest.mark.parametrize("sizes", [(2, 7, 3, 4), (5, 2, 1, 4), (1, 1, 1, 1)])
def test_equals_the_formula_with_its_gradients(monkeypatch, sizes, budget):
    monkeypatch.setitem(blocking.BUDGET, "cpu", budget)
    matrix, left, right, x = factors(*sizes)
    gated_matrix = matrix * (left @ right).sigmoid()
    expected = gated_matrix.reshape(len(x), -1, x.shape[1]) @ x
    for result, expected, inputs in ((gated(matrix, left, right), gated_matrix, (matrix, left, right)),
                                     (gated_product(matrix, left, right, x), expected, (matrix, left, right, x))):
        assert torch.allclose(result, expected, atol=1e-12)
        cotangent = torch.randn_like(result)
        for got, wanted in zip(torch.autograd.grad(result, inputs, cotangent, retain_graph=True),
                               torch.autograd.grad(expected, inputs, cotangent, retain_graph=True)):
            assert torch.allclose(got, wanted, atol=1e-12)


@pytest.mark.parametrize("budget", [1, 640, 2**21])
def test_gradcheck(monkeypatch, budget):
    monkeypatch.setitem(blocking.BUDGET, "cpu", budget)
    inputs = factors(2, 3, 2, 4)
    assert torch.autograd.gradcheck(gated_product, inputs)
    assert torch.autograd.gradcheck(gated, inputs[:3])


def test_the_product_has_the_type_of_x():
    matrix, left, right, x = factors(2, 4, 3, 5, torch.float32)
    expected = gated_product(matrix, left, right, x)
    y = gated_product(matrix, left, right, x.bfloat16())
    assert y.dtype == torch.bfloat16 and torch.allclose(y.float(), expected, atol=0.05 * expected.detach().abs().max())
    gradients = torch.autograd.grad(y.float().sum(), (matrix, left, right, x))
    assert all(gradient.dtype == torch.float32 and gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("run", [1, 3])
@pytest.mark.parametrize("budget", [1, 56, 400, 960, 2**21])
def test_blocks_cover_every_row_once(monkeypatch, budget, run):
    monkeypatch.setitem(blocking.BUDGET, "cpu", budget)
    matrix, by_output = torch.zeros(4, 6, 8), torch.zeros(4, 6 // run)
    for block, outputs in blocks(matrix, run):
        matrix[block] += 1
        by_output[outputs] += 1
    assert (matrix == 1).all() and (by_output == 1).all()

"""The primitive of the sparse operators: against sums written out, and its two gradient functions against autograd."""
import pytest
import torch
from torch.autograd import gradcheck

from freqdino.ops.weighted_gather import WeightedScatter, gathered_dot, weighted_gather, weighted_gather_reference

BOTH = pytest.mark.parametrize("gather", [weighted_gather, weighted_gather_reference])


@BOTH
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])
def test_known_values(gather, index_dtype):
    table = torch.tensor([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]])
    index = torch.tensor([[0, 2], [1, 1]], dtype=index_dtype)
    weight = torch.tensor([[2.0, -1.0], [0.5, 3.0]])
    torch.testing.assert_close(gather(table, index, weight), torch.tensor([[-2.0, -20.0], [7.0, 70.0]]))


def random_arguments(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(6, 3, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(5, 4, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    index = torch.tensor([[0, 1, 1, 3], [3, 3, 3, 3], [5, 0, 1, 2], [2, 1, 0, 5], [1, 0, 2, 3]])  # row 4 is never read
    return table, index, weight


@BOTH
def test_gradient(gather):
    table, index, weight = random_arguments()
    assert gradcheck(lambda table, weight: gather(table, index, weight), (table, weight))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype):
    table = torch.full((1, 1), 1.0, dtype=dtype, requires_grad=True)
    index = torch.zeros(1, 4096, dtype=torch.int32)
    weight = torch.ones(1, 4096, dtype=dtype, requires_grad=True)
    output = weighted_gather(table, index, weight)
    assert output.dtype == dtype and output.item() == 4096  # a running sum in either type stops at 2048 or 256
    output.sum().backward()
    assert table.grad.item() == 4096 and torch.equal(weight.grad, torch.ones_like(weight))


def test_table_and_weight_may_differ_in_dtype():
    table, index, weight = random_arguments(torch.float32)
    output = weighted_gather(table.bfloat16(), index, weight)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), weighted_gather_reference(table, index, weight), rtol=0.05, atol=0.05)


@BOTH
@pytest.mark.parametrize("rows, summands", [(0, 4), (3, 0), (0, 0)])
def test_nothing_to_sum(gather, rows, summands):
    table = torch.randn(2, 3, requires_grad=True)
    output = gather(table, torch.zeros(rows, summands, dtype=torch.int32), torch.zeros(rows, summands))
    assert torch.equal(output, torch.zeros(rows, 3))
    output.sum().backward()
    assert torch.equal(table.grad, torch.zeros(2, 3))


def test_gradient_functions_agree_with_autograd():
    table, index, weight = random_arguments()
    grad_output = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    output = weighted_gather_reference(table, index, weight)
    grad_table, grad_weight = torch.autograd.grad(output, (table, weight), grad_output)
    with torch.no_grad():
        torch.testing.assert_close(gathered_dot(table, index, grad_output), grad_weight)
        torch.testing.assert_close(WeightedScatter(index, 6)(grad_output, weight), grad_table)


@pytest.mark.parametrize("change, message", [
    (dict(table=torch.zeros(2)), r"table must have 2 dimensions, got 1: \(2,\)"),
    (dict(index=torch.zeros(2, 3)), "index must be int32 or int64, got torch.float32"),
    (dict(weight=torch.zeros(2, 4)), r"weight has the shape \(2, 4\), index \(2, 3\)"),
])
def test_bad_input(change, message):
    arguments = dict(table=torch.zeros(5, 2), index=torch.zeros(2, 3, dtype=torch.int32), weight=torch.zeros(2, 3))
    with pytest.raises(ValueError, match=message):
        weighted_gather(**arguments | change)

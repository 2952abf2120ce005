"""Cutting by a budget of bytes: what is cut, that all of it is covered, and that what is computed so is the same."""
import pytest
import torch

from freqdino.ops import blocking
from freqdino.ops.blocking import blocks, by_pieces, pieces, slices

CPU, META = torch.device("cpu"), torch.device("meta")


@pytest.fixture(autouse=True)
def budget_of_ten_bytes(monkeypatch):
    monkeypatch.setitem(blocking.BUDGET, "cpu", 10)


@pytest.mark.parametrize(("count", "bytes_each", "starts"), [
    (7, 4, [0, 2, 4, 6]), (4, 11, [0, 1, 2, 3]), (10, 1, [0]), (11, 1, [0, 6]), (3, 0, [0]), (0, 4, [])])
def test_parts_stay_within_the_budget_where_one_does(count, bytes_each, starts):
    assert list(slices(count, bytes_each, CPU)) == [
        slice(start, stop) for start, stop in zip(starts, [*starts[1:], count])]


def test_a_lower_limit_and_the_budget_elsewhere():
    assert list(slices(4, 2, CPU, at_most=4)) == [slice(0, 2), slice(2, 4)]
    assert list(slices(4, 2, CPU, at_most=400)) == [slice(0, 4)]
    assert list(slices(3, 2**27, META)) == [slice(0, 2), slice(2, 3)]


def test_blocks_take_several_of_the_outer_or_parts_of_one():
    assert list(blocks(3, 2, 2, CPU)) == [(slice(0, 2), slice(0, 2)), (slice(2, 3), slice(0, 2))]
    parts = slice(0, 2), slice(2, 3)
    assert list(blocks(2, 3, 5, CPU)) == [(slice(i, i + 1), part) for i in (0, 1) for part in parts]
    assert list(blocks(2, 0, 5, CPU)) == list(blocks(0, 2, 5, CPU)) == []


def test_pieces_are_views_in_step():
    x, y = torch.zeros(2, 5), torch.arange(10).view(2, 5)
    for x_piece, nothing, y_piece in pieces((x, None, y), 1, 5):
        assert nothing is None and x_piece.shape == (2, 1 if 4 in y_piece else 2)
        x_piece.copy_(y_piece)
    assert torch.equal(x, y.float())


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("gradient", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_function_by_pieces(dim, gradient, layout):
    x = torch.randn(3, 2, 5, 4, dtype=torch.float64).to(memory_format=layout).requires_grad_(gradient)
    sizes = []

    def double_and_add(x, nothing, other):
        sizes.append(x.shape[dim])
        assert nothing is None
        return 2 * x + other

    with torch.set_grad_enabled(gradient):
        result = by_pieces(double_and_add, (x, None, x), dim, bytes_each=4)
    assert sizes == {3: [2, 1], 2: [2], 4: [2, 2]}[x.shape[dim]]
    assert torch.equal(result, 3 * x) and result.is_contiguous(memory_format=layout)
    if gradient:
        assert torch.equal(torch.autograd.grad(result.sum(), x)[0], torch.full_like(x, 3))


def test_nothing_to_cut_and_recordings_are_computed_whole():
    calls = []

    def negative(x):
        calls.append(len(x))
        return -x

    with torch.no_grad():
        assert by_pieces(negative, [torch.zeros(0, 3)], 0, 4).shape == (0, 3)
    torch.jit.trace(lambda x: by_pieces(negative, [x], 0, 4), torch.zeros(6), check_trace=False)
    assert calls == [0, 6]

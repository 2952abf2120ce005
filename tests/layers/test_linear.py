"""The linear layer by oneDNN against the definition, its gradient, and where torch's own takes over."""
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from freqdino.layers.linear import Linear, linear


def close(a, b):
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def used(output):
    """Whether a result was computed by oneDNN."""
    return type(output.grad_fn).__name__ == "OneDNNLinearBackward"


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(("shape", "outputs"),
                         [((7, 5), 3), ((2, 7, 5), 11), ((5,), 3), ((2, 1, 3, 5), 1), ((0, 5), 3)])
def test_value_and_gradients_are_those_of_the_sum(shape, outputs, with_bias, relu):
    x = torch.randn(shape, requires_grad=True)
    weight = torch.randn(outputs, 5, requires_grad=True)
    bias = torch.randn(outputs, requires_grad=True) if with_bias else None
    inputs = [x, weight, bias] if with_bias else [x, weight]
    found = linear(x, weight, bias, relu=relu)
    expected = (x[..., None, :] * weight).sum(dim=-1) + (bias if with_bias else 0)
    expected = expected.clamp(min=0) if relu else expected
    assert used(found) == (x.numel() > 0) and close(found, expected)
    direction = torch.randn_like(found)
    for a, b in zip(torch.autograd.grad(found, inputs, direction), torch.autograd.grad(expected, inputs, direction)):
        assert close(a, b)


def test_tensors_that_are_not_contiguous():
    x, weight = torch.randn(5, 4, 2, requires_grad=True), torch.randn(3, 10, requires_grad=True)
    tokens, part = x.permute(2, 1, 0), weight[:, ::2]
    found, expected = linear(tokens, part, None), (tokens[..., None, :] * part).sum(dim=-1)
    assert used(found) and close(found, expected)
    for a, b in zip(torch.autograd.grad(found.sum(), (x, weight)), torch.autograd.grad(expected.sum(), (x, weight))):
        assert close(a, b)


def test_frozen_tensors_have_no_gradient():
    x, weight, bias = torch.randn(4, 5), torch.randn(3, 5, requires_grad=True), torch.randn(3)
    linear(x, weight, bias).sum().backward()
    assert x.grad is None and bias.grad is None
    assert close(weight.grad, x.sum(dim=0).expand(3, -1))


def test_what_is_not_a_number_stays_so():
    x = torch.tensor([[float("nan"), 1.0], [2.0, 3.0]])
    found = linear(x, torch.ones(3, 2), None, relu=True)
    assert found[0].isnan().all() and found[1].eq(5).all()


def test_other_dtypes_are_torchs():
    x, weight = torch.randn(4, 5, dtype=torch.float64, requires_grad=True), torch.randn(3, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: linear(x, weight, None, relu=True), x)
    with torch.autocast("cpu", torch.bfloat16):
        found = linear(x.float(), weight.float(), None)
    assert found.dtype == torch.bfloat16 and not used(found)


def test_channels_that_differ_are_torchs_error():
    with pytest.raises(RuntimeError, match=r"2x5 and 4x3"):
        linear(torch.randn(2, 5), torch.randn(3, 4), None)


def test_module_has_torchs_keys_and_start():
    torch.manual_seed(0)
    ours = Linear(6, 4)
    torch.manual_seed(0)
    theirs = nn.Linear(6, 4)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(ours.state_dict()[key], value) for key, value in theirs.state_dict().items())
    x = torch.randn(2, 3, 6)
    assert used(ours(x)) and close(ours(x), F.linear(x, theirs.weight, theirs.bias))

"""The linear layer by oneDNN against the definition, its gradient, where torch's own takes over, its swap in models."""
import doctest
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqdino.frequency import FDLinear
from freqdino.layers import linear as linear_file
from freqdino.layers.linear import Linear, linear, swap_linear


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


class Half(Tensor):
    """Stands for a quantised weight, which has a product of its own."""

    @classmethod
    def __torch_function__(cls, function, types, arguments=(), options=None):
        arguments = [each.as_subclass(Tensor) if isinstance(each, Half) else each for each in arguments]
        return function(*arguments, **(options or {})) * (0.5 if function is F.linear else 1)


def test_a_weight_of_another_class_has_its_own_product():
    x, weight = torch.randn(4, 3), torch.randn(2, 3)
    assert close(linear(x, weight.as_subclass(Half), None), 0.5 * linear(x, weight, None))


def network():
    """Two layers with one weight, a layer that stands in two places, a hook, and what is to be left alone."""
    layers = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4), "c": nn.Sequential(nn.Linear(4, 4)),
                            "attention": nn.MultiheadAttention(4, 2), "dynamic": FDLinear(32, 32, kernel_num=4),
                            "normed": nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))})
    layers["b"].weight = layers["a"].weight
    layers["again"] = layers["c"][0]
    return layers


def test_the_swap_keeps_everything_but_the_product():
    layers, x, seen = network(), torch.randn(2, 4), []
    handle = layers["a"].register_forward_hook(lambda *_: seen.append(1))
    before = {name: parameter for name, parameter in layers.named_parameters(remove_duplicate=False)}
    names, others = [*layers.state_dict()], {name: layers[name] for name in ("attention", "dynamic", "normed")}
    expected = [layers[name](x) for name in ("a", "b", "again", "normed")]
    swap_linear(layers)
    assert {name for name, part in layers.named_modules(remove_duplicate=False) if type(part) is Linear} == {
        "a", "b", "c.0", "again"}
    assert [*layers.state_dict()] == names and layers["again"] is layers["c"][0]
    assert all(parameter is before[name] for name, parameter in layers.named_parameters(remove_duplicate=False))
    assert all(layers[name] is part for name, part in others.items())
    assert type(layers["attention"].out_proj) is not Linear
    assert all(close(layers[name](x), y) for name, y in zip(("a", "b", "again", "normed"), expected))
    assert used(layers["again"](x)) and len(seen) == 2
    handle.remove()
    del layers["normed"]        # which torch does not pickle
    copied = pickle.loads(pickle.dumps(layers))
    assert close(copied["a"](x), expected[0]) and copied["a"].weight is copied["b"].weight and len(seen) == 2
    swap_linear(layers, Linear, nn.Linear)
    assert type(layers["a"]) is type(layers["c"][0]) is nn.Linear and not used(layers["a"](x))


def test_documented_examples():
    result = doctest.testmod(linear_file)
    assert result.attempted > 0 and result.failed == 0

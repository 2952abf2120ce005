"""FDLinear: a 1 × 1 FDConv on tokens, and the linear layer it starts as."""

import pytest
import torch
from torch import nn

from freqdino.frequency.fdconv.conv import FDConv
from freqdino.frequency.fdconv.linear import FDLinear
from helpers.refusals import refuses


def randomised(layer):
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return layer


@pytest.mark.parametrize("size", [(5, 7), (1, 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_a_pointwise_fdconv(size, bias):
    torch.manual_seed(0)
    conv = randomised(FDConv(21, 35, 1, kernel_num=5, bias=bias).double().eval())
    linear = FDLinear(21, 35, kernel_num=5, bias=bias, dtype=torch.float64).eval()
    linear.load_state_dict(conv.state_dict())
    x = torch.randn(3, 21, *size, dtype=torch.float64)
    expected = conv(x)
    assert torch.allclose(linear(x.flatten(2).transpose(1, 2)), expected.flatten(2).transpose(1, 2), atol=1e-10)
    assert torch.allclose(linear(x.permute(0, 2, 3, 1)), expected.permute(0, 2, 3, 1), atol=1e-10)
    pooled = x.mean((2, 3))
    tokens = x.flatten(2).transpose(1, 2)
    at_once = linear.respond(tokens, pooled, linear.KSM_Global(pooled[..., None, None]))
    assert torch.allclose(at_once, expected.flatten(2).transpose(1, 2), atol=1e-10)


def test_a_plain_state_dict_loads_and_the_function_stays():
    plain, layer = nn.Linear(21, 35), randomised(FDLinear(21, 35))
    layer.load_state_dict(plain.state_dict())
    x = torch.randn(2, 9, 21)
    assert torch.allclose(layer(x), plain(x), atol=1e-4)
    assert layer.static_weight().shape == (35, 21)
    assert torch.allclose(layer.static_weight(), plain.weight, atol=1e-6)
    layer(x).sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


def test_inactive_is_the_plain_layer():
    plain, layer = nn.Linear(16, 99), FDLinear(16, 99)
    assert list(layer.state_dict()) == ["weight", "bias"]
    layer.load_state_dict(plain.state_dict())
    x = torch.randn(2, 9, 16)
    assert torch.equal(layer(x), plain(x))


test_bad_input = refuses(lambda shape: FDLinear(20, 24)(torch.zeros(shape)), [
    ((9, 20), "at least 3 dimensions .* got 2"),
    ((2, 9, 21), "in_features = 20 features, got 21"),
    ((2, 0, 20), "at least one token"),
])


test_bad_arguments = refuses(lambda run: run(), [
    (lambda: FDLinear(20, 24, kernel_num=0), "kernel_num must be at least 1, got 0"),
    (lambda: FDLinear(0, 24), "in_features must be at least 1, got 0"),
    (lambda: FDLinear(20, 2.5), "out_features must be an integer, got 2.5"),
    (lambda: FDLinear(20, 24, kernel_num=300), "kernel_num .* 264 Fourier coefficients of a 24 × 20 .* got 300"),
])

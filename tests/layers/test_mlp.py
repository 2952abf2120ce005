"""The perceptron against its layers written out."""
import pytest
import torch

from freqdino.layers.mlp import MLP


def test_relu_between_layers_and_none_at_the_end():
    mlp = MLP(3, 5, 2, 3)
    x = torch.randn(4, 6, 3)
    first, second, third = (lambda t, layer=layer: t @ layer.weight.T + layer.bias for layer in mlp.layers)
    expected = third(second(first(x).clamp(min=0)).clamp(min=0))
    assert torch.allclose(mlp(x), expected, atol=1e-6)
    negative = MLP(3, 5, 2, 2)
    torch.nn.init.constant_(negative.layers[1].bias, -9.0)
    assert (negative(x) < 0).all()


def test_keys_and_widths():
    shapes = {key: tuple(value.shape) for key, value in MLP(3, 5, 2, 3).state_dict().items()}
    assert shapes == {"layers.0.weight": (5, 3), "layers.0.bias": (5,), "layers.1.weight": (5, 5),
                      "layers.1.bias": (5,), "layers.2.weight": (2, 5), "layers.2.bias": (2,)}


def test_one_layer_is_linear():
    mlp = MLP(3, 99, 2, 1)
    assert torch.allclose(mlp(-torch.ones(1, 3)), mlp.layers[0](-torch.ones(1, 3)))


def test_no_layers():
    with pytest.raises(ValueError, match="num_layers must be at least 1, got 0"):
        MLP(3, 5, 2, 0)

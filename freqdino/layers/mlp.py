"""Multi-layer perceptron with ReLU between its layers; the prediction heads of DETR-like models are made of it."""
from itertools import pairwise

from torch import Tensor, nn

from freqdino.errors import ArgumentError
from freqdino.layers.linear import Linear, linear_relu


class MLP(nn.Module):
    """``num_layers`` linear layers, ReLU after each but the last; (..., input_dim) -> (..., output_dim).

    State-dict keys: ``layers.<i>.{weight,bias}``.
    """

    def __init__(self, input_dim: int, hidden_dim: int, output_dim: int, num_layers: int):
        super().__init__()
        if num_layers < 1:
            raise ArgumentError("num_layers", f"must be at least 1, got {num_layers}")
        dims = [input_dim] + [hidden_dim] * (num_layers - 1) + [output_dim]
        self.layers = nn.ModuleList(Linear(a, b) for a, b in pairwise(dims))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = linear_relu(x, layer)
        return self.layers[-1](x)

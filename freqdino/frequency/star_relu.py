"""StarReLU: a squared ReLU with one learned scale and one learned offset.

Source: MetaFormer Baselines for Vision (arXiv 2210.13452), section 3.1. FDAM and FDConv predict their gates from it.
"""
import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from freqdino.ops.modules import is_recorded


class StarReLU(nn.Module):
    """y = scale · relu(x)² + bias, elementwise: any shape in, the same shape out.

    ``scale`` (starts at 1) and ``bias`` (starts at 0) have shape (1,), as in published checkpoints.

    >>> StarReLU()(torch.tensor([-2.0, 0.5, 3.0])).tolist()
    [0.0, 0.25, 9.0]
    """

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.empty(1))
        self.bias = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.ones_(self.scale)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float16:    # whose largest number is the square of 256; infinity times a zero is none
            y = star_relu(x.float(), self.scale.float(), self.bias.float())
            return y.clamp(max=torch.finfo(x.dtype).max).to(x.dtype)
        return star_relu(x, self.scale, self.bias)


def star_relu(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """scale · relu(x)² + bias, of x's shape, in the widest of the three types. scale, bias: (1,)."""
    if is_recorded():
        rectified = torch.relu(x)
        return torch.addcmul(bias, scale * rectified, rectified)
    return SquaredRelu.apply(x, scale, bias)


class SquaredRelu(Function):
    """`star_relu`: of all that is computed relu(x) alone is kept, in half of the operators that autograd would take."""

    @staticmethod
    def forward(ctx, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        rectified = torch.relu(x)
        ctx.save_for_backward(rectified, scale)
        return torch.addcmul(bias, scale * rectified, rectified)

    @staticmethod
    @once_differentiable
    def backward(ctx, y_grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rectified, scale = ctx.saved_tensors
        product = y_grad * rectified
        if product.device.type == "cpu":
            scale_grad = (product * rectified).sum()
        else:       # one operator; a CPU's dot product adds one after the other, and so loses digits of large tensors
            scale_grad = product.flatten().dot(rectified.to(product.dtype).flatten())
        x_grad = (product * (2 * scale)).to(rectified.dtype)
        return x_grad, scale_grad.view(1).to(scale.dtype), y_grad.sum().view(1).to(scale.dtype)

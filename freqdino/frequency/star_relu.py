"""StarReLU: a squared ReLU with one learned scale and one learned offset.

Source: MetaFormer Baselines for Vision (arXiv 2210.13452), section 3.1. FDAM and FDConv predict their gates from it.
"""
import torch
from torch import Tensor, nn


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
        rectified = torch.relu(x)
        if x.dtype == torch.float16:    # whose largest number is the square of 256; infinity times a zero is none
            rectified = rectified.float()
            squared = torch.addcmul(self.bias.float(), self.scale.float() * rectified, rectified)
            return squared.clamp(max=torch.finfo(x.dtype).max).to(x.dtype)
        return torch.addcmul(self.bias, self.scale * rectified, rectified)

"""Two convolutions that read the same map, done as one: FreqFusion's encoders and its sampler's heads.

B: batch, C: channels, H, W: map.
"""
import torch
from torch import Tensor, nn
from torch.nn import functional as F


def joint_conv(x: Tensor, first: nn.Conv2d, second: nn.Conv2d) -> Tensor:
    """What ``torch.cat([first(x), second(x)], dim=1)`` gives, reading ``x`` once.

    Args:
        x: (B, C, H, W).
        first, second: convolutions with a bias, alike in everything but their numbers of output channels.

    Returns:
        (B, output channels of first + output channels of second, H', W').
    """
    weight = torch.cat([first.weight, second.weight])
    bias = torch.cat([first.bias, second.bias])
    return F.conv2d(x, weight, bias, first.stride, first.padding, first.dilation)

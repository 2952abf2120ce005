"""Two convolutions in one give what they give one after the other."""
import torch
from torch import nn

from freqdino.frequency.freqfusion.offset_generator import joint_conv


def test_equals_the_two_convolutions():
    first, second = (nn.Conv2d(5, out, 3, padding=2, dilation=2) for out in (3, 4))
    x = torch.randn(2, 5, 7, 6)
    torch.testing.assert_close(joint_conv(x, first, second), torch.cat([first(x), second(x)], dim=1))

"""StarReLU's numbers, by hand."""

import torch

from freqdino.frequency.star_relu import StarReLU


def test_scale_and_bias():
    layer = StarReLU()
    with torch.no_grad():
        layer.scale.fill_(2.0)
        layer.bias.fill_(-1.0)
    assert layer(torch.tensor([-3.0, 0.0, 0.5, 4.0])).tolist() == [-1.0, -1.0, -0.5, 31.0]


def test_half_precision_saturates():
    """600² is beyond float16's 65504; a scale that brings it back is applied first."""
    layer = StarReLU().half()
    assert layer(torch.tensor([600.0, 2.0], dtype=torch.float16)).tolist() == [65504.0, 4.0]
    with torch.no_grad():
        layer.scale.fill_(0.125)
    assert layer(torch.tensor([600.0], dtype=torch.float16)).item() == 45000.0 - 8       # float16 counts in steps of 32


def test_reset():
    layer = StarReLU()
    with torch.no_grad():
        layer.scale.zero_()
        layer.bias.fill_(3.0)
    layer.reset_parameters()
    assert layer.scale.item() == 1 and layer.bias.item() == 0

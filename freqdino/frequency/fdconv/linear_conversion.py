"""An FDLinear in the place of a finished linear layer, computing what that one computes.

Source: as `freqdino.frequency.fdlinear`; the counterpart of `freqdino.frequency.fdconv_conversion`.
"""
from torch import nn

from .fdlinear import FDLinear


def fdlinear_from_linear(linear: nn.Linear, **fdlinear_arguments) -> FDLinear:
    """An FDLinear that computes what ``linear`` computes: its weights, device, type and training mode.

    What is frozen stays so, but the modulation is always trainable. ``fdlinear_arguments`` are FDLinear's.
    Raises ValueError where FDLinear does, and for a subclass of nn.Linear.

    >>> import torch
    >>> plain, tokens = nn.Linear(32, 64), torch.randn(2, 49, 32)
    >>> torch.allclose(fdlinear_from_linear(plain, kernel_num=16)(tokens), plain(tokens), atol=1e-4)
    True
    """
    if type(linear) is not nn.Linear:
        raise ValueError(f"a {type(linear).__module__}.{type(linear).__qualname__} may compute something else than "
                         f"nn.Linear and cannot be converted")
    fdlinear = FDLinear(linear.in_features, linear.out_features, linear.bias is not None, linear.weight.device,
                        linear.weight.dtype, **fdlinear_arguments)
    fdlinear.load_state_dict(linear.state_dict())
    fdlinear.train(linear.training)
    for name, parameter in fdlinear.named_parameters(recurse=False):
        parameter.requires_grad_((linear.bias if name == "bias" else linear.weight).requires_grad)
    return fdlinear

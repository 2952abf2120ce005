"""Swap the convolutions of a finished model for FDConv, or a linear layer for FDLinear, keeping what it computes.

Source: Frequency Dynamic Convolution for Dense Image Prediction (CVPR 2025, arXiv 2503.18783): its pretrained networks
are converted this way.
"""
from collections.abc import Sequence

from torch import nn

from freqdino.frequency.conversion import (
    Predicate,
    check_convertible,
    check_options,
    dynamic_from_conv2d,
    replace_convolutions,
    take_over,
)
from freqdino.frequency.fdconv.conv import FDConv
from freqdino.frequency.fdconv.linear import FDLinear


def convert_to_fdconv(module: nn.Module, kernel_num: int = 64, where: Predicate | Sequence[str] | None = None,
                      **fdconv_arguments) -> list[str]:
    """Replace convolutions inside ``module`` by FDConv and return the dotted names of those replaced.

    ``where`` chooses them: name patterns with the wildcards of fnmatch ("layer*.conv?"; a dot is a character like
    others), or a predicate of name and convolution; default all. A chosen convolution that FDConv would leave plain
    (few channels, another kernel size, FDConv already) stays what it is and is not in the list. A module used twice
    stays shared. ``fdconv_arguments`` are FDConv's. Device, type, training mode, hooks and hyper-parameters are kept;
    so is requires_grad, but the modulation is always trainable: a frozen stage stays adaptive.

    nn.Conv2d and classes in the manner of Detectron2's Conv2d (``norm`` and ``activation`` applied to the output, both
    handed over) can be converted. ValueError if another subclass is chosen, a pattern matches no convolution, or
    ``module`` is itself a convolution (see ``fdconv_from_conv2d``). TypeError if ``module`` is no module, ``where`` is
    neither patterns nor a predicate, or FDConv has no such option, whether or not there is a convolution to convert.

    >>> model = nn.Sequential(nn.Conv2d(3, 32, 7), nn.ReLU(), nn.Conv2d(32, 64, 3))
    >>> convert_to_fdconv(model, kernel_num=16)
    ['2']
    >>> type(model[2]).__name__
    'FDConv'
    """
    check_options(FDConv, {"kernel_num": kernel_num, **fdconv_arguments})

    def make(conv):
        return conv if isinstance(conv, FDConv) else fdconv_from_conv2d(conv, kernel_num=kernel_num, **fdconv_arguments)

    return replace_convolutions(module, where, make)


def fdconv_from_conv2d(conv: nn.Conv2d, **fdconv_arguments) -> FDConv:
    """An FDConv that computes what ``conv`` computes: its weights, device, type, mode, norm and activation.

    ValueError for a subclass of nn.Conv2d that is not in the manner of Detectron2's (``norm`` and ``activation``),
    TypeError for an option that FDConv has not.
    """
    return dynamic_from_conv2d(FDConv, conv, **fdconv_arguments)


def fdlinear_from_linear(linear: nn.Linear, **fdlinear_arguments) -> FDLinear:
    """An FDLinear that computes what ``linear`` computes: its weights, device, type and training mode.

    What is frozen stays so, but the modulation is always trainable. ``fdlinear_arguments`` are FDLinear's.
    Raises ValueError where FDLinear does, and for a subclass of nn.Linear.

    >>> import torch
    >>> plain, tokens = nn.Linear(32, 64), torch.randn(2, 49, 32)
    >>> torch.allclose(fdlinear_from_linear(plain, kernel_num=16)(tokens), plain(tokens), atol=1e-4)
    True
    """
    check_convertible(linear, nn.Linear)
    fdlinear = FDLinear(linear.in_features, linear.out_features, linear.bias is not None, linear.weight.device,
                        linear.weight.dtype, **fdlinear_arguments)
    take_over(fdlinear, linear)
    return fdlinear

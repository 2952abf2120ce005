"""Swap the convolutions of a finished model for FDConv, or a linear layer for FDLinear, keeping what it computes.

Source: Frequency Dynamic Convolution for Dense Image Prediction (CVPR 2025, arXiv 2503.18783): its pretrained networks
are converted this way.
"""
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from inspect import Parameter, signature

from torch import nn

from freqdino.frequency.fdconv.conv import FDConv
from freqdino.frequency.fdconv.linear import FDLinear

Predicate = Callable[[str, nn.Conv2d], bool]


def convert_to_fdconv(module: nn.Module, kernel_num: int = 64, where: Predicate | Sequence[str] | None = None,
                      **fdconv_arguments) -> list[str]:
    """Replace convolutions inside ``module`` by FDConv and return the dotted names of those replaced.

    ``where`` chooses them: name patterns with the wildcards of fnmatch ("layer*.conv?"; a dot is a character like
    others), or a predicate of name and convolution; default all. A chosen convolution that FDConv would leave plain
    (few channels, another kernel size, FDConv already) stays what it is and is not in the list. A module used twice
    stays shared. ``fdconv_arguments`` are FDConv's. Device, type, training mode and hyper-parameters are kept; so is
    requires_grad, but the modulation is always trainable: a frozen stage stays adaptive.

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
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}")
    check_options(fdconv_arguments)
    if isinstance(module, nn.Conv2d):
        raise ValueError("module is a convolution itself, which cannot be replaced in place: use fdconv_from_conv2d")
    convolutions = [(name, child) for name, child in module.named_modules(remove_duplicate=False)
                    if isinstance(child, nn.Conv2d)]
    replacements: dict[nn.Conv2d, FDConv] = {}
    converted = {}
    for name, conv in chosen(convolutions, where):
        if isinstance(conv, FDConv):
            continue
        if conv not in replacements:
            try:
                replacements[conv] = fdconv_from_conv2d(conv, kernel_num=kernel_num, **fdconv_arguments)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        if replacements[conv].active:
            converted[name] = replacements[conv]
    for name, fdconv in converted.items():
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, fdconv)
    return list(converted)


def chosen(convolutions: list[tuple[str, nn.Conv2d]],
           where: Predicate | Sequence[str] | None) -> list[tuple[str, nn.Conv2d]]:
    if where is None:
        return convolutions
    if callable(where):
        return [(name, conv) for name, conv in convolutions if where(name, conv)]
    patterns = [where] if isinstance(where, str) else where
    if not isinstance(patterns, Sequence) or not all(isinstance(pattern, str) for pattern in patterns):
        raise TypeError(f"where must be name patterns, a predicate or None, got {where!r}")
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name, _ in convolutions):
            raise ValueError(f"where: the pattern {pattern!r} matches none of the {len(convolutions)} convolutions")
    return [(name, conv) for name, conv in convolutions if any(fnmatchcase(name, pattern) for pattern in patterns)]


def check_options(arguments: dict[str, object]):
    """TypeError for an argument that is none of FDConv's own, or that the convolution brings along."""
    options = [name for name, parameter in signature(FDConv).parameters.items()
               if parameter.kind is Parameter.KEYWORD_ONLY and name not in ("norm", "activation")]
    for name in arguments:
        if name not in options:
            raise TypeError(f"FDConv has no option {name!r}; known are {', '.join(options)}")


def fdconv_from_conv2d(conv: nn.Conv2d, **fdconv_arguments) -> FDConv:
    """An FDConv that computes what ``conv`` computes: its weights, device, type, mode, norm and activation.

    ValueError for a subclass of nn.Conv2d that is not in the manner of Detectron2's (``norm`` and ``activation``),
    TypeError for an option that FDConv has not.
    """
    check_options(fdconv_arguments)
    if type(conv) is not nn.Conv2d and not (hasattr(conv, "norm") and hasattr(conv, "activation")):
        raise ValueError(f"a {type(conv).__module__}.{type(conv).__qualname__} may compute something else than "
                         f"nn.Conv2d and cannot be converted")
    fdconv = FDConv(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation,
                    conv.groups, conv.bias is not None, conv.padding_mode, conv.weight.device, conv.weight.dtype,
                    **fdconv_arguments)
    fdconv.load_state_dict({name: value for name, value in conv.named_parameters(recurse=False)})
    fdconv.train(conv.training)
    for name, parameter in fdconv.named_parameters(recurse=False):
        parameter.requires_grad_((conv.bias if name == "bias" else conv.weight).requires_grad)
    fdconv.norm, fdconv.activation = getattr(conv, "norm", None), getattr(conv, "activation", None)
    return fdconv


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

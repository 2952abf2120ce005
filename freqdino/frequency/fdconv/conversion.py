"""Swap the convolutions of a finished model for FDConv, or a linear layer for FDLinear, keeping what it computes.

Source: Frequency Dynamic Convolution for Dense Image Prediction (CVPR 2025, arXiv 2503.18783): its pretrained networks
are converted this way.
"""
import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from inspect import Parameter, signature

from torch import nn
from torch.nn.utils import parametrize

from freqdino.errors import ArgumentError, errors_in
from freqdino.frequency.fdconv.conv import FDConv
from freqdino.frequency.fdconv.linear import FDLinear

# torch's attributes that hold the hooks round forward and backward.
CALL_HOOKS = re.compile(r"_(forward|backward|is_full_backward)_.*hook.*")
Predicate = Callable[[str, nn.Conv2d], bool]


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
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}")
    check_options(fdconv_arguments)
    if isinstance(module, nn.Conv2d):
        raise ArgumentError("module", "is a convolution itself, which cannot be replaced in place: use "
                            "fdconv_from_conv2d")
    convolutions = [(name, child) for name, child in module.named_modules(remove_duplicate=False)
                    if isinstance(child, nn.Conv2d)]
    inside = {part for _, conv in convolutions if isinstance(conv, FDConv) for part in conv.modules()} - {
        conv for _, conv in convolutions if isinstance(conv, FDConv)}
    convolutions = [(name, conv) for name, conv in convolutions if conv not in inside]
    replacements: dict[nn.Conv2d, FDConv] = {}
    converted = {}
    for name, conv in chosen(convolutions, where):
        if isinstance(conv, FDConv):
            continue
        if conv not in replacements:
            with errors_in(name):
                replacements[conv] = fdconv_from_conv2d(conv, kernel_num=kernel_num, **fdconv_arguments)
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
            raise ArgumentError("where", f"has the pattern {pattern!r}, which matches none of the {len(convolutions)} "
                                "convolutions")
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
    check_convertible(conv, nn.Conv2d, hasattr(conv, "norm") and hasattr(conv, "activation"))
    fdconv = FDConv(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation,
                    conv.groups, conv.bias is not None, conv.padding_mode, conv.weight.device, conv.weight.dtype,
                    **fdconv_arguments)
    take_over(fdconv, conv)
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
    check_convertible(linear, nn.Linear)
    fdlinear = FDLinear(linear.in_features, linear.out_features, linear.bias is not None, linear.weight.device,
                        linear.weight.dtype, **fdlinear_arguments)
    take_over(fdlinear, linear)
    return fdlinear


def check_convertible(plain: nn.Module, kind: type[nn.Module], alike: bool = False) -> None:
    """ValueError for a subclass of ``kind``, unless it is ``alike``, and for one whose weight is computed."""
    name = f"{type(plain).__module__}.{type(plain).__qualname__}"
    if parametrize.is_parametrized(plain) or "weight" not in dict(plain.named_parameters(recurse=False)):
        raise ValueError(f"the weight of a {name} is made of other parameters (weight_norm, spectral_norm, pruning or "
                         f"another parametrization) and cannot be converted: remove that first")
    if type(plain) is not kind and not alike:
        raise ValueError(f"a {name} may compute something else than nn.{kind.__name__} and cannot be converted; where "
                         f"only others are meant, name them")


def take_over(dynamic: FDConv | FDLinear, plain: nn.Module) -> None:
    """Give a new layer the weight, bias, mode and hooks of the plain layer that it replaces."""
    state = {name: value for name, value in plain.named_parameters(recurse=False) if name in ("weight", "bias")}
    dynamic.load_state_dict(state)
    dynamic.train(plain.training)
    for name, parameter in dynamic.named_parameters(recurse=False):
        parameter.requires_grad_((plain.bias if name == "bias" else plain.weight).requires_grad)
    # The very dictionaries, which are what the hooks' handles remove them from.
    dynamic.__dict__.update({name: value for name, value in plain.__dict__.items() if CALL_HOOKS.fullmatch(name)})

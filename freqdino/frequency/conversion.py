"""Replacing the layers of a finished model by dynamic ones, in place: what the conversions of this package share."""
import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from inspect import Parameter, signature
from typing import TypeVar

from torch import nn
from torch.nn.utils import parametrize

from freqdino.errors import ArgumentError, errors_in
from freqdino.frequency.image_conv import ImageConv2d

# torch's attributes that hold the hooks round forward and backward.
CALL_HOOKS = re.compile(r"_(forward|backward|is_full_backward)_.*hook.*")
Predicate = Callable[[str, nn.Conv2d], bool]
Dynamic = TypeVar("Dynamic", bound=ImageConv2d)


def replace_convolutions(module: nn.Module, where: Predicate | Sequence[str] | None,
                         make: Callable[[nn.Conv2d], ImageConv2d]) -> list[str]:
    """Put make(convolution) in the place of convolutions inside ``module``: the dotted names of those replaced.

    ``where`` chooses them, see `convert_to_fdconv`. A convolution of the very kind that ``make`` gives stays, and so
    does one that would be inactive; one that is used twice stays shared. Raises ArgumentError where ``module`` is
    itself a convolution, what `chosen` raises, TypeError for no module, and ValueError for another dynamic convolution.
    """
    replacements: dict[nn.Conv2d, ImageConv2d] = {}
    converted = {}
    for name, conv in chosen(convolutions_in(module), where):
        if conv not in replacements:
            with errors_in(name):
                replacements[conv] = make(conv)
        if replacements[conv] is not conv and replacements[conv].active:
            converted[name] = replacements[conv]
    for name, dynamic in converted.items():
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, dynamic)
    return list(converted)


def convolutions_in(module: nn.Module) -> list[tuple[str, nn.Conv2d]]:
    """All convolutions inside ``module`` with their names, but for the parts of dynamic ones."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}")
    if isinstance(module, nn.Conv2d):
        raise ArgumentError("module", "is a convolution itself, which cannot be replaced in place")
    convolutions = [(name, child) for name, child in module.named_modules(remove_duplicate=False)
                    if isinstance(child, nn.Conv2d)]
    inside = {part for _, conv in convolutions if isinstance(conv, ImageConv2d) for part in conv.modules()} - {
        conv for _, conv in convolutions if isinstance(conv, ImageConv2d)}
    return [(name, conv) for name, conv in convolutions if conv not in inside]


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


def check_options(kind: type[ImageConv2d], arguments: dict[str, object]) -> None:
    """TypeError for an argument that is none of ``kind``'s own, or that the convolution brings along."""
    options = [name for name, parameter in signature(kind).parameters.items()
               if parameter.kind is Parameter.KEYWORD_ONLY and name not in ("norm", "activation")]
    for name in arguments:
        if name not in options:
            raise TypeError(f"{kind.__name__} has no option {name!r}; known are {', '.join(options)}")


def dynamic_from_conv2d(kind: type[Dynamic], conv: nn.Conv2d, **arguments) -> Dynamic:
    """A ``kind`` in the place of ``conv``, with its weights, device, type, mode, norm and activation.

    ValueError for a subclass of nn.Conv2d that is not in the manner of Detectron2's (``norm`` and ``activation``), or
    is another dynamic convolution, TypeError for an option that ``kind`` has not.
    """
    dynamic = shaped_like(kind, conv, **arguments)
    take_over(dynamic, conv)
    take_norm(dynamic, conv)
    return dynamic


def shaped_like(kind: type[Dynamic], conv: nn.Conv2d, **arguments) -> Dynamic:
    """A new ``kind`` of the sizes, device and type of ``conv``; raises as above."""
    check_options(kind, arguments)
    check_convertible(conv, nn.Conv2d, hasattr(conv, "norm") and hasattr(conv, "activation"))
    return kind(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation,
                conv.groups, conv.bias is not None, conv.padding_mode, conv.weight.device, conv.weight.dtype,
                **arguments)


def take_norm(dynamic: ImageConv2d, conv: nn.Conv2d) -> None:
    """Give a new layer the norm and activation of the convolution that it replaces: the last of what it is given."""
    dynamic.norm, dynamic.activation = getattr(conv, "norm", None), getattr(conv, "activation", None)


def check_convertible(plain: nn.Module, kind: type[nn.Module], alike: bool = False) -> None:
    """ValueError for a subclass of ``kind``, unless it is ``alike``, and for one whose weight is computed."""
    name = f"{type(plain).__module__}.{type(plain).__qualname__}"
    if isinstance(plain, ImageConv2d):
        raise ValueError(f"a {name} is a dynamic convolution already")
    if parametrize.is_parametrized(plain) or "weight" not in dict(plain.named_parameters(recurse=False)):
        raise ValueError(f"the weight of a {name} is made of other parameters (weight_norm, spectral_norm, pruning or "
                         f"another parametrization) and cannot be converted: remove that first")
    if type(plain) is not kind and not alike:
        raise ValueError(f"a {name} may compute something else than nn.{kind.__name__} and cannot be converted; where "
                         f"only others are meant, name them")


def take_over(dynamic: nn.Module, plain: nn.Module) -> None:
    """Give a new layer the weight, bias and settings of the plain layer that it replaces."""
    dynamic.load_state_dict({name: value for name, value in plain.named_parameters(recurse=False)
                             if name in ("weight", "bias")})
    take_settings(dynamic, plain)


def take_settings(dynamic: nn.Module, plain: nn.Module) -> None:
    """Give a new layer the training mode and hooks of the plain one; its own parameters learn where that's did."""
    dynamic.train(plain.training)
    for name, parameter in dynamic.named_parameters(recurse=False):
        parameter.requires_grad_((plain.bias if name == "bias" else plain.weight).requires_grad)
    # The very dictionaries, which are what the hooks' handles remove them from.
    dynamic.__dict__.update({name: value for name, value in plain.__dict__.items() if CALL_HOOKS.fullmatch(name)})

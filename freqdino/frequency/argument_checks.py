"""Checks of arguments that several modules share: errors with the argument's name and what was given."""
from collections.abc import Sequence
from numbers import Integral

from torch import Tensor, nn

from freqdino.errors import ArgumentError
from freqdino.ops.autocast import autocast_type
from freqdino.ops.modules import parameter_type


def check_counts(least: int = 1, **arguments: int | Sequence[int]) -> None:
    """ArgumentError unless every argument is an integer of at least ``least``, or a sequence of such integers.

    >>> check_counts(dim=64, kernel_size=(3, 1))
    >>> check_counts(dim=0)
    Traceback (most recent call last):
    freqdino.errors.ArgumentError: dim must be at least 1, got 0
    """
    for name, value in arguments.items():
        for number in value if isinstance(value, (tuple, list)) else (value,):
            if not isinstance(number, Integral):
                raise ArgumentError(name, f"must be an integer, got {value!r}")
            if number < least:
                raise ArgumentError(name, f"must be at least {least}, got {value!r}")


def check_choice(choices: Sequence[object], **arguments: object) -> None:
    """ArgumentError unless every argument is one of the choices. A text such as "False" is no False.

    >>> check_choice(("sum", "avg"), fuse_type="max")
    Traceback (most recent call last):
    freqdino.errors.ArgumentError: fuse_type must be one of sum, avg, got 'max'
    """
    for name, value in arguments.items():
        if value not in choices:
            raise ArgumentError(name, f"must be one of {', '.join(map(str, choices))}, got {value!r}")


def check_type(name: str, tensor: Tensor, module: nn.Module) -> None:
    """ValueError unless the tensor has the type of the module's parameters.

    Any floating-point type does under autocast, which converts, and where no parameter is at hand.
    """
    expected = parameter_type(module)
    if expected is None or autocast_type(tensor) is not None:
        if not tensor.is_floating_point():
            raise ValueError(f"{name} must be of a floating-point type, got {tensor.dtype}")
    elif tensor.dtype != expected:
        raise ValueError(f"{name} must have the type of the parameters, {expected}, got {tensor.dtype}")

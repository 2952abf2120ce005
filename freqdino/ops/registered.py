"""Operators with a gradient rule of their own, registered with ``torch.library``.

torch then knows each by name: modes that watch functions see it as one, and ``torch.library.opcheck`` can hold its
schema, its shapes and its gradient against what it does. Modes that watch what is dispatched see what it is made of,
as of any autograd function: they count what is launched.
"""
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

# Not custom_op with register_autograd, whose own Python takes 65 to 180 µs of a call and its gradient, where this takes
# 25 to 90: a training step has hundreds of calls.
LIBRARY = torch.library.Library("freqdino", "FRAGMENT")


class RegisteredFunction:
    """What ``torch.autograd.Function`` is, for functions of one output that torch knows by a name.

    ``schema``: ``name(Tensor x, int[] sizes) -> Tensor``, in torch's notation; the operator is ``freqdino::name``.
    A subclass has three static methods. ``forward(*inputs)`` computes a tensor that shares no memory with the inputs.
    ``empty(*inputs)`` makes that tensor without its values: shape, type, device, strides. ``backward(ctx, grad)``
    returns a gradient or None for each input, once: the gradients cannot be differentiated. Unless the subclass has a
    ``setup_context(ctx, inputs, output)`` of its own, the tensors among the inputs are ``ctx.saved_tensors`` there, the
    others ``ctx.settings``.

    ``apply`` is the operator, ``of_operator`` finds the subclass of one.
    """
    apply: ClassVar[torch._ops.OpOverload]
    forward: ClassVar[Callable[..., Tensor]]
    empty: ClassVar[Callable[..., Tensor]]
    backward: ClassVar[Callable[..., Any]]
    of_operator: ClassVar[dict[torch._ops.OpOverload, type["RegisteredFunction"]]] = {}

    def __init_subclass__(cls, *, schema: str):
        name = LIBRARY.define(schema)
        cls.apply = operator = getattr(torch.ops.freqdino, name).default
        cls.of_operator[operator] = cls

        def forward(ctx, *inputs):
            output = cls.forward(*inputs)
            cls.setup_context(ctx, inputs, output)
            return output

        differentiable = type(cls.__name__, (Function,), {"forward": staticmethod(forward),
                                                          "backward": staticmethod(once_differentiable(cls.backward))})
        LIBRARY.impl(name, lambda *inputs: differentiable.apply(*inputs), "Autograd")
        LIBRARY.impl(name, cls.forward, "CompositeExplicitAutograd")
        torch.library.register_fake(f"freqdino::{name}", cls.empty, lib=LIBRARY)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*(value for value in inputs if isinstance(value, Tensor)))
        ctx.settings = [value for value in inputs if not isinstance(value, Tensor)]

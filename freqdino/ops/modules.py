"""What keeps a module right whatever is done to it: moved, emptied, hooked, its parts swapped, replicated, recorded."""
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
import torch.fx
from torch import Tensor, nn

HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


class DerivedBuffers(nn.Module):
    """Base of a module whose ``derived_buffers`` follow from its arguments; they are not part of the state dict.

    What is done to all tensors of a module tells them their device and, where they are floating-point, whether float64
    is asked for; their values stay. Those that lie on the meta device are made anew when the module leaves it. A
    subclass calls ``make_buffers`` once it has its arguments, and ``materialise`` before it uses the buffers: loading
    with ``assign=True`` replaces the parameters alone.
    """

    def derived_buffers(self) -> dict[str, Tensor]:
        """Name -> value, on the default device."""
        raise NotImplementedError

    def make_buffers(self, device: torch.device | None = None) -> None:
        device = default_device() if device is None else device
        # Outside inference mode, whose tensors could not serve a later training.
        with torch.inference_mode(False), torch.device("meta" if device.type == "meta" else "cpu"):
            buffers = self.derived_buffers()
        for name, value in buffers.items():
            self.register_buffer(name, value.to(device), persistent=False)
        self.derived_names = tuple(buffers)

    def materialise(self, device: torch.device | None = None) -> None:
        """Make the buffers where they are still on the meta device and ``device`` is not: the parameters', or what a
        module without parameters is given."""
        if any(self._buffers[name].is_meta for name in self.derived_names):
            if device is None:
                device = next((parameter.device for parameter in self.parameters()), None)
            if device is not None and device.type != "meta":
                self.make_buffers(device)

    def _apply(self, fn, recurse=True):
        names = self.__dict__.get("derived_names", ())
        before = {name: self._buffers[name] for name in names}
        super()._apply(fn, recurse)
        for name, value in before.items():
            now = self._buffers[name]
            if value.is_meta and not now.is_meta:
                self.make_buffers(now.device)
            elif now is not value and not now.is_meta:  # to_empty gives fresh memory, half() fewer digits
                wide = torch.promote_types(now.dtype, value.dtype) if value.is_floating_point() else value.dtype
                self._buffers[name] = value.to(now.device, wide)
        return self


def default_device() -> torch.device:
    """Where tensors are made; ``torch.get_default_device`` of torch 2.6 does not see ``with torch.device(...)``."""
    return torch.tensor(()).device


def kept_whole(module: nn.Module, *inputs: Tensor) -> torch.fx.Proxy | None:
    """The call of the module as one node where torch.fx records it symbolically, as it keeps torch's own layers.

    Else None. What a module decides by sizes and types cannot be recorded so.
    """
    if not isinstance(inputs[0], torch.fx.Proxy):
        return None
    tracer = inputs[0].tracer
    return tracer.create_proxy("call_module", tracer.path_of_module(module), inputs, {})


def is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether calling the module is ``kind``'s forward with its ``weight`` and nothing else.

    Only then may a shortcut compute with the weight and not call the module: another class (FDConv, an adapter, an int8
    layer), hooks, weight_norm or pruning would be passed over silently.
    """
    return type(module) is kind and "weight" in module.__dict__["_parameters"] and not any(
        module.__dict__[hooks] for hooks in HOOKS)


def parameter_type(module: nn.Module) -> torch.dtype | None:
    """The type of the module's first floating-point parameter; None where it has none at hand.

    That is so in a replica of nn.DataParallel and where int8 layers took the place of linear ones.
    """
    for parameter in module.parameters():
        if parameter.is_floating_point():
            return parameter.dtype
    return None


def with_zero_gradients(empty: Tensor, module: nn.Module) -> Tensor:
    """The output ``empty`` (of no elements) of an empty batch, from which each of the module's parameters gets a zero.

    Without a gradient of some parameter, distributed training waits for it forever.
    """
    for parameter in module.parameters():
        if parameter.requires_grad:
            empty = empty + parameter.sum().to(empty.dtype)
    return empty


def is_recorded() -> bool:
    """Whether torch.jit.trace or torch.export records what is computed, or torch.func transforms it.

    Then operators take their reference's way: a recording of an autograd function of ours could not be saved, and
    torch.func.grad could not pass it.
    """
    return torch.jit.is_tracing() or torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def is_exported() -> bool:
    """Whether torch.export records what is computed, for itself or for ONNX; a torch that cannot tell says no.

    Then operators take definitions of their own, of nothing but plain operators that other runtimes have too, whose
    sizes may be symbols.
    """
    return getattr(torch.compiler, "is_exporting", bool)()


def sizes_left_open() -> AbstractContextManager:
    """A context in which torch.export ties a graph to no more of its sizes than the operators ask for.

    Outside, it compares strides of all that is made, so that a graph that was recorded at sizes with padding may refuse
    those without, and one image where two were recorded.
    """
    from torch.fx.experimental import _config  # here: few export

    return _config.patch(backed_size_oblivious=True) if hasattr(_config, "backed_size_oblivious") else nullcontext()


def same_size(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two sizes are equal; under torch.export, whether they are for all inputs that the graph is made for.

    Else to have asked would tie the graph to the answer.
    """
    if not is_exported():
        return tuple(one) == tuple(other)
    from torch.fx.experimental.symbolic_shapes import statically_known_true  # here: it imports sympy

    return all(statically_known_true(length == wanted) for length, wanted in zip(one, other, strict=True))


def ready_to_flatten(tensor: Tensor) -> Tensor:
    """The tensor; under torch.export a copy, as to ask whether its strides allow a view would tie the graph to the
    answer.
    """
    return tensor.clone(memory_format=torch.contiguous_format) if is_exported() else tensor


def overwrites() -> bool:
    """Whether results may go into memory that is written again: autograd, and a recording, need each value kept."""
    return not torch.is_grad_enabled() and not is_recorded()


class PutBefore:
    """Base of a class that `put_before` puts before the class that a module has, whose methods are its ``super()``."""

    def __reduce_ex__(self, protocol):
        """For copies and pickles, which find a class by its name, and this one is made."""
        return empty_module, type(self).made_of, self.__dict__


@cache
def class_put_before(addition: type[PutBefore], kind: type[nn.Module]) -> type[nn.Module]:
    """A subclass of both; ``made_of`` names what it and the classes that it stands on were made of."""
    made_of = (addition, *getattr(kind, "made_of", (kind,)))
    return type(f"{addition.__name__}{kind.__name__}", (addition, kind),
                {"__module__": addition.__module__, "made_of": made_of})


def put_before(addition: type[PutBefore], module: nn.Module) -> None:
    """Let ``module`` be of its own class with ``addition`` before it, in place: parameters, keys and hooks stay.

    >>> class Doubled(PutBefore):
    ...     def forward(self, x):
    ...         return 2 * super().forward(x)
    >>> identity = nn.Identity()
    >>> put_before(Doubled, identity)
    >>> identity(3), isinstance(identity, nn.Identity)
    (6, True)
    """
    module.__class__ = class_put_before(addition, type(module))


def empty_module(*made_of: type) -> nn.Module:
    """A module of the class that ``made_of`` describes, without its attributes."""
    *additions, kind = made_of
    for addition in reversed(additions):
        kind = class_put_before(addition, kind)
    return kind.__new__(kind)

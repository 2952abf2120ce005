"""A CUDA device that is not there: CPU tensors in wrappers that say ``cuda:0``, for tests of dispatch, types and waits.

Within ``PretendedGPU()`` tensors go to "cuda" and back, the dispatcher and CUDA's autocast treat them as CUDA's, an
operator that mixes devices is an error, and what makes the host wait for the device is counted by function.
Values are the CPU's. Not shown: CUDA's kernels, their numbers and their time.

torch's autograd engine asks the driver for streams, so that ``backward`` here is a walk over the same graph.
"""
import sys
from collections import Counter, defaultdict
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

import freqdino

PACKAGE = Path(freqdino.__file__).parent
GPU, CURRENT = torch.device("cuda", 0), torch.device("cuda")
aten = torch.ops.aten
WAITS = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten.is_nonzero, aten.unique_dim,
         aten._unique2, aten.repeat_interleave, aten.unique_consecutive}


class GpuTensor(Tensor):
    """A tensor that says it lies on cuda:0; ``inner`` has its values."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> "GpuTensor":
        wrapper = Tensor._make_wrapper_subclass(cls, inner.size(), inner.stride(), inner.storage_offset(),
                                                dtype=inner.dtype, device=GPU)
        wrapper.inner = inner
        return wrapper

    def __repr__(self):
        return f"GpuTensor({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise RuntimeError(f"{function} on a pretended GPU outside of it")


class FirstDevice(TorchFunctionMode):
    """Gives "cuda" its number, for which torch would ask the driver, and copies lists to it by way of the host."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.device:
            return function(*args, **kwargs)
        args, kwargs = tree_map_only((str, torch.device), numbered, (args, kwargs))
        if function is Tensor.cuda:
            return args[0].to(GPU)
        if function is Tensor.new_tensor:
            like, *args = args
            function, kwargs = torch.tensor, {"dtype": like.dtype, "device": like.device, **kwargs}
        if function in (torch.tensor, torch.as_tensor) and kwargs.get("device") == GPU:
            return function(*args, **{**kwargs, "device": "cpu"}).to(GPU)
        return function(*args, **kwargs)


def numbered(device):
    return GPU if device in ("cuda", CURRENT) else device


class PretendedGPU(TorchDispatchMode):
    """The context; ``waits``: "file.py:function" -> how often the host waited there."""

    def __init__(self):
        super().__init__()
        self.waits: Counter[str] = Counter()
        self._patches = ExitStack()

    def __enter__(self):
        if not hasattr(torch._C, "_ensureCUDADeviceGuardSet"):
            pytest.skip(f"torch {torch.__version__} asks CUDA's driver for streams")
        torch._C._ensureCUDADeviceGuardSet()    # streams that no driver is asked for, as fake tensors need them
        for target, name, value in (
            (torch.cuda, "is_available", lambda: True), (torch.cuda, "device_count", lambda: 1),
            (torch.cuda, "get_device_capability", lambda *_: (9, 0)),
            (torch.cuda, "get_device_name", lambda *_: "a pretended GPU"),
            (torch.cuda, "_lazy_init", lambda: None), (torch.cuda, "current_device", lambda: 0),
            (torch.cuda, "is_bf16_supported", lambda *_: True), (torch.cuda, "synchronize", lambda *_: None),
            (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
            (Tensor, "backward", backward),
        ):
            self._patches.enter_context(mock.patch.object(target, name, value))
        self._patches.enter_context(FirstDevice())
        self._patches.enter_context(torch.backends.cudnn.flags(enabled=False))      # its batch norm is another operator
        self._patches.enter_context(torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH))
        self._overwritten = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        return super().__enter__()

    def __exit__(self, *raised):
        super().__exit__(*raised)
        torch.__future__.set_overwrite_module_params_on_conversion(self._overwritten)
        self._patches.close()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        wrappers, on_host = {}, []

        def unwrap(tensor):
            if isinstance(tensor, GpuTensor):
                wrappers[id(tensor.inner)] = tensor
                return tensor.inner
            on_host.append(tensor)
            return tensor

        inner_args, inner_kwargs = tree_map_only(Tensor, unwrap, (args, kwargs))
        device = kwargs.get("device")
        goes = None if device is None else torch.device(device).type
        if goes == "cuda":
            inner_kwargs["device"] = torch.device("cpu")
        packet = function.overloadpacket
        copies = packet in (aten._to_copy, aten.copy_)
        indexes = packet in (aten.index, aten.index_put, aten.index_put_)    # an index on the host is copied
        mixed = bool(wrappers) and any(tensor.dim() for tensor in on_host)
        if mixed and not copies and not indexes:
            raise RuntimeError(f"{function} mixes a tensor on cuda:0 with one on cpu")
        crossing = copies and (bool(wrappers) and (goes == "cpu" or bool(on_host)) or not wrappers and goes == "cuda")
        if crossing or wrappers and (packet in WAITS or indexes and (mixed or self._by_mask(inner_args[1]))):
            self.waits[our_function()] += 1
        result = self._run(function, inner_args, inner_kwargs)
        stays = goes != "cuda" and (not wrappers or goes is not None)
        if stays or packet is aten.copy_ and not isinstance(args[0], GpuTensor):
            return result
        return tree_map_only(Tensor, lambda tensor: wrappers[id(tensor)] if id(tensor) in wrappers
                             else GpuTensor(tensor), result)

    @staticmethod
    def _by_mask(indices):
        """Whether the size of what is indexed is the device's to know."""
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)

    @staticmethod
    def _run(function, args, kwargs):
        if function is aten._softmax.default and args[2]:       # half in, float32 out: CUDA's alone
            return function(args[0].float(), args[1], False)
        if function is aten._log_softmax.default and args[2]:
            return function(args[0].float(), args[1], False)
        if function in (aten._softmax_backward_data.default, aten._log_softmax_backward_data.default) and (
                args[3] != args[0].dtype):
            return function(*args[:3], args[0].dtype).to(args[3])
        return function(*args, **kwargs)


def our_function() -> str:
    """The innermost function of the package that is being run."""
    frame = sys._getframe(1)
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if PACKAGE in file.parents and not frame.f_code.co_name.startswith("<"):    # a comprehension's, before 3.12
            return f"{file.relative_to(PACKAGE)}:{frame.f_code.co_name}"
        frame = frame.f_back
    return "elsewhere"


def backward(loss: Tensor, gradient: Tensor | None = None) -> None:
    """``loss.backward()``: every node of its graph once, after all that hand it gradients."""
    pending, order, gradients = Counter(), [loss.grad_fn], defaultdict(dict)
    for node in order:      # grows while it is read
        for following, _ in node.next_functions:
            if following is not None:
                if not pending[following]:
                    order.append(following)
                pending[following] += 1
    gradients[loss.grad_fn][loss.output_nr] = torch.ones_like(loss) if gradient is None else gradient
    ready = [loss.grad_fn]
    with torch.no_grad():
        while ready:
            node = ready.pop()
            for (following, place), value in zip(node.next_functions, outputs_of(node, gradients.pop(node, {}))):
                if following is None:
                    continue
                if value is not None:
                    value = fitted(value, following._input_metadata[place])
                    before = gradients[following].get(place)
                    gradients[following][place] = value if before is None else before + value
                pending[following] -= 1
                if not pending[following]:
                    ready.append(following)


def outputs_of(node, gradients: dict[int, Tensor]) -> tuple[Tensor | None, ...]:
    """The gradients of what a node has computed from, from those of what it has computed."""
    if not gradients:
        return (None,) * len(node.next_functions)
    if hasattr(node, "variable"):       # a leaf
        leaf = node.variable
        leaf.grad = gradients[0] if leaf.grad is None else leaf.grad + gradients[0]
        return ()
    inputs = [gradients.get(place) for place in range(len(node._input_metadata))]
    if isinstance(node, torch.autograd.function.BackwardCFunction):
        inputs = [torch.zeros(meta.shape, dtype=meta.dtype, device=meta.device) if value is None else value
                  for value, meta in zip(inputs, node._input_metadata)]
        results = node.apply(*inputs)
    else:
        results = node(*inputs)
    return results if isinstance(results, tuple) else (results,)


def fitted(gradient: Tensor, meta) -> Tensor:
    """A gradient summed over what was broadcast, in the type of what it belongs to, as the engine does it."""
    return gradient.sum_to_size(tuple(meta.shape)).to(meta.dtype)

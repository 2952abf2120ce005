"""The ``weight`` of a layer that keeps Fourier coefficients in its place, for code that initialises convolutions."""
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

# What reads the shape, type and device of a tensor and none of its values.
MADE_LIKE = tuple(getattr(torch.ops.aten, name).default for name in (
    "empty_like", "zeros_like", "ones_like", "rand_like", "randn_like", "full_like", "new_empty", "new_zeros",
    "new_ones", "new_full"))


class PlainWeight(Tensor):
    """A tensor of the plain weight's shape, type and device that can be filled but not computed with.

    What is done to it in place (``nn.init``, ``weight.data.normal_()``, ``weight.data = …``) is done to the layer's
    weight at neutral modulation and then becomes its coefficients; ``requires_grad`` is theirs. To compute with it, as
    fusing, weight_norm or pruning do, would pass over the modulation: a ValueError says what to do. So does one for an
    optimiser, which would get no gradient for it and learn nothing.
    """

    @staticmethod
    def __new__(cls, layer: nn.Module, requires_grad: bool, shape: Sequence[int] | None = None):
        coefficients = layer.dft_weight
        return Tensor._make_wrapper_subclass(cls, layer.plain_shape if shape is None else shape,
                                             dtype=coefficients.dtype, device=coefficients.device,
                                             requires_grad=requires_grad)

    def __init__(self, layer: nn.Module, requires_grad: bool, shape: Sequence[int] | None = None):
        self.layer = layer

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func == Tensor.data.__set__:
            with torch.no_grad():
                args[0].copy_(args[1])
            return None
        if func == Tensor.is_leaf.__get__:      # what an optimiser asks
            name = type(args[0].layer).__name__
            raise ValueError(f"{name}'s weight is no parameter, dft_weight is: an optimiser would never get a gradient "
                             f"for it. Hand over {name}.parameters(), whose modulation learns too")
        with torch._C.DisableTorchFunctionSubclass():       # Tensor's own would make every result a PlainWeight
            result = func(*args, **(kwargs or {}))
        if func in (Tensor.requires_grad_, Tensor.requires_grad.__set__):
            args[0].layer.dft_weight.requires_grad_(args[0].requires_grad)
        return result

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten.detach.default:
            return PlainWeight(args[0].layer, False, args[0].shape)
        if func is torch.ops.aten.view.default and isinstance(args[0], cls):    # nn.init.orthogonal_ fills a matrix
            return PlainWeight(args[0].layer, False, torch.empty(args[0].shape, device="meta").view(args[1]).shape)
        if func in MADE_LIKE:
            return func(torch.empty(args[0].shape, dtype=args[0].dtype, device=args[0].device), *args[1:], **kwargs)
        own = [value for value in tree_leaves((args, kwargs)) if isinstance(value, cls)]
        weight = own[0]
        if len(own) > 1 or weight is not args[0] or not func._schema.arguments[0].is_write:
            raise ValueError(cannot_be_computed_with(weight.layer))
        filled = weight.layer.static_weight().detach().contiguous()
        func(filled.view(weight.shape), *args[1:], **kwargs)
        with torch.no_grad():
            weight.layer.dft_weight.copy_(weight.layer.to_coefficients(filled))
        return weight

    def __repr__(self):
        return f"PlainWeight({tuple(self.shape)}, in {type(self.layer).__name__}'s dft_weight)"


def cannot_be_computed_with(layer: nn.Module) -> str:
    name = type(layer).__name__
    return (f"{name} has no weight to compute with: dft_weight holds its Fourier coefficients, of which each image "
            f"gets a weight of its own. static_weight() is the one at neutral modulation; weight.data.copy_(w) sets "
            f"it. weight_norm, spectral_norm, pruning and other parametrizations of weight need a {name} with "
            f"convert_param=False; a normalisation that follows cannot be fused into it")

"""The ``weight`` of a layer that keeps Fourier coefficients in its place, for code that initialises convolutions."""
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


class PlainWeight(Tensor):
    """A tensor of the plain weight's shape, type and device that can be filled but not computed with.

    What is done to it in place (``nn.init``, ``weight.data.normal_()``, ``weight.data = …``) is done to the layer's
    weight at neutral modulation and then becomes its coefficients; ``requires_grad`` is theirs. To compute with it, as
    fusing, weight_norm or pruning do, would pass over the modulation: a ValueError says what to do.
    """

    @staticmethod
    def __new__(cls, layer: nn.Module, requires_grad: bool):
        coefficients = layer.dft_weight
        return Tensor._make_wrapper_subclass(cls, layer.plain_shape, dtype=coefficients.dtype,
                                             device=coefficients.device, requires_grad=requires_grad)

    def __init__(self, layer: nn.Module, requires_grad: bool):
        self.layer = layer

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func == Tensor.data.__set__:
            with torch.no_grad():
                args[0].copy_(args[1])
            return None
        result = super().__torch_function__(func, types, args, kwargs or {})
        if func in (Tensor.requires_grad_, Tensor.requires_grad.__set__):
            args[0].layer.dft_weight.requires_grad_(args[0].requires_grad)
        return result

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten.detach.default:
            return PlainWeight(args[0].layer, False)
        own = [value for value in tree_leaves((args, kwargs)) if isinstance(value, cls)]
        weight = own[0]
        if len(own) > 1 or weight is not args[0] or not func._schema.arguments[0].is_write:
            raise ValueError(cannot_be_computed_with(weight.layer))
        filled = weight.layer.static_weight().detach().contiguous()
        func(filled, *args[1:], **kwargs)
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

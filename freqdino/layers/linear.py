"""Linear layer computed by oneDNN on the CPU, as the convolutions are.

torch's own goes to MKL, which uses half of an AMD processor's vector width: 5376 tokens, 256 -> 1024 -> 256 with ReLU
between, one thread of an EPYC: 59 ms forward, 188 ms with backward; by oneDNN 27 and 103 ms.
N: tokens, I: channels in, O: channels out.
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqdino.ops.modules import is_plain, is_recorded
from freqdino.ops.registered import RegisteredFunction

# Others have a product of their own, as quantised weights do.
PLAIN_TENSORS = (Tensor, nn.Parameter)


class Linear(nn.Linear):
    """torch's linear layer with its arguments and keys, by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def swap_linear(network: nn.Module, old: type[nn.Linear] = nn.Linear, new: type[nn.Linear] = Linear) -> None:
    """Let every part of ``network`` that is an ``old`` and of no subclass be a ``new``, in place.

    Parameters, hooks and whatever else the layer has are the same objects, so that keys, optimisers and tied weights
    stay. ``swap_linear(network, Linear, nn.Linear)`` gives torch's back, for tools that look for its class, such as
    `torch.ao.quantization.quantize_dynamic`.

    >>> network = nn.Sequential(nn.Linear(2, 2), nn.Bilinear(2, 2, 2))
    >>> swap_linear(network)
    >>> [type(part) is Linear for part in network]
    [True, False]
    """
    swapped = {}
    for name, part in list(network.named_modules(remove_duplicate=False)):
        if type(part) is old and part is not network:
            if part not in swapped:
                swapped[part] = new.__new__(new)
                swapped[part].__dict__ = part.__dict__
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, swapped[part])


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, *, relu: bool = False) -> Tensor:
    """x (..., I) times weight (O, I), plus bias (O,), through a ReLU where ``relu`` is set -> (..., O).

    Float32 on the CPU goes to oneDNN and is differentiable once; everything else is torch's, also no tokens, and the
    error where the channels differ.
    """
    tensors = (x, weight) if bias is None else (x, weight, bias)
    if (all(type(tensor) in PLAIN_TENSORS and tensor.device.type == "cpu" and tensor.dtype == torch.float32
            for tensor in tensors)
            and x.numel() and x.shape[-1] == weight.shape[-1]
            and not is_recorded() and torch.backends.mkldnn.is_available() and not torch.is_autocast_enabled("cpu")):
        return OneDNNLinear.apply(dense(x), dense(weight), bias, relu)
    product = F.linear(x, weight, bias)
    return product.relu() if relu else product


def linear_relu(x: Tensor, layer: nn.Module) -> Tensor:
    """relu(layer(x)), as one operator where the layer is nothing but a `Linear`."""
    if is_plain(layer, Linear):
        return linear(x, layer.weight, layer.bias, relu=True)
    return layer(x).relu()


class OneDNNLinear(RegisteredFunction, schema="""onednn_linear(
        Tensor x, Tensor weight, Tensor? bias, bool relu) -> Tensor"""):
    """`linear` of dense tensors as one operator, and its gradients as three."""

    @staticmethod
    def forward(x, weight, bias, relu):
        # oneDNN reads a bias as contiguous memory, whatever its strides.
        product = _onednn_product(x, weight, None if bias is None else bias.contiguous())
        if relu:
            product.relu_()     # oneDNN's own, which could be part of the product, makes zero of what is not a number
        return product

    @staticmethod
    def empty(x, weight, bias, relu):
        return x.new_empty(*x.shape[:-1], len(weight))

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, weight, _, relu = inputs
        ctx.save_for_backward(x, weight, output if relu else None)

    @staticmethod
    def backward(ctx, grad):
        x, weight, product = ctx.saved_tensors
        grad = dense(grad)
        if product is not None:
            grad = torch.ops.aten.threshold_backward(grad, product, 0)
        x_needs, weight_needs, bias_needs, _ = ctx.needs_input_grad
        tokens, grad_tokens = x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1])
        grad_x = _onednn_product(grad, weight.T) if x_needs else None
        grad_weight = grad_bias = None
        if weight_needs:
            # oneDNN copies a transposed first factor, so that is the narrower one.
            if x.shape[-1] < grad.shape[-1]:
                grad_weight = _onednn_product(tokens.T, grad_tokens.T).T
            else:
                grad_weight = _onednn_product(grad_tokens.T, tokens.T)
        if bias_needs:
            grad_bias = grad_tokens.sum(dim=0)
        return grad_x, grad_weight, grad_bias, None


def dense(tensor: Tensor) -> Tensor:
    """The tensor, copied where its strides are such that oneDNN's product takes a path a thousand times slower.

    Such are those of an expanded tensor, the gradient of .sum() being one, and of every other column of another.
    """
    return tensor if tensor.is_contiguous() or tensor.dim() == 2 and tensor.T.is_contiguous() else tensor.contiguous()


def _onednn_product(x, weight, bias=None):
    """x (..., I), weight (O, I) -> (..., O): the operator that torch.compile makes of a linear layer on the CPU."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")

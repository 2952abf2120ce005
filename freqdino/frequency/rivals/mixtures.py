"""Convolutions whose weight is a mixture of several kernels for each image: CondConv and DY-Conv.

Sources: CondConv: Conditionally Parameterized Convolutions for Efficient Inference (NeurIPS 2019, arXiv 1904.04971);
Dynamic Convolution: Attention over Convolution Kernels (DY-Conv, CVPR 2020, arXiv 1912.03458).

Shape key: B: batch, K: kernels, Ci, Co: input and output channels, G: groups of the convolution, H, W: input size,
H', W': output size, kh, kw: kernel size.
"""
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqdino.frequency.argument_checks import check_counts
from freqdino.frequency.fdconv.fourier_weight import at_least_float32
from freqdino.frequency.fdconv.kernel_modulation import NeutralHead, add_neutral
from freqdino.frequency.image_conv import ImageConv2d, by_images
from freqdino.frequency.plain_state import FromPlainState, plain_entry
from freqdino.frequency.rivals.temperature import Annealed
from freqdino.ops.autocast import product_type, without_autocast

# By how much the kernels that a plain one becomes differ from it, as a share of each element.
APART = 0.01
GOLDEN_RATIO = (5 ** 0.5 - 1) / 2


class WeightOfFactors(FromPlainState, ImageConv2d):
    """Base of a drop-in for nn.Conv2d whose ``attention`` maps the mean of x (B, Ci) to the factors that an image's
    weight is made of. A subclass has ``image_weights``, and ``plain_shape`` (Co, Ci/G, kh, kw)."""

    attention: nn.Module
    plain_shape: torch.Size

    def stored(self) -> Tensor:
        """The parameter that weights are made of."""
        raise NotImplementedError

    def image_weights(self, factors: Tensor) -> Tensor:
        """(B, ...) -> (B, Co, Ci/G, kh, kw), in float32 at least."""
        raise NotImplementedError

    def respond_to(self, x: Tensor, pooled: Tensor) -> Tensor:
        with without_autocast(x):
            factors = self.attention(pooled.to(self.stored().dtype))
        return by_images(self.respond, (x, factors), self.plain_shape)

    def respond(self, x: Tensor, factors: Tensor) -> Tensor:
        with without_autocast(x):
            weight = self.image_weights(factors).to(product_type(x))
        return self.convolve(x, weight)


class KernelMixture(WeightOfFactors):
    """Base of a drop-in for nn.Conv2d whose parameter is ``kernels`` (K·Co, Ci/G, kh, kw) in the place of ``weight``.

    ``attention`` maps the mean of x (B, Ci) to one factor a kernel (B, K); the weight of an image is the sum of the
    kernels, each times its factor. It is computed in float32 at least. A plain convolution's state dict loads: its
    weight becomes ``kernels`` (`from_plain`); the attention stays what it is, but CondConv's, which is set to its
    start. ``num``: K, `NUM` unless it is given, at least `LEAST`.
    """

    NUM, LEAST = 4, 2

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int | tuple[int, int],
                 stride: int | tuple[int, int] = 1, padding: int | tuple[int, int] | str = 0,
                 dilation: int | tuple[int, int] = 1, groups: int = 1, bias: bool = True, padding_mode: str = "zeros",
                 device: torch.device | str | None = None, dtype: torch.dtype | None = None, *,
                 num: int | None = None, norm: nn.Module | None = None,
                 activation: Callable[[Tensor], Tensor] | None = None):
        num = self.NUM if num is None else num
        check_counts(self.LEAST, num=num)
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode,
                         device, dtype, norm=norm, activation=activation)
        self.plain_shape = self.weight.shape
        self.num = num
        self.kernels = nn.Parameter(self.weight.new_empty(num * out_channels, *self.plain_shape[1:]))
        self.weight = None
        self.attention = self.make_attention(num).to(self.kernels)
        self.reset_parameters()

    def make_attention(self, num: int) -> nn.Module:
        raise NotImplementedError

    def reset_parameters(self):
        """Each kernel for itself; nn.Conv2d's constructor calls this before there are any."""
        if "kernels" in self._parameters:
            for kernel in self.kernels.detach().unflatten(0, (self.num, -1)):
                nn.init.kaiming_normal_(kernel, mode="fan_out", nonlinearity="relu")
            if self.bias is not None:
                nn.init.zeros_(self.bias)

    def static_weight(self) -> Tensor:
        """The mean of the kernels (Co, Ci/G, kh, kw): the plain weight that they were made from."""
        return self.kernels.unflatten(0, (self.num, -1)).mean(0)

    def stored(self) -> Tensor:
        return self.kernels

    def image_weights(self, factors: Tensor) -> Tensor:
        kernels = self.kernels.to(at_least_float32(self.kernels))
        return (factors.to(kernels.dtype) @ kernels.reshape(self.num, -1)).unflatten(1, self.plain_shape)

    def from_plain(self, weight: Tensor) -> Tensor:
        """A plain weight -> as many copies of it: the weight again under any factors that sum to one."""
        return weight.repeat(self.num, 1, 1, 1)

    def adapt_plain_state(self, state_dict: dict[str, Tensor], prefix: str) -> list[str]:
        """See `freqdino.frequency.plain_state`. ValueError, and nothing changed, for a weight of another shape."""
        plain = plain_entry(state_dict, prefix, self.plain_shape)
        if plain is None or f"{prefix}kernels" in state_dict:
            return []
        state_dict[f"{prefix}kernels"] = self.from_plain(plain)
        del state_dict[f"{prefix}weight"]
        return add_neutral({"attention": self.attention}, state_dict, prefix)


class CondConv(KernelMixture):
    """CondConv: drop-in for nn.Conv2d, (B, Ci, H, W) -> (B, Co, H', W'), of ``num`` experts, at least 2.

    The factors are σ(z), z a linear map of the mean of x. They start at 1/K each (z = −log(K − 1)), so that a plain
    convolution's state dict keeps its function.

    >>> conv, plain = CondConv(8, 4, 3, num=8), nn.Conv2d(8, 4, 3)
    >>> conv.load_state_dict(plain.state_dict())
    <All keys matched successfully>
    >>> x = torch.randn(2, 8, 9, 12)
    >>> torch.allclose(conv(x), plain(x), atol=1e-4)
    True
    """

    NUM = 8

    def make_attention(self, num: int) -> nn.Module:
        return Router(self.in_channels, num)

    def from_plain(self, weight: Tensor) -> Tensor:
        """A plain weight -> kernels that differ by a hundredth and whose mean is that weight.

        Equal ones under equal factors would have equal gradients, and stay equal for good: K times the parameters of
        one. Element i of kernel e is multiplied with 1 + 0.01·cos(2π(e/K + φi)), φ the golden ratio: no draw, so that
        all processes of a training have the same.
        """
        phases = torch.arange(weight.numel(), device=weight.device, dtype=torch.float64) * GOLDEN_RATIO
        phases = (2 * math.pi * (phases % 1)).view(weight.shape)
        even, odd = (APART * weight * wave.to(at_least_float32(weight)) for wave in (phases.cos(), phases.sin()))
        angles = [2 * math.pi * kernel / self.num for kernel in range(self.num)]
        return torch.cat([weight + math.cos(angle) * even - math.sin(angle) * odd for angle in angles]
                         ).to(self.kernels.dtype)


class Router(nn.Module):
    """(B, Ci) -> (B, K): σ of a linear map that starts at −log(K − 1), whose σ is 1/K."""

    def __init__(self, in_channels: int, num: int):
        super().__init__()
        self.fc = NeutralHead(in_channels, num, 1, 1, bias=-math.log(num - 1))

    def forward(self, pooled: Tensor) -> Tensor:
        return self.fc(pooled[..., None, None]).flatten(1).sigmoid()


class DYConv(KernelMixture):
    """DY-Conv: drop-in for nn.Conv2d, (B, Ci, H, W) -> (B, Co, H', W'), of ``num`` kernels, at least 2.

    The factors are softmax(z/T), z a small network of the mean of x. T starts at 30 and ends at 1
    (`freqdino.frequency.rivals.temperature`). A plain convolution's state dict keeps its function: the kernels are
    copies of its weight, whose factors sum to one.

    >>> conv, plain = DYConv(8, 4, 3, num=4), nn.Conv2d(8, 4, 3)
    >>> conv.load_state_dict(plain.state_dict())
    <All keys matched successfully>
    >>> x = torch.randn(2, 8, 9, 12)
    >>> torch.allclose(conv(x), plain(x), atol=1e-4)
    True
    """

    def make_attention(self, num: int) -> nn.Module:
        return KernelSoftmax(self.in_channels, num)


class KernelSoftmax(Annealed):
    """(B, Ci) -> (B, K): softmax(z/T), z = fc2(ReLU(fc1(pooled))), of ⌊Ci/4⌋ + 1 hidden features."""

    TEMPERATURES = 30.0, 1.0

    def __init__(self, in_channels: int, num: int):
        super().__init__()
        hidden = in_channels // 4 + 1
        self.fc1 = nn.Conv2d(in_channels, hidden, 1, bias=False)
        self.fc2 = nn.Conv2d(hidden, num, 1)
        self.make_temperature()
        self.reset_parameters()

    def reset_parameters(self):
        init_by_fan_out(self.fc1, self.fc2)
        self.anneal(0.0)

    def forward(self, pooled: Tensor) -> Tensor:
        logits = self.fc2(F.relu(self.fc1(pooled[..., None, None]))).flatten(1)
        return (logits / self.temperature).softmax(1)


def init_by_fan_out(*layers: nn.Conv2d | nn.Linear) -> None:
    """Kaiming-normal weights by their fan-out, biases of zero."""
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)

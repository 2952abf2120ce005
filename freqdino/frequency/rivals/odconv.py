"""ODConv: a convolution modulated along all dimensions of its weight.

Source: Omni-Dimensional Dynamic Convolution (ICLR 2022, arXiv 2209.07947).

Shape key: B: batch, K: kernels, Ci, Co: input and output channels, G: groups of the convolution, H, W: input size,
H', W': output size, kh, kw: kernel size.
"""
import math
from typing import NamedTuple

from torch import Tensor, nn

from freqdino.frequency.fdconv.fourier_weight import at_least_float32
from freqdino.frequency.fdconv.kernel_modulation import KernelAttention
from freqdino.frequency.image_conv import by_images
from freqdino.frequency.rivals.mixtures import KernelMixture, init_by_fan_out
from freqdino.frequency.rivals.temperature import Annealed
from freqdino.ops.autocast import product_type, without_autocast


class ODConv(KernelMixture):
    """Drop-in for nn.Conv2d, (B, Ci, H, W) -> (B, Co, H', W'), of ``num`` kernels, at least 1.

    y = filter ⊙ conv(channel ⊙ x, Σ kernelₙ · (spatial ⊙ Wₙ)), plus the bias; factors of the mean of x: channel, filter
    and spatial (where there is more than one position) σ(z/T), kernel (where there is more than one) softmax(z/T). A
    depth-wise convolution has no filter factors. T starts at 30 and ends at 1.

    It does not start as a plain convolution: of a plain state dict the kernels become copies of the weight, but each of
    the three σ is near 0.5 and nothing makes up for it, so the output is about an eighth of the plain one's (a quarter
    without spatial factors).
    """

    NUM, LEAST = 1, 1

    def make_attention(self, num: int) -> nn.Module:
        depthwise = self.groups == self.in_channels == self.out_channels
        positions = math.prod(self.kernel_size)
        return FactorAttention(self.in_channels, (self.in_channels, 0 if depthwise else self.out_channels,
                                                  positions if positions > 1 else 0, num if num > 1 else 0))

    def respond_to(self, x: Tensor, pooled: Tensor) -> Tensor:
        with without_autocast(x):
            logits = self.attention(pooled.to(self.kernels.dtype)[..., None, None])
        return by_images(self.respond, (x, logits), self.plain_shape)

    def respond(self, x: Tensor, logits: Tensor) -> Tensor:
        dtype = product_type(x)
        with without_autocast(x):
            factors = self.attention.factors(logits.to(at_least_float32(logits)))
            x = x.to(dtype) * factors.channel[..., None, None].to(dtype)
            weight = self.modulated_weights(factors)
        if weight is None:
            y = self._conv_forward(x, self.kernels.to(dtype), None)
        else:
            y = self.convolve(x, weight.to(dtype), biased=False)
        if factors.filter is not None:
            y = y * factors.filter[..., None, None].to(y.dtype)
        return y if self.bias is None else y + self.bias.view(-1, 1, 1).to(y.dtype)

    def modulated_weights(self, factors: "Factors") -> Tensor | None:
        """Σ kernelₙ · (spatial ⊙ Wₙ) (B, Co, Ci/G, kh, kw), in float32 at least; None where it is no image's own."""
        if factors.spatial is None and factors.kernel is None:
            return None
        weight = self.image_weights(factors.spatial.new_ones(len(factors.spatial), 1) if factors.kernel is None
                              else factors.kernel)
        if factors.spatial is None:
            return weight
        return weight * factors.spatial.unflatten(1, self.kernel_size)[:, None, None].to(weight.dtype)


class Factors(NamedTuple):
    """channel (B, Ci), filter (B, Co), spatial (B, kh·kw), kernel (B, K); None where there are none."""
    channel: Tensor
    filter: Tensor | None
    spatial: Tensor | None
    kernel: Tensor | None


class FactorAttention(KernelAttention, Annealed):
    """Pooled features (B, Ci, 1, 1) -> logits of the factors, which `factors` makes of them at the temperature."""

    TEMPERATURES = 30.0, 1.0

    def __init__(self, in_channels: int, counts: tuple[int, int, int, int]):
        super().__init__(in_channels, counts, reduction=1 / 16, relu=nn.ReLU(),
                         head=lambda width, count, name: nn.Conv2d(width, count, 1))
        self.make_temperature()

    def reset_parameters(self):
        super().reset_parameters()
        init_by_fan_out(*self.heads())
        if "temperature" in self._buffers:
            self.anneal(0.0)

    def factors(self, logits: Tensor) -> Factors:
        parts = (logits / self.temperature.to(logits.dtype)).split(self.counts(), 1)
        *gates, kernel = (part if part.shape[1] else None for part in parts)
        return Factors(*(None if gate is None else gate.sigmoid() for gate in gates),
                       None if kernel is None else kernel.softmax(1))

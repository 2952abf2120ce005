"""FDConv: plain convolution, FDConv, and FDConv written down plainly, in eval mode.

Forward, without gradient: the 3 × 3 convolutions of a ResNet-50's four stages on an 800 × 1344 image, batch 2, 64
groups of coefficients. The paper's published code costs 8.6, 4.6, 2.8 and 6.3 times the plain convolution there on a
CPU.
Forward and backward: those of a ResNet-18's last two stages on a 128 × 128 image, batch 4, where the weight of each
image costs more than its map.
"""
from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqdino.analysis.benchmarks.measure import Case, with_gradient, without_gradient
from freqdino.frequency.fdconv.band_modulation import FrequencyBandModulation
from freqdino.frequency.fdconv.conv import FDConv

SIZES = ((64, 200, 336, 2.5), (128, 100, 168, 2.0), (256, 50, 84, 1.6), (512, 25, 42, 3.0))
SMALL_MAPS = ((256, 8, 8), (512, 4, 4))


def cases(device: torch.device) -> Iterator[Case]:
    for channels, height, width, target in SIZES:
        x = torch.randn(2, channels, height, width, device=device)
        plain, layer = layers(channels, device)
        yield Case(f"forward, 2 × {channels} × {height} × {width}",
                   {"Conv2d": without_gradient(partial(plain, x)), "FDConv": without_gradient(partial(layer, x)),
                    "FDConv, plainly": without_gradient(partial(plain_fdconv, layer, x))},
                   "Conv2d", f"FDConv ≤ {target} times Conv2d's time")
    for channels, height, width in SMALL_MAPS:
        x = torch.randn(4, channels, height, width, device=device, requires_grad=True)
        plain, layer = layers(channels, device)
        yield Case(f"forward and backward, 4 × {channels} × {height} × {width}",
                   {"Conv2d": with_gradient(partial(plain, x)), "FDConv": with_gradient(partial(layer, x)),
                    "FDConv, plainly": with_gradient(partial(plain_fdconv, layer, x))},
                   "FDConv, plainly", "FDConv ≥ 2 times as fast")


def layers(channels: int, device: torch.device) -> tuple[nn.Conv2d, FDConv]:
    """A convolution, and the FDConv that computes the same."""
    plain = nn.Conv2d(channels, channels, 3, padding=1, device=device)
    layer = FDConv(channels, channels, 3, padding=1, kernel_num=64, device=device).eval()
    layer.load_state_dict(plain.state_dict())
    return plain, layer


def plain_fdconv(layer: FDConv, x: Tensor) -> Tensor:
    """FDConv in eval mode as the paper's formulas read: scattered groups, full masks and FFTs, all images at once.

    Serves one convolution group, sigmoid factors and a converted weight. x: (B, C, H, W).
    """
    out_channels, in_channels, (height, width) = layer.out_channels, layer.in_channels, layer.kernel_size
    rows, columns, batch = out_channels * height, in_channels * width, len(x)
    ksm, local = layer.KSM_Global, layer.KSM_Local
    pooled = F.adaptive_avg_pool2d(x, 1)
    hidden = ksm.relu(F.batch_norm(ksm.fc(pooled), ksm.bn.running_mean, ksm.bn.running_var, ksm.bn.weight, ksm.bn.bias,
                                   eps=ksm.bn.eps))

    def factor(head: nn.Conv2d) -> Tensor:
        return 2 * torch.sigmoid(head(hidden).flatten(1))

    kernel = factor(ksm.kernel_fc)
    kernel = kernel / kernel.shape[1] * (min(in_channels, out_channels) // 2 * kernel.shape[1])
    spectrum = torch.zeros(batch, rows * (columns // 2 + 1), 2, dtype=x.dtype, device=x.device)
    order = layer.group_map.flatten().argsort()
    sizes = layer.group_map.flatten().bincount()
    for coefficients, gain in zip(layer.dft_weight, kernel.unflatten(1, (layer.param_ratio, -1)).unbind(1)):
        gain = gain.repeat_interleave(sizes, 1)
        spectrum[:, order] += coefficients.flatten(0, 1)[order] * gain.unsqueeze(-1)
    spectrum = torch.view_as_complex(spectrum).view(batch, rows, -1)
    weight = torch.fft.irfft2(spectrum, s=(rows, columns)).view(batch, out_channels, height, in_channels, width)
    weight = weight.transpose(2, 3)

    vector = F.layer_norm(pooled.flatten(1), (in_channels,), local.norm.weight, local.norm.bias).unsqueeze(1)
    element = F.conv1d(vector, local.conv.weight, padding=local.conv.weight.shape[-1] // 2).transpose(1, 2)
    element = element.reshape(batch, in_channels, out_channels, height, width).transpose(1, 2)
    weight = weight * 2 * torch.sigmoid(element)
    if ksm.spatial_fc is not None:
        weight = weight * factor(ksm.spatial_fc).view(batch, 1, 1, height, width)
    weight = weight * factor(ksm.channel_fc).view(batch, 1, -1, 1, 1) * factor(ksm.filter_fc).view(batch, -1, 1, 1, 1)

    if layer.FBM is not None:
        x = plain_bands(layer.FBM, x)
    padding = layer.padding
    if layer.padding_mode != "zeros":
        x = F.pad(x, [size for size in reversed(layer.padding) for _ in range(2)], layer.padding_mode)
        padding = 0
    bias = None if layer.bias is None else layer.bias.repeat(batch)
    y = F.conv2d(x.flatten(0, 1)[None], weight.flatten(0, 1), bias, layer.stride, padding, layer.dilation, batch)
    return y[0].unflatten(0, (batch, -1))


def plain_bands(bands: FrequencyBandModulation, x: Tensor) -> Tensor:
    """FrequencyBandModulation with full masks, every low-pass copy and every band."""
    height, width = x.shape[-2:]
    fy, fx = torch.fft.fftfreq(64)[:, None], torch.fft.rfftfreq(64)
    spectrum = torch.fft.rfft2(x, norm="ortho")
    copies = [x]
    for k in bands.k_list:
        mask = (torch.maximum(fy.abs(), fx.abs()) < 0.5 / k + 1e-8).to(x)
        mask = F.interpolate(mask[None, None], size=(height, width // 2 + 1))
        copies.append(torch.fft.irfft2(spectrum * mask, s=(height, width), norm="ortho"))
    parts = [outer - inner for outer, inner in zip(copies, copies[1:])] + [copies[-1]]
    for index, conv in enumerate(bands.freq_weight_conv_list):
        logits = conv(x)
        weights = 2 * torch.sigmoid(logits) if bands.act == "sigmoid" else 1 + torch.tanh(logits)
        parts[index] = parts[index] * weights.repeat_interleave(x.shape[1] // bands.spatial_group, 1)
    return sum(parts)

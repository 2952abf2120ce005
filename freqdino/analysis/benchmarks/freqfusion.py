"""FreqFusion's units in Mask2Former against the module written plainly: unfolding, one convolution after the other.

Source of the sizes: the three units on a 512 × 512 image, and the last one on an 800 × 1344 image halved. The target
comes from the project's budget: the three units together at most 15 % of the forward pass of Mask2Former R50.
"""
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from freqdino.analysis.benchmarks.measure import Case
from freqdino.frequency import FreqFusion
from freqdino.ops.carafe import carafe_reference

MASK2FORMER = dict(compressed_channels=64, feature_resample=True, hamming_window=False, feature_resample_norm=False)
UNITS = ((32, 32), (64, 64), (128, 128))
LARGE = (100, 168)


def cases(device: torch.device) -> Iterator[Case]:
    runs = {size: variants(*size, device) for size in (*UNITS, LARGE)}
    for kind, of_run, target in (("forward", forward, "≥ 5 × faster"), ("forward + backward", step, "≥ 2 × faster")):
        for (height, width), (plain, fused) in runs.items():
            yield Case(f"{kind}, 256 × {height} × {width}",
                       {"plain": of_run(plain), "FreqFusion": of_run(fused)}, "plain", target)
        plain, fused = ([runs[size][variant] for size in UNITS] for variant in (0, 1))
        yield Case(f"{kind}, the three units of 512 × 512", {"plain": of_run(*plain), "FreqFusion": of_run(*fused)},
                   "plain", target)


def variants(height: int, width: int, device: torch.device) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """The plain and the real module on the same maps, with the addition that follows in the pixel decoder."""
    fusion = FreqFusion(256, 256, **MASK2FORMER).to(device)
    hr = torch.randn(1, 256, height, width, device=device, requires_grad=True)
    lr = torch.randn(1, 256, height // 2, width // 2, device=device, requires_grad=True)

    def add(fuse: Callable) -> Tensor:
        _, sharpened, upsampled = fuse(hr, lr)
        return sharpened + upsampled

    return lambda: add(partial(plain_fusion, fusion)), lambda: add(fusion)


def forward(*runs: Callable[[], Tensor]) -> Callable[[], object]:
    def run_all():
        with torch.no_grad():
            for run in runs:
                run()
    return run_all


def step(*runs: Callable[[], Tensor]) -> Callable[[], object]:
    def run_all():
        for run in runs:
            run().mean().backward()
    return run_all


def plain_fusion(fusion: FreqFusion, hr: Tensor, lr: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The definition, with the module's weights and Mask2Former's arguments."""
    encode, encode2 = fusion.content_encoder, fusion.content_encoder2
    h, l = fusion.hr_channel_compressor(hr), fusion.lr_channel_compressor(lr)
    high_of_h = encode2(h)
    h = 2 * h - carafe_reference(h, high_of_h.softmax(1), 3, 1, 1)
    low_of_h = encode(h)
    low = (low_of_h + carafe_reference(encode(l), low_of_h.softmax(1), 5, 1, 2)).softmax(1)
    high = (high_of_h + carafe_reference(encode2(l), low, 5, 1, 2)).softmax(1)
    upsampled = plain_sampler(fusion.dysampler, h, l, carafe_reference(lr, low, 5, 1, 2))
    return low, 2 * hr - carafe_reference(hr, high, 3, 1, 1), upsampled


def plain_sampler(sampler: torch.nn.Module, h: Tensor, l: Tensor, features: Tensor) -> Tensor:
    (batch, channels, height, width), groups = features.shape, sampler.groups
    fine, coarse = plain_similarity(h), plain_similarity(l)
    offset = sampler.offset(coarse) + F.pixel_unshuffle(sampler.hr_offset(fine), 2)
    scale = sampler.direct_scale(coarse) + F.pixel_unshuffle(sampler.hr_direct_scale(fine), 2)
    position = F.pixel_shuffle(offset * scale.sigmoid() + sampler.init_pos, 2).view(batch, 2, groups, height, width)
    rows, columns = (torch.arange(size, device=h.device) // 2 + 0.5 for size in (height, width))
    x, y = (position[:, 0] + columns) * 4 / width - 1, (position[:, 1] + rows[:, None]) * 4 / height - 1
    grid = torch.stack([x, y], dim=-1).flatten(0, 1)
    sampled = F.grid_sample(features.reshape(batch * groups, channels // groups, height, width), grid,
                            padding_mode="border", align_corners=False)
    return sampled.view_as(features)


def plain_similarity(x: Tensor) -> Tensor:
    """The map and its similarities with the neighbours at distance 2."""
    neighbours = F.unfold(x, 3, dilation=2, padding=2).view(*x.shape[:2], 9, *x.shape[2:])
    similarity = F.cosine_similarity(x[:, :, None], neighbours, dim=1)
    return torch.cat([x, similarity[:, :4], similarity[:, 5:]], dim=1)

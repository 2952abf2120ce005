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
    """The definition, with the module's weights and Mask2Former's arguments.

    Args:
        hr: (B, 256, 2·H, 2·W).
        lr: (B, 256, H, W).
    Returns the low-pass filters (B, 25, 2·H, 2·W), hr sharpened and lr upsampled, both (B, 256, 2·H, 2·W).
    """
    hr_guide, lr_guide = fusion.hr_channel_compressor(hr), fusion.lr_channel_compressor(lr)

    def upsample(coarse: Tensor, filters: Tensor) -> Tensor:
        return carafe_reference(coarse, filters, fusion.lowpass_kernel, 1, 2)

    def sharpen(fine: Tensor, filters: Tensor) -> Tensor:
        return 2 * fine - carafe_reference(fine, filters, fusion.highpass_kernel, 1, 1)

    def generate_filters(encoder: torch.nn.Module, hr_logits: Tensor, upsampling_filters: Tensor) -> Tensor:
        return (hr_logits + upsample(encoder(lr_guide), upsampling_filters)).softmax(1)

    highpass_logits = fusion.content_encoder2(hr_guide)
    hr_guide = sharpen(hr_guide, highpass_logits.softmax(1))
    lowpass_logits = fusion.content_encoder(hr_guide)
    lowpass = generate_filters(fusion.content_encoder, lowpass_logits, lowpass_logits.softmax(1))
    highpass = generate_filters(fusion.content_encoder2, highpass_logits, lowpass)
    return lowpass, sharpen(hr, highpass), plain_sampler(fusion.dysampler, hr_guide, lr_guide, upsample(lr, lowpass))


def plain_sampler(sampler: torch.nn.Module, hr_guide: Tensor, lr_guide: Tensor, features: Tensor) -> Tensor:
    """The features read where the guides suggest, each of the G channel groups at positions of its own.

    Args:
        hr_guide: (B, D, 2·H, 2·W).
        lr_guide: (B, D, H, W).
        features: (B, C, 2·H, 2·W).
    Returns (B, C, 2·H, 2·W).
    """
    height, width = lr_guide.shape[-2:]
    fine, coarse = plain_similarity(hr_guide), plain_similarity(lr_guide)

    def predict(fine_head: torch.nn.Module, coarse_head: torch.nn.Module) -> Tensor:
        """(B, 2·G, 2·H, 2·W): of x for every group, then of y."""
        return fine_head(fine) + F.pixel_shuffle(coarse_head(coarse), 2)

    shift = predict(sampler.hr_offset, sampler.offset)
    shift = shift * predict(sampler.hr_direct_scale, sampler.direct_scale).sigmoid()
    shift = shift + F.pixel_shuffle(sampler.init_pos.expand(-1, -1, height, width), 2)
    # Where to read, in pixels of the low-resolution map: from the centre of the pixel that the output pixel lies in.
    row, column = (torch.arange(0.5, size, device=shift.device).repeat_interleave(2) for size in (height, width))
    x_shift, y_shift = shift.chunk(2, dim=1)
    position = torch.stack([column + x_shift, row[:, None] + y_shift], dim=-1)
    grid = 2 * position / position.new_tensor([width, height]) - 1
    images = features.unflatten(1, (sampler.groups, -1)).flatten(0, 1)
    return F.grid_sample(images, grid.flatten(0, 1), padding_mode="border", align_corners=False).view_as(features)


def plain_similarity(guide: Tensor) -> Tensor:
    """The guide and, as eight more channels, its cosine similarities with the neighbours at distance 2, row by row.

    Neighbours outside the map are zeros: (B, D, H, W) -> (B, D + 8, H, W).
    """
    height, width = guide.shape[-2:]
    bordered = F.pad(guide, (2, 2, 2, 2))
    corners = [(top, left) for top in (0, 2, 4) for left in (0, 2, 4) if (top, left) != (2, 2)]
    similarities = [F.cosine_similarity(guide, bordered[..., top:top + height, left:left + width], dim=1)
                    for top, left in corners]
    return torch.cat([guide, torch.stack(similarities, dim=1)], dim=1)

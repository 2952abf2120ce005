"""FDAM: attention inversion, frequency scaling against plainly written ones, its block against the plain one.

Source of the sizes: DeiT-S (384 channels, 6 heads) on a 1024 × 1024 image, 64 × 64 tokens.
"""
from collections.abc import Iterator

import torch
from torch import Tensor

from freqdino.analysis.benchmarks.measure import Case, with_gradient, without_gradient
from freqdino.frequency.fdam.attention_inversion import AttentionInversion
from freqdino.frequency.fdam.fdam_transformer import FDAMBlock
from freqdino.frequency.fdam.scale_spectrum import scale_spectrum, scale_spectrum_reference
from freqdino.frequency.fdam.transformer_block import TransformerBlock

DIM, HEADS, GRID = 384, 6, (64, 64)


class NaiveInversion(AttentionInversion):
    """The module as its equations are written: with the N × N attention matrix."""

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attention = (queries @ keys.mT / queries.shape[-1] ** 0.5).softmax(-1)
        attended, value = (heads.transpose(1, 2).flatten(2) for heads in (attention @ values, values))
        return self.proj(self.invert(value, attended, x))


def cases(device: torch.device) -> Iterator[Case]:
    x = torch.randn(1, GRID[0] * GRID[1], DIM, device=device)
    naive = NaiveInversion(DIM, HEADS, qkv_bias=True).to(device)
    fused = AttentionInversion(DIM, HEADS, qkv_bias=True).to(device)
    plain = TransformerBlock(dim=DIM, num_heads=HEADS).to(device)
    fdam = FDAMBlock(dim=DIM, num_heads=HEADS).to(device)
    filters = torch.randn(1, DIM, GRID[0], GRID[1] // 2 + 1, device=device, requires_grad=True)
    feature_map = x.transpose(1, 2).unflatten(2, GRID).requires_grad_()
    attention = {"softmax(QKᵀ)V": lambda: naive(x), "AttentionInversion": lambda: fused(x)}
    block = {"plain block": lambda: plain(x, GRID), "FDAMBlock": lambda: fdam(x, GRID)}
    scaling = {"rfft2 · filters": lambda: tokens_of(scale_spectrum_reference(feature_map, filters)),
               "scale_spectrum": lambda: tokens_of(scale_spectrum(feature_map, filters))}
    size = f"{GRID[0]} × {GRID[1]} tokens × {DIM}, {HEADS} heads"
    for title, variants, baseline, target in (
            ("AttInv", attention, "softmax(QKᵀ)V", "≥ 2 × faster"),
            ("FreqScale, tokens to tokens", scaling, "rfft2 · filters", "≥ 2 × less memory, as fast"),
            ("block", block, "plain block", "≥ 0.91: at most 10 % slower")):
        yield Case(f"{title} forward, {size}",
                   {name: without_gradient(run) for name, run in variants.items()}, baseline, target)
        yield Case(f"{title} forward and backward, {size}",
                   {name: with_gradient(run) for name, run in variants.items()}, baseline, target)


def tokens_of(feature_map: Tensor) -> Tensor:
    return feature_map.flatten(2).transpose(1, 2).contiguous()

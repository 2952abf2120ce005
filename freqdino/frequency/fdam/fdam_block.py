"""FDAM's block: a vision transformer's with inverted attention and frequency scaling of both branches.

Source: FDAM (ICCV 2025, arXiv 2507.12006).

B: batch, N = H · W: tokens in row-major order of the H × W grid, C: channels.
"""
from torch import Tensor, nn

from .attention_inversion import AttentionInversion
from .frequency_scale import BLOCK_OPTIONS, FrequencyScale
from .transformer_block import TransformerBlock


class FDAMBlock(TransformerBlock):
    """x + drop_path(γ₁ · (a + S₁(a))) with a = inverted attention(LN x), then the same with the MLP, γ₂ and S₂.

    Arguments and errors as TransformerBlock; dim must be a multiple of 16 too, FreqScale's groups.

    >>> import torch
    >>> block = FDAMBlock(dim=64, num_heads=4)
    >>> block(torch.randn(2, 15, 64), grid=(3, 5)).shape
    torch.Size([2, 15, 64])
    """

    def __init__(self, *, dim: int, num_heads: int, mlp_ratio: float = 4.0, qkv_bias: bool = True,
                 init_values: float = 1e-4, drop_path: float = 0.0):
        super().__init__(dim=dim, num_heads=num_heads, mlp_ratio=mlp_ratio, qkv_bias=qkv_bias, init_values=init_values,
                         drop_path=drop_path)
        self.freq_scale_1 = FrequencyScale(dim, **BLOCK_OPTIONS)
        self.freq_scale_2 = FrequencyScale(dim, **BLOCK_OPTIONS)

    def make_attention(self, dim: int, num_heads: int, qkv_bias: bool) -> nn.Module:
        return AttentionInversion(dim, num_heads, qkv_bias)

    def attention_branch(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        return scaled_tokens(self.freq_scale_1, super().attention_branch(tokens, grid), grid)

    def mlp_branch(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        return scaled_tokens(self.freq_scale_2, super().mlp_branch(tokens, grid), grid)


def scaled_tokens(scale: FrequencyScale, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """x + S(x) for the map that the tokens (B, N, C) of a grid are."""
    feature_map = tokens.transpose(1, 2).unflatten(2, grid)
    return scale(feature_map, residual=True).flatten(2).transpose(1, 2)

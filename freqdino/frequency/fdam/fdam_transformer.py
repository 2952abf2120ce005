"""FDAM's block and the vision transformer of such blocks: inverted attention, both branches scaled by frequency.

Source: FDAM (ICCV 2025, arXiv 2507.12006), whose published class vit_models_freq is DeiT III's transformer else.

B: batch, N = H · W: tokens in row-major order of the H × W grid, C: channels.
"""
from functools import partialmethod

from torch import Tensor

from freqdino.frequency.fdam.attention_inversion import AttentionInversion
from freqdino.frequency.fdam.frequency_scale import BLOCK_OPTIONS, FrequencyScale
from freqdino.frequency.fdam.transformer_block import TransformerBlock
from freqdino.frequency.fdam.vision_transformer import VisionTransformer


class FDAMBlock(TransformerBlock):
    """x + drop_path(γ₁ · (a + S₁(a))) with a = inverted attention(LN x), then the same with the MLP, γ₂ and S₂.

    Arguments and errors as TransformerBlock; dim must be a multiple of 16 too, FreqScale's groups.

    >>> import torch
    >>> block = FDAMBlock(dim=64, num_heads=4)
    >>> block(torch.randn(2, 15, 64), grid=(3, 5)).shape
    torch.Size([2, 15, 64])
    """

    def __init__(self, *, dim: int, num_heads: int, **arguments):
        super().__init__(dim=dim, num_heads=num_heads, attention=AttentionInversion, **arguments)
        self.freq_scale_1 = FrequencyScale(dim, **BLOCK_OPTIONS)
        self.freq_scale_2 = FrequencyScale(dim, **BLOCK_OPTIONS)

    def attention_branch(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        return scaled_tokens(self.freq_scale_1, super().attention_branch(tokens, grid), grid)

    def mlp_branch(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        return scaled_tokens(self.freq_scale_2, super().mlp_branch(tokens, grid), grid)


class FDAMVisionTransformer(VisionTransformer):
    """VisionTransformer of FDAM blocks; published state dicts load (init_values was published as init_scale).

    embed_dim must be a multiple of 16 too.
    """

    __init__ = partialmethod(VisionTransformer.__init__, block=FDAMBlock)


def scaled_tokens(scale: FrequencyScale, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """x + S(x) for the map that the tokens (B, N, C) of a grid are."""
    feature_map = tokens.transpose(1, 2).unflatten(2, grid)
    return scale(feature_map, residual=True).flatten(2).transpose(1, 2)

"""Attention inversion in timm's rarer attentions: biased by relative position, differential, beside the MLP.

Source: FDAM (ICCV 2025, arXiv 2507.12006), supplement, equations 28 to 34; of differential attention (arXiv 2410.05258)
A is the difference of its two, which is our reading.

B: batch, N: tokens, C: channels, h: heads, d: their width.
"""
import torch
from torch import Tensor, nn

from freqdino.frequency.fdam.timm_attention import InvertedAttention, InvertedRotaryAttention, TokenScaling


class InvertedBeitAttention(InvertedAttention):
    """For BEiT's attention, whose logits get a bias by relative position: its own, one that its blocks share, both."""

    def forward(self, x: Tensor, shared_rel_pos_bias: Tensor | None = None) -> Tensor:
        """x: (B, N, C). shared_rel_pos_bias: it broadcasts to (B, h, N, N). Returns (B, N, C)."""
        bias = shared_rel_pos_bias
        if self.relative_position_bias_table is not None:
            own = self._get_rel_pos_bias()
            bias = own if bias is None else own + bias
        return self.inverted(x, bias)


class InvertedRelativeAttention(InvertedAttention):
    """For the attention of timm's VisionTransformerRelPos."""

    def forward(self, x: Tensor, shared_rel_pos: Tensor | None = None) -> Tensor:
        """x: (B, N, C). shared_rel_pos: it broadcasts to (B, h, N, N). Returns (B, N, C)."""
        return self.inverted(x, shared_rel_pos if self.rel_pos is None else self.rel_pos.get_bias())


class InvertedDifferentialAttention(InvertedAttention):
    """For A₁ - λ A₂, each over half of the channels of a head's queries and keys; a normalisation by head follows."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """As InvertedAttention."""
        return self.finished(self.difference(self.qkv(x).chunk(3, dim=-1), x, attn_mask, is_causal), x)

    def difference(self, parts: tuple[Tensor, ...], x: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor:
        """parts: queries, keys and values, (B, N, C) each. Returns the result of all heads, (B, N, C)."""
        queries, keys, values = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part, heads in zip(
            parts, (2 * self.num_heads, 2 * self.num_heads, self.num_heads)))
        queries, keys = self.q_norm(queries), self.k_norm(keys)
        first, second = (self.attended(queries[:, half::2], keys[:, half::2], values, mask, is_causal)
                         for half in range(2))
        result = self.without_heads(values, first - self._compute_lambda().type_as(first) * second, x)
        by_head = self.sub_norm(result.unflatten(-1, (self.num_heads, -1)))
        return by_head.flatten(-2) * (1 - self.lambda_init)


class InvertedParallelBlock(InvertedAttention, TokenScaling):
    """For a block of ViT-22B (arXiv 2302.05442), whose attention and MLP are one branch of one projection."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """As InvertedAttention, with the block's input added."""
        normed = self.in_norm(x)
        hidden, *parts = self.in_proj(normed).split(self.in_split, dim=-1)
        if self.mlp_bias is not None:
            hidden = hidden + self.mlp_bias
        result = self.of_heads(parts, normed, attn_mask, is_causal)
        hidden = self.mlp_drop(self.mlp_act(hidden))
        if self.out_proj is not None:
            branch = self.out_proj(torch.cat((result, hidden), dim=-1))
        else:
            branch = self.attn_out_proj(result) + self.mlp_out_proj(hidden)
        return x + self.drop_path(self.ls(self.scaled(branch)))

    def of_heads(self, parts: list[Tensor], x: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor:
        queries, keys, values = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        attended = self.attended(self.q_norm(queries), self.k_norm(keys), values, mask, is_causal)
        return self.without_heads(values, attended, x)


class InvertedDifferentialParallelBlock(InvertedParallelBlock, InvertedDifferentialAttention):
    """For the same block with differential attention."""

    def of_heads(self, parts: list[Tensor], x: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor:
        return self.difference(parts, x, mask, is_causal)


# Class of timm, older places too -> what inverts it.
INVERTED: dict[str, type[InvertedAttention]] = {
    "timm.layers.attention.Attention": InvertedAttention,
    "timm.models.vision_transformer.Attention": InvertedAttention,
    "timm.layers.attention.AttentionRope": InvertedRotaryAttention,
    "timm.models.eva.EvaAttention": InvertedRotaryAttention,
    "timm.models.beit.Attention": InvertedBeitAttention,
    "timm.models.vision_transformer_relpos.RelPosAttention": InvertedRelativeAttention,
    "timm.layers.diff_attention.DiffAttention": InvertedDifferentialAttention,
    "timm.models.vision_transformer.ParallelScalingBlock": InvertedParallelBlock,
    "timm.models.vision_transformer.DiffParallelScalingBlock": InvertedDifferentialParallelBlock,
}


def inverted_class(module: nn.Module) -> type[InvertedAttention] | None:
    """What is to be put before ``module``; None where it is no attention of timm that is served, or is inverted."""
    kind = type(module)
    return INVERTED.get(f"{kind.__module__}.{kind.__qualname__}")

"""Residual transformer sub-layers on batch-first tokens: self-attention, cross-attention, feed-forward.

Source: Mask2Former (arXiv 2112.01527), section 3.2; DETR (arXiv 2005.12872), appendix A.3.
B: batch, Q: queries, K: keys, C: channels, heads: attention heads.
Each sub-layer adds to its input; the LayerNorm stands after the sum, or before the sub-layer with ``pre_norm``.
"""
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from freqdino.errors import ArgumentError
from freqdino.layers.linear import Linear, linear, linear_relu
from freqdino.ops.blocking import by_pieces
from freqdino.ops.modules import is_plain, overwrites


class MultiheadAttention(nn.MultiheadAttention):
    """torch's multi-head attention (same parameters and keys), computed by the fused kernel with a broadcast mask.

    torch's own forward wants a mask copied for every head; this one takes (B, Q, K) and never builds the weights.
    """

    def __init__(self, embed_dim: int, num_heads: int):
        if embed_dim % num_heads:
            raise ArgumentError("num_heads", f"must divide the {embed_dim} channels, got {num_heads}")
        super().__init__(embed_dim, num_heads, batch_first=True)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, blocked: Tensor | None = None) -> Tensor:
        """query (B, Q, C), key and value (B, K, C); ``blocked`` bool, (Q, K) or (B, Q, K), True = may not attend.

        Returns (B, Q, C). A row that blocks every key gives NaN: the caller must not pass one.
        """
        weight, bias = self.in_proj_weight, self.in_proj_bias
        if query is key:
            q, k = linear(query, weight[:-self.embed_dim], bias[:-self.embed_dim]).chunk(2, dim=-1)
        else:
            q = linear(query, weight[:self.embed_dim], bias[:self.embed_dim])
            k = linear(key, weight[self.embed_dim:-self.embed_dim], bias[self.embed_dim:-self.embed_dim])
        v = linear(value, weight[-self.embed_dim:], bias[-self.embed_dim:])
        q, k, v = (t.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2) for t in (q, k, v))
        mask = None
        if blocked is not None:
            mask = ~(blocked[:, None] if blocked.dim() == 3 else blocked)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        attended = attended.transpose(1, 2).flatten(2)
        if is_plain(self.out_proj, NonDynamicallyQuantizableLinear):
            return linear(attended, self.out_proj.weight, self.out_proj.bias)
        return self.out_proj(attended)

    def reset_parameters(self):
        """torch's own start, under the name that its other layers have for it."""
        self._reset_parameters()


def xavier_uniform_matrices_(module: nn.Module) -> None:
    """Re-initialise every parameter of two or more dimensions of ``module`` Xavier-uniformly, in place."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)


class ResidualSublayer(nn.Module):
    """The frame of the sub-layers: x -> norm(x + f(x)), or x + f(norm(x)) with ``pre_norm``."""

    def __init__(self, dim: int, *, pre_norm: bool):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.pre_norm = pre_norm

    def residual(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply ``sublayer`` to tokens (B, Q, C) within the residual frame."""
        if self.pre_norm:
            return x + sublayer(self.norm(x))
        return self.norm(x + sublayer(x))


class SelfAttentionLayer(ResidualSublayer):
    """Self-attention of queries (B, Q, C); keys ``self_attn.*``, ``norm.*``."""

    def __init__(self, dim: int, num_heads: int, *, pre_norm: bool = False):
        super().__init__(dim, pre_norm=pre_norm)
        self.self_attn = MultiheadAttention(dim, num_heads)
        xavier_uniform_matrices_(self)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """``position``: (B or 1, Q, C), added to queries and keys."""
        def attend(tokens):
            placed = tokens + position
            return self.self_attn(placed, placed, tokens)
        return self.residual(x, attend)


class CrossAttentionLayer(ResidualSublayer):
    """Attention of queries (B, Q, C) to memory (B, K, C); keys ``multihead_attn.*``, ``norm.*``."""

    def __init__(self, dim: int, num_heads: int, *, pre_norm: bool = False):
        super().__init__(dim, pre_norm=pre_norm)
        self.multihead_attn = MultiheadAttention(dim, num_heads)
        xavier_uniform_matrices_(self)

    def forward(self, x: Tensor, memory: Tensor, position: Tensor, memory_position: Tensor, blocked: Tensor) -> Tensor:
        """Positions are added to queries and keys only; ``blocked`` bool (B, Q, K), True = may not attend."""
        return self.residual(x, lambda tokens: self.multihead_attn(
            tokens + position, memory + memory_position, memory, blocked))


def feed_forward(x: Tensor, linear1: nn.Linear, linear2: nn.Linear, dropout: float = 0.0) -> Tensor:
    """linear2(relu(linear1(x))) with dropout after each activation; (..., Q, C) -> (..., Q, C)."""
    def transform(tokens: Tensor) -> Tensor:
        hidden = linear_relu(tokens, linear1)
        return F.dropout(linear2(F.dropout(hidden, dropout)), dropout) if dropout else linear2(hidden)

    if not overwrites() or not is_plain(linear1, Linear):
        return transform(x)
    # Nobody keeps the hidden activations, so on the CPU they need not leave the cache.
    transformed = by_pieces(transform, [x.flatten(0, -2)], 0, linear1.out_features * x.element_size())
    return transformed.unflatten(0, x.shape[:-1])


class FeedForwardLayer(ResidualSublayer):
    """Two linear layers with ReLU on tokens (B, Q, C); keys ``linear1.*``, ``linear2.*``, ``norm.*``."""

    def __init__(self, dim: int, hidden_dim: int, *, pre_norm: bool = False):
        super().__init__(dim, pre_norm=pre_norm)
        self.linear1 = Linear(dim, hidden_dim)
        self.linear2 = Linear(hidden_dim, dim)
        xavier_uniform_matrices_(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x, lambda tokens: feed_forward(tokens, self.linear1, self.linear2))

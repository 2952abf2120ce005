"""Attention inversion and frequency scaling inside modules of timm, whose parameters, keys and hooks stay.

Source: FDAM (ICCV 2025, arXiv 2507.12006), supplement, equations 28 to 34. What is put before timm's classes reads the
names of their parts; timm itself is not needed.

B: batch, N: tokens, the first P of which are no patches (class and register tokens), C: channels, h: heads, d: their
width, h' ≤ h: heads of keys and values, (H, W): the map that the other tokens are.
"""
import torch
import torch.nn.functional as F
from torch import Tensor

from freqdino.frequency.fdam.fdam_transformer import scaled_tokens
from freqdino.frequency.plain_state import keep_additions
from freqdino.ops.modules import PutBefore


class InvertedAttention(PutBefore):
    """Put before a self-attention of timm: ``invert``, InversionGates, between A·V and what follows it.

    What the module has of these is used: one projection or three, a separate bias, fewer heads of keys and values,
    normalised queries and keys, rotary positions, a mask, dropout, a normalisation and a gate of the result. It calls
    the fused operator, or computes A where ``fused_attn`` is False, as timm does.
    """

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """x: (B, N, C). attn_mask: added to the logits or, if bool, True for what is attended to; it broadcasts to
        (B, h, N, N). Returns (B, N, C)."""
        return self.inverted(x, attn_mask, is_causal=is_causal)

    def inverted(self, x: Tensor, mask: Tensor | None, *, rope: Tensor | None = None, is_causal: bool = False
                 ) -> Tensor:
        """What every ``forward`` here does. rope: sines and cosines by token and channel, (..., N - P, 2d)."""
        queries, keys, values = self.projected(x)
        if hasattr(self, "q_norm"):
            queries, keys = self.q_norm(queries), self.k_norm(keys)
        if rope is not None:
            queries, keys = (self.rotated(tokens, rope).type_as(values) for tokens in (queries, keys))
        shared_by = queries.shape[1] // keys.shape[1]
        if shared_by > 1:
            keys, values = (tokens.repeat_interleave(shared_by, dim=1) for tokens in (keys, values))
        result = self.without_heads(values, self.attended(queries, keys, values, mask, is_causal), x)
        return self.finished(result, x)

    def without_heads(self, values: Tensor, attended: Tensor, x: Tensor) -> Tensor:
        """V and A·V (B, h, N, d) to the inverted result (B, N, C); x is what the gates are read off."""
        return self.invert(*(tokens.transpose(1, 2).flatten(2) for tokens in (values, attended)), x)

    def finished(self, result: Tensor, x: Tensor) -> Tensor:
        """What timm does with the result of all heads."""
        if hasattr(self, "norm"):
            result = self.norm(result)
        if getattr(self, "gate", None) is not None:
            result = result * self.gate(x).sigmoid()
        return self.proj_drop(self.proj(result))

    def projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x: (B, N, C) to queries (B, h, N, d), keys and values (B, h', N, d)."""
        if self.qkv is None:
            parts = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        elif getattr(self, "q_bias", None) is None:
            parts = self.qkv(x).chunk(3, dim=-1)
        else:
            bias = torch.cat((self.q_bias, self.k_bias, self.v_bias))
            # By the flag, because only a plain layer has a weight to take.
            projected = self.qkv(x) + bias if self.qkv_bias_separate else F.linear(x, self.qkv.weight, bias)
            parts = projected.chunk(3, dim=-1)
        width = parts[0].shape[-1] // self.num_heads
        return tuple(part.unflatten(-1, (-1, width)).transpose(1, 2) for part in parts)

    def rotated(self, tokens: Tensor, rope: Tensor) -> Tensor:
        """tokens: (B, heads, N, d), turned by their positions but for the first P."""
        prefix, patches = tokens.split((self.num_prefix_tokens, tokens.shape[2] - self.num_prefix_tokens), dim=2)
        sines, cosines = rope.chunk(2, dim=-1)
        if getattr(self, "rotate_half", False):     # pairs are channels i and i + d / 2, else neighbours
            first, second = patches.chunk(2, dim=-1)
            turned = torch.cat((-second, first), dim=-1)
        else:
            turned = torch.stack((-patches[..., 1::2], patches[..., ::2]), dim=-1).flatten(-2)
        return torch.cat((prefix, patches * cosines + turned * sines), dim=2)

    def attended(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor:
        """A·V, (B, h, N, d)."""
        if self.fused_attn:
            return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=is_causal,
                                                  dropout_p=self.attn_drop.p if self.training else 0.0)
        logits = queries * self.scale @ keys.mT
        if is_causal:
            mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
        if mask is not None:
            logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
        return self.attn_drop(logits.softmax(dim=-1)) @ values

    def _load_from_state_dict(self, state_dict, prefix, *arguments):
        """A plain network's entries load strictly: what is new stays as it is."""
        keep_additions(self.invert, state_dict, f"{prefix}invert.")
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class InvertedRotaryAttention(InvertedAttention):
    """For timm's attention that is given rotary positions with each call."""

    def forward(self, x: Tensor, rope: Tensor | None = None, attn_mask: Tensor | None = None, is_causal: bool = False
                ) -> Tensor:
        """As InvertedAttention. rope: (..., N - P, 2d)."""
        return self.inverted(x, attn_mask, rope=rope, is_causal=is_causal)


class TokenGrid:
    """The size (H, W) of the map that a network's tokens are: its patch embedding tells, its branches ask.

    It stands beside the modules because timm's blocks are given the tokens alone.
    """

    size: tuple[int, int] | None = None


class GridTeller(PutBefore):
    """Put before a patch embedding of timm: each image sets ``token_grid``."""

    def forward(self, image: Tensor) -> Tensor:
        self.token_grid.size = tuple(self.dynamic_feat_size(image.shape[-2:]))
        return super().forward(image)


class TokenScaling(PutBefore):
    """``freq_scale``: FrequencyScale. ``prefix_tokens``: P, which pass by. ``token_grid``: TokenGrid."""

    def scaled(self, tokens: Tensor) -> Tensor:
        """x + S(x) of the map that the tokens (B, N, C) are but for the first P.

        Raises ValueError where they are not those of the last image.
        """
        patches = tokens.shape[1] - self.prefix_tokens
        if self.token_grid.size is None:
            raise ValueError(f"frequency scaling reads a map of {patches} tokens, but no image has been embedded: call "
                             "the whole network")
        height, width = self.token_grid.size
        if patches != height * width:
            raise ValueError(f"frequency scaling reads a map of {patches} tokens, but the last image has {height} × "
                             f"{width} patches: blocks cannot be called for another image, nor with tokens left out")
        prefix, patches = tokens.split((self.prefix_tokens, patches), dim=1)
        scaled = scaled_tokens(self.freq_scale, patches, self.token_grid.size)
        return torch.cat((prefix, scaled), dim=1) if self.prefix_tokens else scaled

    def _load_from_state_dict(self, state_dict, prefix, *arguments):
        """A plain network's entries load strictly: what is new stays as it is."""
        keep_additions(self.freq_scale, state_dict, f"{prefix}freq_scale.")
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class ScaledBranch(TokenScaling):
    """Put before a module whose result (B, N, C) ends a block's branch, which is scaled then."""

    def forward(self, *inputs, **options) -> Tensor:
        return self.scaled(super().forward(*inputs, **options))

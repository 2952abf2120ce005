"""Multi-scale deformable attention and the encoder made of it.

Source: Deformable DETR (arXiv 2010.04159), sections 4.1 and 4.2.
B: batch, Q: queries, S: tokens of all levels (sum of H * W), C: channels, L: levels, P: sampling points a level.
"""
import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqdino.errors import ArgumentError
from freqdino.layers.linear import Linear
from freqdino.layers.transformer import feed_forward
from freqdino.ops.backends import HasOperators
from freqdino.ops.constants import constant
from freqdino.ops.ms_deform_attn import ms_deform_attn
from freqdino.ops.ms_deform_attn_fused import DEFORMOPS


class MSDeformAttn(HasOperators, nn.Module):
    """Attention to a few sampled places of several feature maps.

    Keys: ``sampling_offsets``, ``attention_weights``, ``value_proj``, ``output_proj``; the offsets are ordered head,
    level, point, (x, y), the weights head, level, point. Raises ValueError unless ``num_heads`` divides ``dim``.

    ``invert(value, attended, query)``, all (B, S, C), may change what was attended to before the output projection,
    where the queries are the source's own tokens; a module's keys are under ``invert``.
    """

    kernel = DEFORMOPS

    def __init__(self, *, dim: int, num_heads: int, num_levels: int, num_points: int = 4,
                 invert: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None):
        super().__init__()
        if dim % num_heads:
            raise ArgumentError("num_heads", f"must divide the {dim} channels, got {num_heads}")
        self.num_heads = num_heads
        self.num_levels = num_levels
        self.num_points = num_points
        self.invert = invert
        self.sampling_offsets = Linear(dim, num_heads * num_levels * num_points * 2)
        self.attention_weights = Linear(dim, num_heads * num_levels * num_points)
        self.value_proj = Linear(dim, dim)
        self.output_proj = Linear(dim, dim)
        self.reset_parameters()

    def reset_parameters(self):
        """Zero weights, so that at first each head looks in a direction of its own, farther with each point."""
        angles = torch.arange(self.num_heads, dtype=torch.float32) * (2 * math.pi / self.num_heads)
        directions = torch.stack((angles.cos(), angles.sin()), dim=-1)
        directions = directions / directions.abs().amax(dim=-1, keepdim=True)
        steps = torch.arange(1, self.num_points + 1, dtype=torch.float32)
        offsets = directions[:, None, None] * steps[:, None]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.expand(-1, self.num_levels, -1, -1).flatten())
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(self, query: Tensor, reference: Tensor, source: Tensor,
                spatial_shapes: list[tuple[int, int]]) -> Tensor:
        """query (B, Q, C); source (B, S, C), the levels' tokens one after the other; returns (B, Q, C).

        reference: (B or 1, Q, 2) points, or (B or 1, Q, 4) boxes cxcywh, in [0, 1]. Offsets are measured in pixels of
        the level round a point, and in halves of the box side divided by P round the centre of a box.
        """
        heads = (self.num_heads, self.num_levels, self.num_points)
        value = self.value_proj(source).unflatten(-1, (self.num_heads, -1))
        # Places must be exact: a half-precision coordinate is off by pixels on a large map.
        offsets = self.sampling_offsets(query).float().unflatten(-1, (*heads, 2))
        weights = self.attention_weights(query).float().unflatten(-1, (self.num_heads, -1)).softmax(-1)
        weights = weights.unflatten(-1, heads[1:])
        reference = reference.float()[:, :, None, None, None]
        if reference.shape[-1] == 2:
            pixels = constant(tuple((1 / width, 1 / height) for height, width in spatial_shapes), offsets.dtype,
                              offsets.device)[:, None]
            locations = torch.addcmul(reference, offsets, pixels)
        else:
            locations = torch.addcmul(reference[..., :2], offsets, reference[..., 2:] * (0.5 / self.num_points))
        attended = ms_deform_attn(value, spatial_shapes, locations, weights, operators=self.operators)
        if self.invert is not None:
            attended = self.invert(value.flatten(2), attended, query)
        return self.output_proj(attended)


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention and feed-forward, each followed by residual and LayerNorm.

    ``invert`` is the attention's. ``freq_scale_1(x)`` and ``freq_scale_2(x)`` map each level's (B, C, H, W) to the same
    shape: of the attention's output and of the feed-forward's, before the residual.
    """

    def __init__(self, *, dim: int, num_heads: int, num_levels: int, dim_feedforward: int, dropout: float,
                 invert: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
                 freq_scale_1: Callable[[Tensor], Tensor] | None = None,
                 freq_scale_2: Callable[[Tensor], Tensor] | None = None):
        super().__init__()
        self.self_attn = MSDeformAttn(dim=dim, num_heads=num_heads, num_levels=num_levels, invert=invert)
        self.freq_scale_1 = freq_scale_1
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = Linear(dim, dim_feedforward)
        self.linear2 = Linear(dim_feedforward, dim)
        self.freq_scale_2 = freq_scale_2
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = dropout
        for layer in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, x: Tensor, position: Tensor, reference: Tensor, spatial_shapes: list[tuple[int, int]]) -> Tensor:
        """Tokens (B, S, C) with position (1, S, C) and reference (1, S, 2) -> (B, S, C)."""
        dropout = self.dropout if self.training else 0.0
        attended = F.dropout(self.self_attn(x + position, reference, x, spatial_shapes), dropout)
        x = self.norm1(x + on_each_level(self.freq_scale_1, attended, spatial_shapes))
        transformed = feed_forward(x, self.linear1, self.linear2, dropout)
        return self.norm2(x + on_each_level(self.freq_scale_2, transformed, spatial_shapes))


def on_each_level(scale_map: Callable[[Tensor], Tensor] | None, tokens: Tensor,
                  spatial_shapes: list[tuple[int, int]]) -> Tensor:
    """``scale_map`` of every level's map (B, C, H, W), put together again as tokens (B, S, C); None changes nothing."""
    if scale_map is None:
        return tokens
    levels = tokens.split([height * width for height, width in spatial_shapes], dim=1)
    maps = (scale_map(level.transpose(1, 2).unflatten(2, size)) for level, size in zip(levels, spatial_shapes))
    return torch.cat([scaled.flatten(2).transpose(1, 2) for scaled in maps], dim=1)


class DeformableEncoder(nn.Module):
    """A stack of encoder layers; keys ``layers.<i>.*``.

    ``make_modulation()`` gives each layer its ``invert`` and so on.
    """

    def __init__(self, *, num_layers: int, make_modulation: Callable[[], Mapping[str, nn.Module]] = dict,
                 **layer_arguments):
        super().__init__()
        self.layers = nn.ModuleList(DeformableEncoderLayer(**layer_arguments, **make_modulation())
                                    for _ in range(num_layers))

    def forward(self, x: Tensor, position: Tensor, spatial_shapes: list[tuple[int, int]]) -> Tensor:
        """Tokens (B, S, C) with position (1, S, C) -> (B, S, C); every token refers to its own pixel's centre."""
        reference = pixel_centres(spatial_shapes, x.device)[None]
        for layer in self.layers:
            x = layer(x, position, reference, spatial_shapes)
        return x


def pixel_centres(spatial_shapes: list[tuple[int, int]], device=None) -> Tensor:
    """Centres of the pixels of each level in [0, 1], as (x, y): (S, 2), levels one after the other, row-major."""
    def centres(size):
        return (torch.arange(size, dtype=torch.float32, device=device) + 0.5) / size

    def grid(height, width):
        return torch.stack((centres(width).expand(height, width), centres(height)[:, None].expand(height, width)), -1)

    return torch.cat([grid(height, width).flatten(0, 1) for height, width in spatial_shapes])

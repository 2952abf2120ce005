"""The masked-attention transformer decoder of Mask2Former.

Source: Mask2Former (arXiv 2112.01527), section 3.2.
B: batch, Q: queries, C: query width, M: mask width, K: classes, (H, W): size of the mask features,
(H_l, W_l): size of level l.
"""
import torch.nn.functional as F
from detectron2.layers import Conv2d
from fvcore.nn.weight_init import c2_xavier_fill
from torch import Tensor, nn

from freqdino.layers.linear import Linear
from freqdino.layers.mlp import MLP
from freqdino.layers.position_encoding import sine_position_map
from freqdino.layers.transformer import CrossAttentionLayer, FeedForwardLayer, SelfAttentionLayer
from freqdino.modeling.prediction import Outputs, Prediction

NUM_LEVELS = 3


class MultiScaleMaskedTransformerDecoder(nn.Module):
    """Learned queries that read one level a layer, each only where its own last mask was positive.

    ``num_layers`` layers make ``num_layers`` + 1 predictions, the first from the raw queries. ``in_channels`` other
    than ``hidden_dim``, or ``enforce_input_proj``, put a 1x1 convolution before each level.
    """

    def __init__(self, *, in_channels: int, num_classes: int, hidden_dim: int, num_queries: int, num_heads: int,
                 dim_feedforward: int, num_layers: int, mask_dim: int, pre_norm: bool = False,
                 enforce_input_proj: bool = False):
        super().__init__()
        layers = range(num_layers)
        self.transformer_self_attention_layers = nn.ModuleList(
            SelfAttentionLayer(hidden_dim, num_heads, pre_norm=pre_norm) for _ in layers)
        self.transformer_cross_attention_layers = nn.ModuleList(
            CrossAttentionLayer(hidden_dim, num_heads, pre_norm=pre_norm) for _ in layers)
        self.transformer_ffn_layers = nn.ModuleList(
            FeedForwardLayer(hidden_dim, dim_feedforward, pre_norm=pre_norm) for _ in layers)
        self.decoder_norm = nn.LayerNorm(hidden_dim)
        self.query_feat = nn.Embedding(num_queries, hidden_dim)
        self.query_embed = nn.Embedding(num_queries, hidden_dim)
        self.level_embed = nn.Embedding(NUM_LEVELS, hidden_dim)
        needs_projection = enforce_input_proj or in_channels != hidden_dim
        self.input_proj = nn.ModuleList(
            _input_projection(in_channels, hidden_dim) if needs_projection else nn.Identity()
            for _ in range(NUM_LEVELS))
        self.class_embed = Linear(hidden_dim, num_classes + 1)
        self.mask_embed = MLP(hidden_dim, hidden_dim, mask_dim, 3)

    def forward(self, levels: list[Tensor], mask_features: Tensor, targets=None) -> Outputs:
        """levels: at least 3 maps (B, C, H_l, W_l), of which the first 3 are read; mask_features (B, M, H, W).

        ``targets`` is taken for the call that this decoder shares with Mask DINO's and not read. Returns predictions of
        logits (B, Q, K + 1) and masks (B, Q, H, W). Raises ValueError for fewer than 3 levels.
        """
        self.check_levels(len(levels))
        batch = mask_features.shape[0]
        memories, positions, small_mask_features = [], [], []
        for level, projection, embedding in zip(levels, self.input_proj, self.level_embed.weight):
            level = projection(level)
            size = level.shape[-2:]
            memories.append(level.flatten(2).transpose(1, 2) + embedding)
            positions.append(sine_position_map(*size, level.shape[1], level.device)[None].to(level.dtype))
            # A mask is linear in the mask features, so they are resized once a level instead of every mask a layer.
            small_mask_features.append(
                F.interpolate(mask_features.detach(), size=size, mode="bilinear", align_corners=False).flatten(2))

        queries = self.query_feat.weight.expand(batch, -1, -1)
        query_position = self.query_embed.weight[None]
        predictions = []
        for i in range(len(self.transformer_ffn_layers) + 1):
            logits, mask_embedding = self._heads(queries)
            predictions.append(Prediction(logits=logits, mask_embedding=mask_embedding, mask_features=mask_features))
            if i == len(self.transformer_ffn_layers):
                break
            level = i % NUM_LEVELS
            blocked = blocked_places(mask_embedding.detach() @ small_mask_features[level])
            queries = self.transformer_cross_attention_layers[i](
                queries, memories[level], query_position, positions[level], blocked)
            queries = self.transformer_self_attention_layers[i](queries, query_position)
            queries = self.transformer_ffn_layers[i](queries)
        *auxiliary, last = predictions
        return Outputs(last=last, auxiliary=auxiliary)

    @staticmethod
    def check_levels(number: int) -> None:
        """Raise ValueError for a number of levels that cannot be read."""
        if number < NUM_LEVELS:
            raise ValueError(f"the decoder reads {NUM_LEVELS} levels, got {number}")

    def _heads(self, queries):
        """Class logits (B, Q, K + 1) and mask embeddings (B, Q, M) of queries (B, Q, C)."""
        normed = self.decoder_norm(queries)
        return self.class_embed(normed), self.mask_embed(normed)


def blocked_places(mask_logits: Tensor) -> Tensor:
    """Where a query must not look: True where its mask (B, Q, N) is negative; a mask that blocks all blocks nothing."""
    blocked = mask_logits < 0
    return blocked & ~blocked.all(dim=-1, keepdim=True)


def _input_projection(in_channels, out_channels):
    projection = Conv2d(in_channels, out_channels, kernel_size=1)
    c2_xavier_fill(projection)
    return projection

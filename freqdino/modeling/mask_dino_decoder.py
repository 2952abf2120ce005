"""The transformer decoder of Mask DINO: deformable attention, boxes refined layer by layer, masks from dot products.

Source: Mask DINO (arXiv 2206.02777), section 3; DINO (arXiv 2203.03605), section 3.
B: batch, Q: queries, D: denoising queries, C: channels, S: tokens of all levels, K: class logits, (H, W): size of the
mask features. Boxes are cxcywh in [0, 1] over the padded input.
"""
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from freqdino.errors import ArgumentError
from freqdino.frequency.argument_checks import check_choice, check_counts
from freqdino.layers.boxes import inverse_sigmoid
from freqdino.layers.deformable_attention import MSDeformAttn
from freqdino.layers.linear import Linear
from freqdino.layers.mlp import MLP
from freqdino.layers.position_encoding import sine_box_embedding
from freqdino.layers.transformer import MultiheadAttention, feed_forward, xavier_uniform_matrices_
from freqdino.modeling.denoising import NoisedQueries, noised_queries
from freqdino.modeling.prediction import Outputs, Prediction, mask_logits
from freqdino.modeling.query_selection import box_logits_from_masks, take_tokens, token_proposals
from freqdino.modeling.targets import ImageTargets

NUM_HEADS = 8


class MaskDINODecoderLayer(nn.Module):
    """Self-attention, deformable cross-attention, feed-forward; each followed by residual and LayerNorm."""

    def __init__(self, *, dim: int, num_heads: int, num_levels: int, dim_feedforward: int):
        super().__init__()
        self.cross_attn = MSDeformAttn(dim=dim, num_heads=num_heads, num_levels=num_levels)
        self.norm1 = nn.LayerNorm(dim)
        self.self_attn = MultiheadAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.linear1 = Linear(dim, dim_feedforward)
        self.linear2 = Linear(dim_feedforward, dim)
        self.norm3 = nn.LayerNorm(dim)
        for part in (self.self_attn, self.linear1, self.linear2):
            xavier_uniform_matrices_(part)

    def forward(self, x: Tensor, position: Tensor, boxes: Tensor, memory: Tensor, spatial_shapes: list[tuple[int, int]],
                blocked: Tensor | None) -> Tensor:
        """Queries (B, Q, C) with position (B, Q, C) and boxes (B, Q, 4); memory (B, S, C); blocked bool (Q, Q)."""
        placed = x + position
        x = self.norm2(x + self.self_attn(placed, placed, x, blocked))
        x = self.norm1(x + self.cross_attn(x + position, boxes, memory, spatial_shapes))
        return self.norm3(x + feed_forward(x, self.linear1, self.linear2))


class MaskDINODecoder(nn.Module):
    """Queries from the encoder (``two_stage``) or learned, refined by ``num_layers`` layers.

    Makes a prediction after every layer, and with ``initial_prediction`` one of the queries before the first layer.
    ``learn_content`` uses learned content also with ``two_stage``. ``box_initialisation``: no, bitmask or mask2box, see
    `query_selection.box_logits_from_masks`. ``num_denoising`` 0 switches denoising off.

    One box head serves every layer and appears in the state dict under every name that the published code gives it; the
    published weights were trained with ``decoder_norm`` applied twice before the class and mask heads, so it is.

    Raises ValueError for an unknown ``box_initialisation`` or one that has no masks to start from, and for numbers out
    of range.
    """

    def __init__(self, *, in_channels: int, num_classes: int, num_class_logits: int, hidden_dim: int, num_queries: int,
                 dim_feedforward: int, num_layers: int, mask_dim: int, num_levels: int, two_stage: bool,
                 learn_content: bool, box_initialisation: str, initial_prediction: bool, num_denoising: int,
                 noise_scale: float, enforce_input_proj: bool = False, num_heads: int = NUM_HEADS):
        super().__init__()
        check_choice(("no", "bitmask", "mask2box"), box_initialisation=box_initialisation)
        check_counts(num_layers=num_layers)
        check_counts(least=0, num_denoising=num_denoising)
        if box_initialisation != "no" and not two_stage:
            raise ArgumentError("box_initialisation", f"is {box_initialisation!r}, which needs two_stage: learned "
                                "queries have no first masks")
        if not 0 <= noise_scale <= 2:
            raise ArgumentError("noise_scale",
                                f"must be in 0..2, twice the share of labels replaced, got {noise_scale}")
        self.num_classes = num_classes
        self.num_queries = num_queries
        self.two_stage = two_stage
        self.learn_content = learn_content
        self.box_initialisation = box_initialisation
        self.initial_prediction = initial_prediction
        self.num_denoising = num_denoising
        self.noise_scale = noise_scale

        needs_projection = enforce_input_proj or in_channels != hidden_dim
        self.input_proj = nn.ModuleList(
            nn.Conv2d(in_channels, hidden_dim, 1) if needs_projection else nn.Identity() for _ in range(num_levels))
        if two_stage:
            self.enc_output = Linear(hidden_dim, hidden_dim)
            self.enc_output_norm = nn.LayerNorm(hidden_dim)
        if learn_content or not two_stage:
            self.query_feat = nn.Embedding(num_queries, hidden_dim)
        if not two_stage:
            self.query_embed = nn.Embedding(num_queries, 4)
        self.class_embed = Linear(hidden_dim, num_class_logits)
        self.label_enc = nn.Embedding(num_classes, hidden_dim)
        self.mask_embed = MLP(hidden_dim, hidden_dim, mask_dim, 3)
        self.decoder_norm = nn.LayerNorm(hidden_dim)
        self._bbox_embed = MLP(hidden_dim, hidden_dim, 4, 3)
        for parameter in self._bbox_embed.layers[-1].parameters():
            nn.init.zeros_(parameter)
        self.bbox_embed = nn.ModuleList([self._bbox_embed] * num_layers)
        self.decoder = nn.Module()
        self.decoder.layers = nn.ModuleList(
            MaskDINODecoderLayer(dim=hidden_dim, num_heads=num_heads, num_levels=num_levels,
                                 dim_feedforward=dim_feedforward)
            for _ in range(num_layers))
        self.decoder.norm = self.decoder_norm
        self.decoder.ref_point_head = MLP(2 * hidden_dim, hidden_dim, hidden_dim, 2)
        xavier_uniform_matrices_(self.decoder.ref_point_head)
        self.decoder.bbox_embed = self.bbox_embed

    def forward(self, levels: list[Tensor], mask_features: Tensor,
                targets: Sequence[ImageTargets] | None = None) -> Outputs:
        """levels: maps (B, C, H_l, W_l) in encoder order; mask_features (B, M, H, W); targets: for denoising.

        Returns predictions of logits (B, Q, K), masks (B, Q, H, W) and boxes (B, Q, 4); proposals with two_stage only.
        Queries are as many as tokens where there are fewer of these. Raises ValueError for another number of levels
        than the decoder was made for.
        """
        self.check_levels(len(levels))
        levels = [proj(level) for proj, level in zip(self.input_proj, levels[::-1])]
        spatial_shapes = [tuple(level.shape[-2:]) for level in levels]
        memory = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)

        if self.two_stage:
            content, boxes, proposals = self._select(memory, spatial_shapes, mask_features)
        else:
            content, boxes, proposals = None, self.query_embed.weight.float().expand(memory.shape[0], -1, -1), None
        if content is None:
            content = self.query_feat.weight[:boxes.shape[1]].expand(memory.shape[0], -1, -1)

        noised = None
        if targets is not None and self.num_denoising > 0:
            noised = noised_queries(targets, num_denoising=self.num_denoising, noise_scale=self.noise_scale,
                                    num_classes=self.num_classes)
        blocked = None
        if noised is not None:
            blocked = noised.blocked(content.shape[1])
            content, boxes = self._with_noised(noised, content, boxes)
        num_noised = 0 if noised is None else noised.labels.shape[1]
        predictions = self._refine(content, boxes, memory, spatial_shapes, blocked, num_noised, mask_features)

        *auxiliary, last = [matching for _, matching in predictions]
        if self.training and noised is None:
            # Without denoising queries the label embedding has no part in the result; distributed training wants one.
            last.logits = last.logits + 0 * self.label_enc.weight.sum()
        denoising = None if noised is None else ([known for known, _ in predictions], noised)
        return Outputs(last=last, auxiliary=auxiliary, proposals=proposals, denoising=denoising)

    def check_levels(self, number: int) -> None:
        """Raise ValueError for a number of levels that cannot be read."""
        if number != len(self.input_proj):
            raise ValueError(f"the decoder was made for num_levels {len(self.input_proj)}, got {number} levels")

    def _select(self, memory, spatial_shapes, mask_features):
        """The tokens with the best class score: content (B, Q, C) or None where it is learned, box logits (B, Q, 4),
        and the prediction that they make.
        """
        proposals, valid = token_proposals(spatial_shapes, memory.device)
        encoded = self.enc_output_norm(self.enc_output(memory.masked_fill(~valid, 0.0)))
        best = self.class_embed(encoded).amax(dim=-1)
        chosen = self.choose_tokens(best)
        encoded = take_tokens(encoded, chosen)
        boxes = self._bbox_embed(encoded).float() + proposals[chosen]
        prediction = self._predict(encoded, boxes.sigmoid(), mask_features)
        boxes = boxes.detach()
        if self.box_initialisation != "no":
            with torch.no_grad():
                boxes = box_logits_from_masks(mask_logits(prediction.mask_embedding, mask_features),
                                              self.box_initialisation)
        return None if self.learn_content else encoded.detach(), boxes, prediction

    def choose_tokens(self, scores: Tensor) -> Tensor:
        """Index (B, Q) of the tokens that become queries, from their scores (B, S)."""
        return scores.topk(min(self.num_queries, scores.shape[1]), dim=1).indices

    def _with_noised(self, noised: NoisedQueries, content, boxes):
        """Put the denoising queries before the others; slots without an object are zeros."""
        labels = self.label_enc(noised.labels) * noised.used[..., None]
        return (torch.cat((labels.to(content.dtype), content), dim=1),
                torch.cat((inverse_sigmoid(noised.boxes), boxes), dim=1))

    def _refine(self, content, box_logits, memory, spatial_shapes, blocked, num_noised, mask_features):
        """The predictions before the first layer, where asked for, and after every layer, as (denoising, matching)."""
        def split(content, boxes):
            return tuple(self._predict(c, b, mask_features) for c, b in
                         zip(content.split([num_noised, content.shape[1] - num_noised], dim=1),
                             boxes.split([num_noised, boxes.shape[1] - num_noised], dim=1)))

        boxes = attached_boxes = box_logits.sigmoid()
        predictions = [split(content, boxes)] if self.initial_prediction else []
        for layer in self.decoder.layers:
            position = self.decoder.ref_point_head(sine_box_embedding(boxes, content.shape[-1] // 2).to(content.dtype))
            content = layer(content, position, boxes, memory, spatial_shapes, blocked)
            normed = self.decoder_norm(content)
            # Look forward twice: a prediction corrects the box before its gradient is cut, the next layer starts after.
            corrected = (self._bbox_embed(normed).float() + inverse_sigmoid(attached_boxes)).sigmoid()
            predictions.append(split(normed, corrected))
            attached_boxes = (self._bbox_embed(content).float() + inverse_sigmoid(boxes)).sigmoid()
            boxes = attached_boxes.detach()
        return predictions

    def _predict(self, queries, boxes, mask_features):
        """A prediction from queries (B, Q, C) and their boxes (B, Q, 4)."""
        normed = self.decoder_norm(queries)
        return Prediction(logits=self.class_embed(normed), boxes=boxes, mask_embedding=self.mask_embed(normed),
                          mask_features=mask_features)

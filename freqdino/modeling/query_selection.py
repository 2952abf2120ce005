"""Mask DINO's first queries and anchors: chosen from the encoder's tokens, or learned.

Source: Mask DINO (arXiv 2206.02777), section 3.4 (unified and enhanced query selection); DINO (arXiv 2203.03605), 3.4.
B: batch, S: tokens of all levels, Q: queries, C: channels, (H, W): size of the mask features.
"""
import torch
from torch import Tensor

from freqdino.layers.boxes import inverse_sigmoid, masks_to_boxes, xyxy_to_cxcywh
from freqdino.layers.deformable_attention import pixel_centres

FIRST_ANCHOR_SIDE = 0.05


def token_proposals(spatial_shapes: list[tuple[int, int]], device=None) -> tuple[Tensor, Tensor]:
    """An anchor for every token, as logits of cxcywh (S, 4), and which tokens may be chosen, bool (S, 1).

    Anchors are squares on the pixel centres, 0.05 wide in the first level listed and twice as wide with each next one.
    An anchor with a value outside (0.01, 0.99) has infinite logits and must not be chosen.
    """
    sides = torch.cat([torch.full((height * width, 2), FIRST_ANCHOR_SIDE * 2.0 ** level, device=device)
                       for level, (height, width) in enumerate(spatial_shapes)])
    anchors = torch.cat((pixel_centres(spatial_shapes, device), sides), dim=1)
    valid = ((anchors > 0.01) & (anchors < 0.99)).all(dim=1, keepdim=True)
    return torch.logit(anchors).masked_fill(~valid, float("inf")), valid


def take_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """The tokens (B, S, C) at an index (B, Q) -> (B, Q, C)."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


def box_logits_from_masks(mask_logits: Tensor, kind: str) -> Tensor:
    """Logits of cxcywh boxes (B, Q, 4) round the positive part of masks (B, Q, H, W), relative to the map.

    ``bitmask``: the maximum is exclusive, and an empty mask has the box 0, 0, 0, 0. ``mask2box``: the maximum is the
    last pixel itself, and an empty mask has a box of no size in the far corner. Both as published.
    """
    masks = mask_logits.flatten(0, 1) > 0
    boxes = masks_to_boxes(masks)
    if kind == "mask2box":
        boxes[:, 2:] -= 1
    height, width = mask_logits.shape[-2:]
    boxes = xyxy_to_cxcywh(boxes) / boxes.new_tensor([width, height, width, height])
    if kind == "mask2box":
        boxes = torch.where(masks.flatten(1).any(dim=1, keepdim=True), boxes, boxes.new_tensor([1.0, 1.0, 0.0, 0.0]))
    return inverse_sigmoid(boxes).unflatten(0, mask_logits.shape[:2])

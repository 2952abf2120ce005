"""`freqdino.modeling.post_processing` for a whole batch, without loops over what is found and without shapes that
depend on it: what a graph can say. Sources: there.

Shape key: B: batch, Q: queries, K: classes, (H, W): size of the results, N: instances.
"""
import torch
from torch import Tensor

from freqdino.layers.boxes import masks_to_boxes
from freqdino.modeling.post_processing import PostProcessing

INSIDE = 0.5        # probability from which on a pixel belongs to a panoptic mask


def semantic(shares: Tensor, masks: Tensor) -> Tensor:
    """Class shares (B, Q, K) and mask logits (B, Q, H, W) -> scores (B, K, H, W)."""
    return torch.einsum("bqk,bqhw->bkhw", shares, masks.sigmoid())


def instances(rules: PostProcessing, logits: Tensor, masks: Tensor, boxes: Tensor | None) -> list[Tensor]:
    """Scores, classes, queries and validity (B, N), boxes (B, N, 4) xyxy and masks bool (B, N, H, W).

    logits (B, Q, K or K + 1), masks (B, Q, H, W) logits, boxes (B, Q, 4) xyxy in the result or None for those of the
    masks. Not valid are pairs of a class that has no instances.
    """
    class_scores = rules.scores.instance(logits)
    num_classes = class_scores.shape[-1]
    flat = class_scores.flatten(1)
    scores, pairs = flat.topk(min(rules.max_instances, flat.shape[1]), dim=1)
    classes, queries = pairs % num_classes, pairs // num_classes
    valid = is_thing(rules, classes, num_classes) if rules.panoptic else torch.ones_like(classes, dtype=torch.bool)
    inside = masks > 0
    if rules.rescore_by_mask:
        area = inside.flatten(2).float().sum(dim=2)
        quality = (masks.sigmoid() * inside).flatten(2).sum(dim=2) / (area + 1e-6)
        scores = scores * quality.gather(1, queries)
    found = inside.gather(1, queries[..., None, None].expand(-1, -1, *masks.shape[2:]))
    if boxes is None:
        boxes = masks_to_boxes(inside.flatten(0, 1)).unflatten(0, inside.shape[:2])
    return [scores, classes, queries, valid, boxes.gather(1, queries[..., None].expand(-1, -1, 4)), found]


def is_thing(rules: PostProcessing, classes: Tensor, num_classes: int) -> Tensor:
    """Which of the classes, of any shape, have instances."""
    table = torch.tensor([category in rules.thing_classes for category in range(num_classes)], device=classes.device)
    return table[classes]


def panoptic(rules: PostProcessing, logits: Tensor, masks: Tensor) -> list[Tensor]:
    """A map of ids int32 (B, H, W), 0 where nothing is, and for each query (B, Q) the id of the segment that it is
    part of, its class, the segment's score, whether it is a thing, and whether it is listed as a segment: of the
    queries that became one stuff segment the first one alone.

    logits (B, Q, K or K + 1), masks (B, Q, H, W) logits.
    """
    scores, classes, kept = rules.scores.panoptic(logits, rules.object_mask_threshold)
    num_classes = rules.scores.instance(logits).shape[-1]
    things = is_thing(rules, classes.clamp(max=num_classes - 1), num_classes)
    probability = masks.sigmoid()
    # Behind all others, not left out: their number would be another for each picture.
    owner = torch.where(kept[..., None, None], scores[..., None, None] * probability, -1.0).argmax(dim=1)
    inside = probability >= INSIDE
    won_inside = inside.gather(1, owner[:, None])[:, 0]

    def count(pixels: Tensor) -> Tensor:
        """Of the pixels (B, H, W) that count, how many each query owns: (B, Q), exact up to 2**24."""
        return torch.zeros_like(scores).scatter_add(1, owner.flatten(1), pixels.flatten(1).to(scores.dtype))

    won, own = count(torch.ones_like(won_inside)), inside.flatten(2).to(scores.dtype).sum(dim=2)
    valid = kept & (won > 0) & (own > 0) & (won / own.clamp(min=1) >= rules.overlap_threshold) & (count(won_inside) > 0)

    number = torch.arange(scores.shape[1], device=scores.device)
    stuff = valid & ~things
    together = (classes[:, :, None] == classes[:, None]) & stuff[:, :, None] & stuff[:, None]   # (B, Q, Q)
    first = torch.where(stuff, torch.where(together, number, len(number)).amin(dim=2), number)
    listed = valid & (first == number)
    ids = torch.where(valid, listed.cumsum(dim=1).gather(1, first), 0)
    best = torch.where(stuff, torch.where(together, scores[:, None], -1.0).amax(dim=2), scores)
    segment_map = torch.where(won_inside, ids.gather(1, owner.flatten(1)).view_as(owner), 0)
    return [segment_map.int(), ids, classes, best, things, listed]

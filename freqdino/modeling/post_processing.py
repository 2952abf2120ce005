"""One image's raw prediction -> semantic map, instances and panoptic segments, as Detectron2 evaluates and draws them.

Sources: MaskFormer (arXiv 2107.06278), section 3.4 and appendix; Mask2Former's (arXiv 2112.01527) softmax and Mask
DINO's (arXiv 2206.02777) sigmoid rules for the scores.
Q: queries, K: classes, (h, w): size of the predicted masks, (H, W): size of the result, n: instances.
"""
from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, Instances
from torch import Tensor

from freqdino.layers.boxes import cxcywh_to_xyxy, masks_to_boxes
from freqdino.ops.blocking import slices


@dataclass(frozen=True)
class SoftmaxScores:
    """Logits (..., Q, K + 1), the last column being "no object"."""

    def semantic(self, logits: Tensor) -> Tensor:
        """(Q, K): share of each class in each query."""
        return logits.softmax(dim=-1)[..., :-1]

    def instance(self, logits: Tensor) -> Tensor:
        """(Q, K): score of each pair of query and class."""
        return self.semantic(logits)

    def panoptic(self, logits: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
        """Score and class of each query, (Q,), and which queries count: an object, with more than ``threshold``."""
        scores, classes = logits.softmax(dim=-1).max(dim=-1)
        return scores, classes, (classes != logits.shape[-1] - 1) & (scores > threshold)


@dataclass(frozen=True)
class SigmoidScores:
    """Logits (..., Q, K), each class on its own. For semantic and panoptic results the probabilities compete through a
    softmax of ``temperature``; None leaves them as they are.
    """

    temperature: float | None

    def semantic(self, logits: Tensor) -> Tensor:
        """(Q, K): share of each class in each query."""
        probability = logits.sigmoid()
        return probability if self.temperature is None else (probability / self.temperature).softmax(dim=-1)

    def instance(self, logits: Tensor) -> Tensor:
        """(Q, K): score of each pair of query and class."""
        return logits.sigmoid()

    def panoptic(self, logits: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
        """Score and class of each query, (Q,), and which queries count: those of a probability above ``threshold``."""
        scores, classes = self.semantic(logits).max(dim=-1)
        return scores, classes, logits.sigmoid().amax(dim=-1) > threshold


@dataclass(frozen=True)
class Geometry:
    """Sizes (height, width) of the padded network input, of the image within it, and of the result asked for."""

    padded: tuple[int, int]
    image: tuple[int, int]
    output: tuple[int, int]

    def to_padded(self, masks: Tensor) -> Tensor:
        """(Q, h, w) -> (Q, H_padded, W_padded), bilinear."""
        return _resize(masks, self.padded)

    def to_output(self, masks: Tensor) -> Tensor:
        """(Q, H_padded, W_padded) -> (Q, H, W): the padding is cut off, then bilinear to the size of the result."""
        masks = masks[:, :self.image[0], :self.image[1]]
        if self.image == self.output:
            return masks
        return _resize(masks, self.output)

    def resize(self, masks: Tensor) -> Tensor:
        """Both steps: (Q, h, w) -> (Q, H, W)."""
        return self.to_output(self.to_padded(masks))

    def boxes_in_output(self, boxes: Tensor) -> Tensor:
        """(n, 4) cxcywh relative to the padded input -> (n, 4) xyxy in pixels of the result, not clipped."""
        scale = boxes.new_tensor([padded * output / image for padded, output, image in
                                  zip(self.padded[::-1], self.output[::-1], self.image[::-1])])
        return cxcywh_to_xyxy(boxes) * scale.repeat(2)


def _resize(masks, size):
    # The masks are the batch, since interpolate wants at least one channel and there may be no mask.
    return F.interpolate(masks[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def semantic_map(class_scores: Tensor, mask_logits: Tensor) -> Tensor:
    """Score of every class at every pixel, (K, H, W), from class scores (Q, K) and mask logits (Q, H, W)."""
    return torch.einsum("qk,qhw->khw", class_scores, mask_logits.sigmoid())


def best_pairs(class_scores: Tensor, max_instances: int, thing_classes: Collection[int] | None) -> tuple[Tensor, ...]:
    """The pairs of query and class with the highest scores (Q, K): (scores, classes, queries), each (n,).

    Pairs of a class that is not in ``thing_classes`` (None: all count) are dropped after the choice, as published.
    """
    num_classes = class_scores.shape[1]
    scores, pairs = class_scores.flatten().topk(min(max_instances, class_scores.numel()), sorted=False)
    classes, queries = pairs % num_classes, pairs // num_classes
    if thing_classes is not None:
        keep = torch.isin(classes, torch.tensor(sorted(thing_classes), dtype=classes.dtype, device=classes.device))
        scores, classes, queries = scores[keep], classes[keep], queries[keep]
    return scores, classes, queries


def mask_quality(mask_logits: Tensor) -> Tensor:
    """Mean probability inside each mask (n, H, W) -> (n,); 0 for an empty one."""
    inside = (mask_logits > 0).float()
    return (mask_logits.sigmoid() * inside).flatten(1).sum(dim=1) / (inside.flatten(1).sum(dim=1) + 1e-6)


def as_it_is(masks: Tensor) -> Tensor:
    return masks


def instances_from_masks(scores: Tensor, classes: Tensor, mask_logits: Tensor, *, queries: Tensor | None = None,
                         boxes: Tensor | None = None, rescore: bool = True,
                         resize: Callable[[Tensor], Tensor] = as_it_is) -> Instances:
    """Detectron2 instances of size (H, W): pred_masks bool (n, H, W), pred_boxes, scores, pred_classes.

    ``queries`` (n,) tells which of the masks (Q, h, w) an instance has, None that there is one for each; ``resize``
    turns masks (q, h, w) into (q, H, W). ``boxes`` (n, 4) xyxy; without them the boxes are those of the masks.
    ``rescore`` multiplies by `mask_quality`.
    """
    size = tuple(resize(mask_logits[:0]).shape[-2:])
    # Resizing is the costly part, and its result the largest of all: only the masks that are shown, each once, and only
    # as many at a time as a cache holds.
    queries = torch.arange(len(scores), device=scores.device) if queries is None else queries
    shown, place = queries.unique(return_inverse=True)
    masks = mask_logits.new_empty(len(shown), *size, dtype=torch.bool)
    quality = scores.new_ones(len(shown))
    for chunk in slices(len(shown), size[0] * size[1] * mask_logits.element_size(), scores.device):
        resized = resize(mask_logits[shown[chunk]])
        masks[chunk] = resized > 0
        if rescore:
            quality[chunk] = mask_quality(resized)
    result = Instances(size)
    result.pred_masks = masks[place]
    result.pred_boxes = Boxes(masks_to_boxes(result.pred_masks) if boxes is None else boxes)
    result.scores = scores * quality[place]
    result.pred_classes = classes
    return result


def panoptic_segments(scores: Tensor, classes: Tensor, mask_logits: Tensor, *, thing_classes: Collection[int],
                      overlap_threshold: float) -> tuple[Tensor, list[dict]]:
    """Give every pixel to the query with the highest score times mask probability.

    scores, classes (n,), mask_logits (n, H, W) of the kept queries. A segment is dropped where it wins less than
    ``overlap_threshold`` of its own mask; all segments of a stuff class become one. Returns an int32 map (H, W), 0
    where nothing is, and a list of {id, isthing, category_id, score}, ids from 1; the score is the query's, the highest
    of those that became one.
    """
    segments = torch.zeros(mask_logits.shape[-2:], dtype=torch.int32, device=mask_logits.device)
    if len(scores) == 0:
        return segments, []
    probability = mask_logits.sigmoid()
    owner = (scores[:, None, None] * probability).argmax(dim=0)
    inside = probability >= 0.5
    won = torch.bincount(owner.flatten(), minlength=len(scores)).tolist()
    own = inside.flatten(1).sum(dim=1).tolist()
    info, stuff_ids = [], {}
    for query, (category, score) in enumerate(zip(classes.tolist(), scores.tolist())):
        if won[query] == 0 or own[query] == 0 or won[query] / own[query] < overlap_threshold:
            continue
        segment = (owner == query) & inside[query]
        if not segment.any():
            continue
        is_thing = category in thing_classes
        if not is_thing and category in stuff_ids:
            merged = info[stuff_ids[category] - 1]
            merged["score"] = max(merged["score"], score)
            segments[segment] = merged["id"]
            continue
        info.append({"id": len(info) + 1, "isthing": is_thing, "category_id": category, "score": score})
        segments[segment] = len(info)
        if not is_thing:
            stuff_ids[category] = len(info)
    return segments, info


@dataclass(frozen=True, kw_only=True)
class PostProcessing:
    """Which results to make, and by which rules.

    ``thing_classes``: contiguous ids of the classes that have instances. ``resize_before_semantic`` resizes the masks
    to the output before they are summed into the semantic map; otherwise the sum is resized. ``rescore_by_mask``
    multiplies instance scores by the quality of their mask. ``segment_scores`` gives each panoptic segment its
    ``score``, which the published format of segments leaves out.
    """

    scores: SoftmaxScores | SigmoidScores
    semantic: bool
    instance: bool
    panoptic: bool
    thing_classes: frozenset[int]
    object_mask_threshold: float
    overlap_threshold: float
    max_instances: int
    resize_before_semantic: bool
    rescore_by_mask: bool = True
    segment_scores: bool = False

    def __call__(self, logits: Tensor, masks: Tensor, geometry: Geometry, boxes: Tensor | None = None) -> dict:
        """logits (Q, K), masks (Q, h, w) logits, boxes (Q, 4) cxcywh over the padded input or None.

        Returns those asked for of ``sem_seg`` (classes, H, W), ``instances`` and ``panoptic_seg`` (map, segments).
        """
        # In half precision many classes of a pixel tie, and the first of them would win.
        with torch.autocast(logits.device.type, enabled=False):
            return self._results(logits.float(), masks.float(), geometry, boxes)

    def _results(self, logits, masks, geometry, boxes):
        if self.semantic and self.resize_before_semantic:
            masks = geometry.resize(masks)
            resize = as_it_is
        else:
            resize = geometry.resize
        results = {}
        if self.semantic:
            results["sem_seg"] = self._semantic(logits, masks, geometry)
        if self.instance:
            scores, classes, queries = best_pairs(
                self.scores.instance(logits), self.max_instances, self.thing_classes if self.panoptic else None)
            results["instances"] = instances_from_masks(
                scores, classes, masks, queries=queries, resize=resize, rescore=self.rescore_by_mask,
                boxes=None if boxes is None else geometry.boxes_in_output(boxes[queries].float()))
        if self.panoptic:
            scores, classes, keep = self.scores.panoptic(logits, self.object_mask_threshold)
            segments, info = panoptic_segments(
                scores[keep], classes[keep], resize(masks[keep]), thing_classes=self.thing_classes,
                overlap_threshold=self.overlap_threshold)
            if not self.segment_scores:
                for segment in info:
                    del segment["score"]
            results["panoptic_seg"] = segments, info
        return results

    def _semantic(self, logits, masks, geometry):
        scores = self.scores.semantic(logits)
        if self.resize_before_semantic:
            return semantic_map(scores, masks)
        return geometry.to_output(semantic_map(scores, geometry.to_padded(masks)))

"""One image's raw prediction -> the results that Detectron2 evaluates and draws.

Q: queries, K: class logits, (h, w): size of the predicted masks, (H, W): size of the result.
"""
from dataclasses import dataclass

import torch
from torch import Tensor

from .class_scores import SigmoidScores, SoftmaxScores
from .inference import Geometry, as_it_is, best_pairs, instances_from_masks, panoptic_segments, semantic_map


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

"""Set criterion: the losses of matched predictions, with deep supervision.

Source: Mask2Former (arXiv 2112.01527), section 3.3 and 4.1; DETR (arXiv 2005.12872), section 3.
B: batch, Q: queries, K: class logits, (H, W): size of the predicted masks, N: matched pairs, P: points.
"""
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import repeat

import torch
from detectron2.utils import comm
from torch import Tensor, nn

from freqdino.errors import ArgumentError
from freqdino.frequency.argument_checks import check_choice, check_counts
from freqdino.layers.boxes import cxcywh_to_xyxy, generalized_box_iou
from freqdino.modeling.losses import cross_entropy_loss, focal_loss, mask_bce_loss, mask_dice_loss
from freqdino.modeling.matcher import HungarianMatcher
from freqdino.modeling.point_sampling import sample_each, uncertain_points
from freqdino.modeling.prediction import Match, Outputs, Prediction, matched_masks
from freqdino.modeling.targets import ImageTargets


class SetCriterion(nn.Module):
    """Weighted losses ``loss_<term>`` of the last prediction and, as ``*_0``, ``*_1``, ..., of the earlier ones where
    ``deep_supervision`` is on.

    ``weights``: term -> weight for ``ce``, ``mask``, ``dice``, ``bbox``, ``giou``; a term that is absent is not
    computed. Mask and box losses are sums over matched pairs divided by the number of objects per process.
    ``class_loss``: ``cross_entropy``, a weighted mean over all queries in which "no object" weighs
    ``no_object_weight``, or ``focal``, a sum divided by the number of objects. Where a batch comes in parts, see
    `whole_batch`.

    Key: ``empty_weight`` (num_classes + 1), which focal loss does not read.
    """

    def __init__(self, *, num_classes: int, matcher: HungarianMatcher, weights: Mapping[str, float], class_loss: str,
                 no_object_weight: float, num_points: int, oversample_ratio: float, importance_sample_ratio: float,
                 deep_supervision: bool):
        super().__init__()
        check_choice(("cross_entropy", "focal"), class_loss=class_loss)
        check_counts(num_points=num_points)
        if oversample_ratio < 1:
            raise ArgumentError("oversample_ratio", f"must be at least 1, got {oversample_ratio}")
        if not 0 <= importance_sample_ratio <= 1:
            raise ArgumentError("importance_sample_ratio", f"must be in 0..1, got {importance_sample_ratio}")
        self.num_classes = num_classes
        self.matcher = matcher
        self.weights = dict(weights)
        self.matching_terms = list(self.weights)
        self.class_loss = class_loss
        self.points = {"num_points": num_points, "oversample_ratio": oversample_ratio,
                       "importance_ratio": importance_sample_ratio}
        self.deep_supervision = deep_supervision
        self.no_object_weight = no_object_weight
        self._batch: tuple[Sequence[int], int] | None = None
        empty_weight = torch.ones(num_classes + 1)
        empty_weight[-1] = no_object_weight
        self.register_buffer("empty_weight", empty_weight)

    @contextmanager
    def whole_batch(self, objects: Sequence[int], *, parts: int) -> Iterator[None]:
        """Inside the block the criterion sees a batch in ``parts`` equal parts: the mean of the parts' losses is the
        batch's loss. ``objects``: how many each of the batch's images has."""
        self._batch = objects, parts
        try:
            yield
        finally:
            self._batch = None

    def forward(self, outputs: Outputs, targets: Sequence[ImageTargets]) -> dict[str, Tensor]:
        """Name -> scalar. Raises `matcher.NonFiniteCostError`."""
        return self.matched_losses(outputs, targets, self.count_objects(targets, outputs.last.logits.device))

    def matched_losses(self, outputs: Outputs, targets, num_objects: Tensor) -> dict[str, Tensor]:
        """The ``matching_terms`` of every supervised prediction, each matched anew."""
        supervised = self.supervised(outputs)
        matches = self.matcher.match_all(list(supervised.values()), targets)
        matched = dict(zip(supervised, zip(supervised.values(), matches)))
        losses = self.losses_of(matched, targets, num_objects, self.matching_terms)
        if self._batch is not None and self.class_loss == "cross_entropy" and "ce" in self.matching_terms:
            for suffix, prediction in supervised.items():
                losses[f"loss_ce{suffix}"] = losses[f"loss_ce{suffix}"] * self._share(prediction, targets, *self._batch)
        return losses

    def _share(self, prediction, targets, objects, parts):
        """The weight of the queries of this part among those of all parts, beside an equal share."""
        queries = prediction.logits.shape[1]

        def weight(counts):
            matched = [min(count, queries) for count in counts]
            return sum(matched) + self.no_object_weight * (queries * len(matched) - sum(matched))

        # Without any weight, of a batch without objects whose no_object_weight is 0, there is no loss anyway.
        return parts * weight([len(target.labels) for target in targets]) / (weight(objects) or 1)

    def supervised(self, outputs: Outputs) -> dict[str, Prediction]:
        """Suffix of the loss names -> prediction."""
        earlier = outputs.auxiliary if self.deep_supervision else ()
        return {"": outputs.last, **{f"_{i}": auxiliary for i, auxiliary in enumerate(earlier)}}

    def losses_of(self, matched: Mapping[str, tuple[Prediction, Match]], targets, num_objects: Tensor,
                  terms) -> dict[str, Tensor]:
        """The weighted losses of predictions under given matches, only those in ``terms``; ``matched``: suffix of their
        names -> (prediction, match).
        """
        losses = {}
        # A half-precision sum over points or queries loses the small terms.
        with torch.autocast(num_objects.device.type, enabled=False):
            learns_masks = "mask" in terms or "dice" in terms
            masks = matched_masks(list(matched.values())) if learns_masks else repeat(None)
            for (suffix, (prediction, match)), logits in zip(matched.items(), masks):
                found = {"ce": self._class_loss(prediction.logits, targets, match, num_objects)}
                if learns_masks:
                    found |= self._mask_losses(logits.float(), targets, match, num_objects)
                if "bbox" in terms or "giou" in terms:
                    found |= self._box_losses(prediction.boxes, targets, match, num_objects)
                losses |= {f"loss_{term}{suffix}": self.weights[term] * loss
                           for term, loss in found.items() if term in terms}
        return losses

    def _class_loss(self, logits, targets, match, num_objects):
        classes = torch.full(logits.shape[:2], self.num_classes, device=logits.device)
        for row, target, (queries, objects) in zip(classes, targets, match):
            row[queries] = target.labels[objects]
        if self.class_loss == "focal":
            return focal_loss(logits.flatten(0, 1), classes.flatten()) / num_objects
        return cross_entropy_loss(logits.flatten(0, 1), classes.flatten(), self.empty_weight)

    def _mask_losses(self, logits, targets, match, num_objects):
        """Cross-entropy and dice of the matched masks (N, H, W) at points chosen by uncertainty."""
        if len(logits) == 0:
            nothing = logits.sum()      # keeps every parameter in the graph, as distributed training wants
            return {"mask": nothing, "dice": nothing}
        points = uncertain_points(logits, **self.points)
        with torch.no_grad():
            truth = torch.cat([target.sample(objects, own) for target, (_, objects), own in
                               zip(targets, match, points.split([len(queries) for queries, _ in match]))])
        logits = sample_each(logits, points)
        return {"mask": mask_bce_loss(logits, truth) / num_objects, "dice": mask_dice_loss(logits, truth) / num_objects}

    def _box_losses(self, boxes, targets, match, num_objects):
        """L1 distance and generalised IoU of the matched boxes."""
        boxes = torch.cat([image[queries] for image, (queries, _) in zip(boxes, match)]).float()
        truth = torch.cat([target.boxes[objects] for target, (_, objects) in zip(targets, match)])
        overlap = generalized_box_iou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(truth))
        return {"bbox": (boxes - truth).abs().sum() / num_objects, "giou": (1 - overlap).sum() / num_objects}

    def count_objects(self, targets: Sequence[ImageTargets], device) -> Tensor:
        """Objects in the batch, averaged over the processes, at least 1; of a batch in parts, over these as well."""
        objects, parts = self._batch or ([len(target.labels) for target in targets], 1)
        count = torch.full((), float(sum(objects)), device=device)
        if comm.get_world_size() > 1:
            torch.distributed.all_reduce(count)
        return (count / comm.get_world_size()).clamp(min=1) / parts

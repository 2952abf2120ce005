"""Bipartite matching of predictions and ground-truth objects.

Source: DETR (arXiv 2005.12872), section 3.1; with masks at sampled points: Mask2Former (arXiv 2112.01527), section 3.3.
B: batch, Q: queries, G: objects of an image, K: class logits, P: points, (H, W): size of the predicted masks.
"""
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from freqdino.errors import ArgumentError
from freqdino.layers.boxes import cxcywh_to_xyxy, generalized_box_iou
from freqdino.modeling.losses import mask_bce_cost, mask_dice_cost
from freqdino.modeling.prediction import Match, Prediction
from freqdino.modeling.targets import ImageTargets


class NonFiniteCostError(FloatingPointError, ValueError):
    """A matching cost is infinite or not a number; the message names the image and the term."""


class HungarianMatcher:
    """Pairs each object with one query (as many pairs as the fewer of both) at the least total cost.

    ``weights``: term -> weight for ``class``, ``mask``, ``dice``, ``box`` (L1) and ``giou``; a term that is absent or
    weighs 0 is not computed. ``class_cost(logits (Q, K), labels (G,))`` -> (Q, G). Masks are compared at ``num_points``
    uniform random points, drawn anew for each image and call.
    """

    def __init__(self, *, weights: Mapping[str, float], class_cost: Callable[[Tensor, Tensor], Tensor],
                 num_points: int):
        if not any(weights.values()):
            raise ArgumentError("weights", f"must not all be 0, got {dict(weights)}")
        self.weights = {term: weight for term, weight in weights.items() if weight}
        self.class_cost = class_cost
        self.num_points = num_points

    def __call__(self, prediction: Prediction, targets: Sequence[ImageTargets]) -> Match:
        """For each image the matched query indices and object indices, the latter rising. Raises NonFiniteCostError."""
        return self.match_all([prediction], targets)[0]

    @torch.no_grad()
    def match_all(self, predictions: Sequence[Prediction], targets: Sequence[ImageTargets]) -> list[Match]:
        """The match of each prediction. A GPU is waited for once, when all costs are under way, not for each of them.
        """
        costs = self._costs(predictions, targets)
        pairs = [torch.empty(0, 2, dtype=torch.int64)] * len(costs)
        rated = [place for place, found in enumerate(costs) if found is not None]
        totals = [sum(weight * costs[place][term] for term, weight in self.weights.items()) for place in rated]
        for place, total in zip(rated, to_host(totals)):
            if not total.isfinite().all():
                read = {term: costs[place][term] for term in self.weights}
                raise_non_finite(read, targets[place % len(targets)].name)
            objects, queries = linear_sum_assignment(total.T.numpy())
            pairs[place] = torch.from_numpy(np.stack((queries, objects), axis=1))
        counts = [len(own) for own in pairs]
        matches = [own.unbind(1) for own in torch.cat(pairs).to(targets[0].labels.device).split(counts)]
        return [matches[start:start + len(targets)] for start in range(0, len(matches), len(targets))]

    def _costs(self, predictions, targets):
        """For each prediction and image, the images innermost: term -> (Q, G), unweighted and in float32; None where an
        image has no object.
        """
        costs = [{} if len(target.labels) else None for _ in predictions for target in targets]
        # Autocast would turn the products back to half precision, which cannot tell near queries apart.
        with torch.autocast(predictions[0].logits.device.type, enabled=False):
            for image, target in enumerate(targets):
                if len(target.labels):
                    for term, parts in self._costs_without_masks(predictions, image, target).items():
                        for own, part in zip(costs[image::len(targets)], parts):
                            own[term] = part
            if "mask" in self.weights or "dice" in self.weights:
                for place, own in enumerate(costs):
                    if own is not None:
                        prediction, image = predictions[place // len(targets)], place % len(targets)
                        points = torch.rand(self.num_points, 2, device=prediction.logits.device)
                        masks, truth = prediction.masks_at(image, points), targets[image].sample_all(points)
                        own["mask"], own["dice"] = mask_bce_cost(masks, truth), mask_dice_cost(masks, truth)
        return costs

    def _costs_without_masks(self, predictions, image, target):
        """Term -> (Q, G) of each prediction for one image, computed for all together."""
        found = {}
        if "class" in self.weights:
            found["class"] = self.class_cost(torch.cat([each.logits[image] for each in predictions]), target.labels)
        if "box" in self.weights or "giou" in self.weights:
            boxes = torch.cat([each.boxes[image] for each in predictions]).float()
            found["box"] = torch.cdist(boxes, target.boxes, p=1)
            found["giou"] = -generalized_box_iou(cxcywh_to_xyxy(boxes)[:, None], cxcywh_to_xyxy(target.boxes)[None])
        queries = [each.logits.shape[1] for each in predictions]
        return {term: cost.split(queries) for term, cost in found.items()}


def to_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors on the CPU, by one copy."""
    if not tensors:
        return []
    parts = torch.cat([tensor.flatten() for tensor in tensors]).cpu().split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors)]


def raise_non_finite(costs: Mapping[str, Tensor], name: str):
    """Raise NonFiniteCostError for the first term of ``costs`` that is not finite."""
    term, cost = next((term, cost) for term, cost in costs.items() if not cost.isfinite().all())
    bad = (~cost.isfinite()).sum().item()
    raise NonFiniteCostError(f"{name}: the matching cost {term!r} is not finite for {bad} of {cost.numel()} pairs of "
                             "query and object. The weights or the learning rate have diverged, or the image holds "
                             "bad values.")

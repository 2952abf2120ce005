"""Bipartite matching of predictions and ground-truth objects.

Source: DETR (arXiv 2005.12872), section 3.1; with masks at sampled points: Mask2Former (arXiv 2112.01527), section 3.3.
B: batch, Q: queries, G: objects of an image, K: class logits, P: points, (H, W): size of the predicted masks.
"""
from collections.abc import Callable, Mapping, Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from freqdino.errors import ArgumentError
from freqdino.layers.boxes import cxcywh_to_xyxy, generalized_box_iou
from freqdino.modeling.losses import mask_bce_cost, mask_dice_cost
from freqdino.modeling.prediction import Prediction
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

    @torch.no_grad()
    def __call__(self, prediction: Prediction, targets: Sequence[ImageTargets]) -> list[tuple[Tensor, Tensor]]:
        """For each image the matched query indices and object indices, the latter rising. Raises NonFiniteCostError."""
        matches = []
        for index, target in enumerate(targets):
            if len(target.labels) == 0:
                empty = target.labels.new_zeros(0)
                matches.append((empty, empty))
                continue
            costs = self._costs(prediction, index, target)
            total = sum(self.weights[term] * cost for term, cost in costs.items()).cpu()
            if not total.isfinite().all():
                raise_non_finite(costs, target.name)
            objects, queries = linear_sum_assignment(total.T.numpy())
            matches.append(tuple(torch.as_tensor(i, device=target.labels.device) for i in (queries, objects)))
        return matches

    def _costs(self, prediction, index, target):
        """Term -> (Q, G) for one image, unweighted and in float32."""
        logits = prediction.logits
        costs = {}
        # Autocast would turn the products back to half precision, which cannot tell near queries apart.
        with torch.autocast(logits.device.type, enabled=False):
            if "class" in self.weights:
                costs["class"] = self.class_cost(logits[index], target.labels)
            if "mask" in self.weights or "dice" in self.weights:
                points = torch.rand(self.num_points, 2, device=logits.device)
                masks = prediction.masks_at(index, points)
                truth = target.sample_all(points)
                costs["mask"] = mask_bce_cost(masks, truth)
                costs["dice"] = mask_dice_cost(masks, truth)
            if "box" in self.weights or "giou" in self.weights:
                boxes = prediction.boxes[index].float()
                costs["box"] = torch.cdist(boxes, target.boxes, p=1)
                costs["giou"] = -generalized_box_iou(cxcywh_to_xyxy(boxes)[:, None], cxcywh_to_xyxy(target.boxes)[None])
        return {term: cost for term, cost in costs.items() if term in self.weights}


def raise_non_finite(costs: Mapping[str, Tensor], name: str):
    """Raise NonFiniteCostError for the first term of ``costs`` that is not finite."""
    term, cost = next((term, cost) for term, cost in costs.items() if not cost.isfinite().all())
    bad = (~cost.isfinite()).sum().item()
    raise NonFiniteCostError(f"{name}: the matching cost {term!r} is not finite for {bad} of {cost.numel()} pairs of "
                             "query and object. The weights or the learning rate have diverged, or the image holds "
                             "bad values.")

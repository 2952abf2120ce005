"""Set criterion: the losses of matched predictions, with deep supervision.

Source: Mask2Former (arXiv 2112.01527), section 3.3 and 4.1; DETR (arXiv 2005.12872), section 3.
B: batch, Q: queries, K: class logits, (H, W): size of the predicted masks, N: matched pairs, P: points.
"""
from collections.abc import Mapping, Sequence

import torch
from detectron2.utils import comm
from torch import Tensor, nn

from .losses import cross_entropy_loss, mask_bce_loss, mask_dice_loss
from .matcher import HungarianMatcher
from .point_sampling import sample_each, uncertain_points
from .targets import ImageTargets

Match = list[tuple[Tensor, Tensor]]


class SetCriterion(nn.Module):
    """Weighted losses ``loss_ce``, ``loss_mask``, ``loss_dice`` of the last prediction and, as ``*_0``, ``*_1``, ..., of
    the earlier ones where ``deep_supervision`` is on.

    ``weights``: of the terms ``ce``, ``mask``, ``dice``. Mask losses are sums over matched pairs divided by the number of
    objects per process; the class loss is a weighted mean over all queries, "no object" weighing ``no_object_weight``.
    Key: ``empty_weight`` (num_classes + 1).
    """

    def __init__(self, *, num_classes: int, matcher: HungarianMatcher, weights: Mapping[str, float],
                 no_object_weight: float, num_points: int, oversample_ratio: float, importance_sample_ratio: float,
                 deep_supervision: bool):
        super().__init__()
        self.num_classes = num_classes
        self.matcher = matcher
        self.weights = dict(weights)
        self.points = {"num_points": num_points, "oversample_ratio": oversample_ratio,
                       "importance_ratio": importance_sample_ratio}
        self.deep_supervision = deep_supervision
        empty_weight = torch.ones(num_classes + 1)
        empty_weight[-1] = no_object_weight
        self.register_buffer("empty_weight", empty_weight)

    def forward(self, outputs: Mapping, targets: Sequence[ImageTargets]) -> dict[str, Tensor]:
        """outputs: ``pred_logits`` (B, Q, K), ``pred_masks`` (B, Q, H, W) logits, ``aux_outputs``: the same of the earlier
        predictions. Returns name -> scalar. Raises `matcher.NonFiniteCostError`.
        """
        num_objects = self.count_objects(targets, outputs["pred_logits"].device)
        groups = {"": outputs}
        if self.deep_supervision:
            groups |= {f"_{i}": aux for i, aux in enumerate(outputs["aux_outputs"])}
        losses = {}
        for suffix, prediction in groups.items():
            match = self.matcher(prediction, targets)
            for term, loss in self.prediction_losses(prediction, targets, match, num_objects).items():
                losses[f"loss_{term}{suffix}"] = self.weights[term] * loss
        return losses

    def prediction_losses(self, prediction, targets, match: Match, num_objects: Tensor) -> dict[str, Tensor]:
        """Unweighted terms of one prediction under a given match."""
        # A half-precision sum over points or queries loses the small terms.
        with torch.autocast(prediction["pred_logits"].device.type, enabled=False):
            return {"ce": self.class_loss(prediction["pred_logits"], targets, match),
                    **self.mask_losses(prediction["pred_masks"], targets, match, num_objects)}

    def class_loss(self, logits: Tensor, targets, match: Match) -> Tensor:
        classes = self.matched_classes(logits, targets, match)
        return cross_entropy_loss(logits.flatten(0, 1), classes.flatten(), self.empty_weight)

    def matched_classes(self, logits: Tensor, targets, match: Match) -> Tensor:
        """(B, Q): the class of the matched object, ``num_classes`` where there is none."""
        classes = torch.full(logits.shape[:2], self.num_classes, device=logits.device)
        for row, target, (queries, objects) in zip(classes, targets, match):
            row[queries] = target.labels[objects]
        return classes

    def mask_losses(self, masks: Tensor, targets, match: Match, num_objects: Tensor) -> dict[str, Tensor]:
        """Cross-entropy and dice of the matched masks at points chosen by uncertainty."""
        logits = torch.cat([image[queries] for image, (queries, _) in zip(masks, match)]).float()
        if len(logits) == 0:
            nothing = logits.sum()      # keeps every parameter in the graph, as distributed training wants
            return {"mask": nothing, "dice": nothing}
        points = uncertain_points(logits, **self.points)
        with torch.no_grad():
            truth = torch.cat([sample_objects(target.masks, objects, p) for target, (_, objects), p in
                               zip(targets, match, points.split([len(queries) for queries, _ in match]))])
        logits = sample_each(logits, points)
        return {"mask": mask_bce_loss(logits, truth) / num_objects, "dice": mask_dice_loss(logits, truth) / num_objects}

    @staticmethod
    def count_objects(targets: Sequence[ImageTargets], device) -> Tensor:
        """Objects in the batch, averaged over the processes, at least 1."""
        count = torch.tensor(float(sum(len(target.labels) for target in targets)), device=device)
        if comm.get_world_size() > 1:
            torch.distributed.all_reduce(count)
        return (count / comm.get_world_size()).clamp(min=1)


def sample_objects(masks: Tensor, objects: Tensor, points: Tensor) -> Tensor:
    """The objects (N,) of bool masks (G, H, W) at points (N, P, 2) -> (N, P)."""
    return sample_each(masks[objects].float(), points)

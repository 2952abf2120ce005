"""Query denoising: noised copies of the ground truth as extra queries, whose right answer is known.

Source: DN-DETR (arXiv 2203.01305), sections 4 and 5; with masks: Mask DINO (arXiv 2206.02777), section 3.4.
B: batch, G: most objects of an image, R: groups (copies of the ground truth), D: denoising queries (R * G),
Q: other queries.
"""
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from freqdino.modeling.targets import ImageTargets


@dataclass
class NoisedQueries:
    """Labels (B, D) and boxes (B, D, 4) cxcywh in [0, 1]; ``used`` bool (B, D) tells the slots that hold an object.

    ``matches``: for each image the slots of its objects and the objects, in every group. ``groups``: R.
    """

    labels: Tensor
    boxes: Tensor
    used: Tensor
    matches: list[tuple[Tensor, Tensor]]
    groups: int

    def blocked(self, num_queries: int) -> Tensor:
        """Self-attention mask over D + Q queries, True = may not attend: the groups do not see each other, and the
        other queries do not see the groups, which know the answers.
        """
        num_noised = self.labels.shape[1]
        group = torch.arange(num_noised, device=self.labels.device) // (num_noised // self.groups)
        blocked = torch.zeros(num_noised + num_queries, num_noised + num_queries, dtype=torch.bool, device=group.device)
        blocked[num_noised:, :num_noised] = True
        blocked[:num_noised, :num_noised] = group[:, None] != group[None]
        return blocked


def noised_queries(targets: Sequence[ImageTargets], *, num_denoising: int, noise_scale: float,
                   num_classes: int) -> NoisedQueries | None:
    """As many groups as fit into ``num_denoising`` queries, at least one; None for a batch without objects.

    A label is replaced by a random one with probability ``noise_scale`` / 2. A box moves by up to ``noise_scale`` / 2
    of its side and its sides change by up to ``noise_scale`` of themselves.
    """
    counts = [len(target.labels) for target in targets]
    most = max(counts)
    if most == 0:
        return None
    groups = max(num_denoising // most, 1)
    device = targets[0].labels.device
    labels = torch.zeros(len(targets), groups * most, dtype=torch.int64, device=device)
    boxes = torch.full((len(targets), groups * most, 4), 0.5, device=device)
    used = torch.zeros_like(labels, dtype=torch.bool)
    matches = []
    for image, target in enumerate(targets):
        objects = torch.arange(counts[image], device=device)
        slots = (torch.arange(groups, device=device)[:, None] * most + objects).flatten()
        objects = objects.repeat(groups)
        labels[image, slots] = _noised_labels(target.labels[objects], noise_scale, num_classes)
        boxes[image, slots] = _noised_boxes(target.boxes[objects], noise_scale)
        used[image, slots] = True
        matches.append((slots, objects))
    return NoisedQueries(labels, boxes, used, matches, groups)


def _noised_labels(labels, noise_scale, num_classes):
    replaced = torch.rand(len(labels), device=labels.device) < noise_scale / 2
    return torch.where(replaced, torch.randint_like(labels, num_classes), labels)


def _noised_boxes(boxes, noise_scale):
    reach = torch.cat((boxes[:, 2:] / 2, boxes[:, 2:]), dim=1)
    return (boxes + (2 * torch.rand_like(boxes) - 1) * reach * noise_scale).clamp(0, 1)

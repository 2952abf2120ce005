"""Test-time augmentation: several sizes of an image, and their mirror images, predicted and merged.

Sources: Detectron2's augmented inputs (``TEST.AUG.MIN_SIZES``, ``MAX_SIZE``, ``FLIP``); scores of semantic maps are
averaged as in Mask2Former's evaluation, boxes of one object vote as in arXiv 1505.01749, weighted by their scores.
Shape key: A: augmentations, N: instances of all of them, K: classes, H, W: size of the original image.
"""
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.modeling import DatasetMapperTTA
from detectron2.structures import Boxes, Instances, pairwise_iou
from fvcore.transforms import HFlipTransform
from torch import Tensor, nn

from freqdino.errors import ArgumentError

RESULTS = ("sem_seg", "instances")


class TestTimeAugmentation(nn.Module):
    """Wraps a model that gives ``sem_seg``, ``instances`` or both; it is called as the model is, on inputs with
    "image", "height" and "width".

    ``sem_seg`` (K, H, W) is the mean over the augmentations. Instances of one class whose boxes overlap with IoU of at
    least ``merge_iou`` are one object: its score is the mean over the augmentations of the best in each, 0 where it was
    not found; its box and mask are the means weighted by the scores, the mask cut at one half.

    Args:
        min_sizes, max_size: lengths of the shorter side, limit of the longer one.
        flip: predict the mirror images, too.
        max_instances: instances of an image that are kept.
    Raises ValueError: no sizes, or in the call an output that has none of the results or others, such as panoptic_seg.
    """

    __test__ = False  # its name is no test's

    def __init__(self, model: nn.Module, *, min_sizes: Sequence[int], max_size: int, flip: bool, max_instances: int,
                 merge_iou: float = 0.5):
        super().__init__()
        check_sizes(min_sizes, max_size)
        self.model = model
        self.augment = DatasetMapperTTA(min_sizes=list(min_sizes), max_size=max_size, flip=flip)
        self.max_instances, self.merge_iou = max_instances, merge_iou

    def forward(self, batched_inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [self.predict(image) for image in batched_inputs]

    def predict(self, image: Mapping[str, Any]) -> dict[str, Any]:
        """The merged results of one image."""
        outputs = []
        for augmented in self.augment(image):
            flipped = any(isinstance(step, HFlipTransform) for step in augmented.pop("transforms").transforms)
            output, = self.model([augmented])      # one at a time: the largest of them rules the memory
            if not output or set(output) - set(RESULTS):
                raise ValueError(f"the model gives {sorted(output)}; test-time augmentation merges {RESULTS} alone")
            outputs.append({name: mirrored(result) if flipped else result for name, result in output.items()})
        merged = {}
        if "sem_seg" in outputs[0]:
            merged["sem_seg"] = sum(output["sem_seg"] for output in outputs) / len(outputs)
        if "instances" in outputs[0]:
            merged["instances"] = merge_instances([output["instances"] for output in outputs], self.merge_iou,
                                                  self.max_instances)
        return merged


def check_sizes(min_sizes: Sequence[int], max_size: int) -> None:
    """Raise ValueError for sizes that `TestTimeAugmentation` cannot make."""
    if not min_sizes or min(min_sizes) < 1 or max_size < max(min_sizes):
        raise ArgumentError("min_sizes", f"must be positive and at most max_size {max_size}, got {list(min_sizes)}")


def mirrored(result: Tensor | Instances) -> Tensor | Instances:
    """A map (..., W), or instances with pred_boxes and perhaps pred_masks (N, H, W), with left and right exchanged."""
    if isinstance(result, Tensor):
        return result.flip(-1)
    width = result.image_size[1]
    left, top, right, bottom = result.pred_boxes.tensor.unbind(1)
    turned = Instances(result.image_size, **result.get_fields())
    turned.pred_boxes = Boxes(torch.stack([width - right, top, width - left, bottom], 1))
    if result.has("pred_masks"):
        turned.pred_masks = result.pred_masks.flip(-1)
    return turned


def merge_instances(parts: Sequence[Instances], merge_iou: float, max_instances: int) -> Instances:
    """The instances of A augmentations of one image as one, best first; see `TestTimeAugmentation`."""
    together = Instances.cat(list(parts))
    if len(together) == 0:
        return together
    scores, part = together.scores, torch.arange(len(parts)).repeat_interleave(torch.tensor(list(map(len, parts))))
    objects = object_numbers(together, merge_iou)
    count = int(objects.max()) + 1
    best = scores.new_zeros(count * len(parts)).scatter_reduce(
        0, objects * len(parts) + part.to(objects.device), scores, "amax").view(count, -1).mean(1)
    order = best.argsort(descending=True)[:max_instances]
    # (objects, N): what each instance contributes to each object; at least a little, so that the sums are not 0.
    shares = scores.clamp(min=1e-8) * (objects == order[:, None])
    shares = shares / shares.sum(1, keepdim=True)

    result = Instances(together.image_size)
    result.scores = best[order]
    result.pred_classes = together.pred_classes[shares.argmax(1)]
    result.pred_boxes = Boxes(shares @ together.pred_boxes.tensor)
    if together.has("pred_masks"):
        result.pred_masks = torch.stack([
            torch.tensordot(share[share > 0], together.pred_masks[share > 0].to(share.dtype), 1) >= 0.5
            for share in shares])
    return result


def object_numbers(instances: Instances, merge_iou: float) -> Tensor:
    """For each of N instances the object it shows, int64 (N,), numbered from 0 by descending best score.

    The best instance that is not assigned yet takes those of its class that overlap its box enough, and so on.
    """
    same = pairwise_iou(instances.pred_boxes, instances.pred_boxes) >= merge_iou
    same &= instances.pred_classes[:, None] == instances.pred_classes
    same.fill_diagonal_(True)       # an empty box overlaps nothing, itself included
    objects = torch.full((len(instances),), -1, device=same.device)
    number = 0
    for index in instances.scores.argsort(descending=True).tolist():
        if objects[index] < 0:
            objects[same[index] & (objects < 0)] = number
            number += 1
    return objects

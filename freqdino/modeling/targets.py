"""Ground truth of a batch in the form that matcher, criterion and denoising read.

G: objects of an image, (H, W): the padded size of the batch.
"""
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.structures import BitMasks, Instances
from torch import Tensor


@dataclass
class ImageTargets:
    """Objects of one image: labels (G,) int64, masks (G, H, W) bool, and the name by which messages call the image."""

    labels: Tensor
    masks: Tensor
    name: str


def image_name(example: dict, index: int) -> str:
    """What a message should call an example of a batch: its file, else its id, else its place."""
    if "file_name" in example:
        return str(example["file_name"])
    return f"image {example['image_id']}" if "image_id" in example else f"image {index} of the batch"


def mask_tensor(instances: Instances, name: str) -> Tensor:
    """``gt_masks`` as bool (G, H, W); raises ValueError, naming the image, for another form or size than the image's."""
    masks = instances.gt_masks.tensor if isinstance(instances.gt_masks, BitMasks) else instances.gt_masks
    if not isinstance(masks, Tensor):
        raise ValueError(f"{name}: gt_masks is a {type(masks).__name__}; a bool tensor (N, H, W) or BitMasks is needed")
    expected = (len(instances), *instances.image_size)
    if tuple(masks.shape) != expected:
        raise ValueError(f"{name}: gt_masks has shape {tuple(masks.shape)}, the image and its objects ask for {expected}")
    return masks.bool()


def prepare_targets(examples: Sequence[dict], padded_size: tuple[int, int], num_classes: int, device) -> list[ImageTargets]:
    """Targets of a batch of examples with ``instances``; masks are padded by zeros at the right and the bottom.

    Raises ValueError, naming the image, where instances or masks are absent or a class is not below ``num_classes``.
    """
    targets = []
    for index, example in enumerate(examples):
        name = image_name(example, index)
        if "instances" not in example:
            raise ValueError(f"{name}: training needs 'instances' with gt_classes and gt_masks; the mapper gave {list(example)}")
        instances = example["instances"].to(device)
        if not instances.has("gt_masks"):
            raise ValueError(f"{name}: the ground truth has no masks, which this model learns from")
        labels = instances.gt_classes
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
            raise ValueError(f"{name}: a class index of {int(labels.max() if labels.min() >= 0 else labels.min())}, but "
                             f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {num_classes}")
        masks = mask_tensor(instances, name)
        padding = (0, padded_size[1] - masks.shape[2], 0, padded_size[0] - masks.shape[1])
        targets.append(ImageTargets(labels, F.pad(masks, padding) if len(masks) else masks.new_zeros(0, *padded_size), name))
    return targets

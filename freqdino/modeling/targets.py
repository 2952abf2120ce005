"""Ground truth of a batch in the form that matcher, criterion and denoising read.

G: objects of an image, (H, W): the padded size of the batch.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch.nn.functional as F
from detectron2.structures import BitMasks, Instances
from torch import Tensor

from freqdino.errors import ArgumentError
from freqdino.layers.boxes import masks_to_boxes, xyxy_to_cxcywh
from freqdino.modeling.point_sampling import sample_all, sample_each
from freqdino.ops.constants import constant


@dataclass
class ImageTargets:
    """Objects of one image.

    Labels (G,) int64, masks (G, H, W) bool or None where no term reads them, boxes (G, 4) cxcywh in [0, 1] or None,
    and the name by which messages call the image.
    """

    labels: Tensor
    masks: Tensor | None
    boxes: Tensor | None
    name: str

    def sample(self, objects: Tensor, points: Tensor) -> Tensor:
        """The masks of matched objects (N,), each at its own points (N, P, 2) -> (N, P).

        ``objects`` is what a match holds: distinct and rising, or all of them in order, several times over.
        """
        repeats, rest = divmod(len(objects), max(len(self.labels), 1))
        if rest or not repeats:
            return sample_each(self._float_masks[objects], points)
        # Each mask is read where it lies, at the points of all its pairs, instead of being copied for every pair.
        points = points.unflatten(0, (repeats, -1)).transpose(0, 1).flatten(1, 2)
        return sample_each(self._float_masks, points).unflatten(1, (repeats, -1)).transpose(0, 1).flatten(0, 1)

    def sample_all(self, points: Tensor) -> Tensor:
        """All masks at the same points (P, 2) -> (G, P)."""
        return sample_all(self._float_masks, points)

    @cached_property
    def _float_masks(self):
        return self.masks.float()


def image_name(example: dict, index: int) -> str:
    """What a message should call an example of a batch: its file, else its id, else its place."""
    if "file_name" in example:
        return str(example["file_name"])
    return f"image {example['image_id']}" if "image_id" in example else f"image {index} of the batch"


def mask_tensor(instances: Instances, name: str) -> Tensor:
    """``gt_masks`` as bool (G, H, W); raises ValueError, naming the image, for another form or another size."""
    masks = instances.gt_masks.tensor if isinstance(instances.gt_masks, BitMasks) else instances.gt_masks
    if not isinstance(masks, Tensor):
        raise ValueError(f"{name}: gt_masks is a {type(masks).__name__}; a bool tensor (N, H, W) or BitMasks is needed")
    expected = (len(instances), *instances.image_size)
    if tuple(masks.shape) != expected:
        raise ValueError(f"{name}: gt_masks has shape {tuple(masks.shape)}, the image and its objects ask for "
                         f"{expected}")
    return masks.bool()


def prepare_targets(examples: Sequence[dict], padded_size: tuple[int, int], num_classes: int, device, *,
                    with_masks: bool = True, box_frame: str | None = None) -> list[ImageTargets]:
    """Targets of a batch of examples with ``instances``; masks are padded by zeros at the right and the bottom.

    ``box_frame``: None leaves boxes out; ``image`` divides them by the image's own size, as Mask DINO was published,
    ``padded`` by the padded size, to which everything else refers. Boxes that are absent are those of the masks.
    Raises ValueError, naming the image, where instances or masks are absent or a class is not below ``num_classes``.
    """
    targets = []
    for index, example in enumerate(examples):
        name = image_name(example, index)
        if "instances" not in example:
            raise ValueError(f"{name}: training needs 'instances' with gt_classes and gt_masks; the mapper gave "
                             f"{list(example)}")
        instances = example["instances"]
        if not instances.has("gt_classes"):
            raise ValueError(f"{name}: the ground truth has no gt_classes")
        labels = instances.gt_classes       # looked at before they go to a GPU, which would be waited for
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
            wrong = int(labels.max() if labels.min() >= 0 else labels.min())
            raise ArgumentError("num_classes", f"is {num_classes}, but {name} has a class index of {wrong}")
        instances = instances.to(device)
        masks = padded_masks(instances, padded_size, name) if with_masks else None
        boxes = None if box_frame is None else relative_boxes(
            instances, padded_size if box_frame == "padded" else instances.image_size, name)
        targets.append(ImageTargets(instances.gt_classes.long(), masks, boxes, name))
    return targets


def padded_masks(instances: Instances, padded_size: tuple[int, int], name: str) -> Tensor:
    """Bool (G, *padded_size)."""
    if not instances.has("gt_masks"):
        raise ArgumentError("with_masks", f"must be off, which Mask DINO alone allows, to learn from {name}: the "
                            "ground truth has no masks")
    masks = mask_tensor(instances, name)
    if len(masks) == 0:
        return masks.new_zeros(0, *padded_size)
    return F.pad(masks, (0, padded_size[1] - masks.shape[2], 0, padded_size[0] - masks.shape[1]))


def relative_boxes(instances: Instances, frame: tuple[int, int], name: str) -> Tensor:
    """Boxes cxcywh (G, 4), divided by the width and height of ``frame``."""
    if instances.has("gt_boxes"):
        boxes = instances.gt_boxes.tensor.float()
    elif instances.has("gt_masks"):
        boxes = masks_to_boxes(mask_tensor(instances, name))
    else:
        raise ValueError(f"{name}: the ground truth has neither boxes nor masks to take them from")
    height, width = frame
    return xyxy_to_cxcywh(boxes) / constant((width, height) * 2, boxes.dtype, boxes.device)

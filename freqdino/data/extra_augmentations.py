"""INPUT.EXTRA_AUGMENTATIONS: Detectron2's augmentations by name, before the recipe of the mapper.

An entry is a list of a name, its arguments in order and, last, a dictionary of those by name; a name alone is an entry
without arguments:

    [[RandomBrightness, 0.8, 1.2], [RandomRotation, [-10, 10], {expand: false}]]

RandomApply's first argument is an entry. They are applied in the order of the list to the picture as it is in the file,
so that sizes afterwards are those of the recipe. Pixels that a transform brings in from beyond the picture are
unlabelled: they get the label maps' padding, and no object reaches into them.

Source: detectron2.data.transforms.
Shape key: H: height, W: width.
"""
import difflib
import inspect
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.structures import Instances
from fvcore.transforms.transform import NoOpTransform, Transform, TransformList

from freqdino.data.augmentation import RandomCrop, ResizeScale, ResizeShortestEdge
from freqdino.data.random_state import random_state_kept
from freqdino.data.targets import instances_of
from freqdino.errors import first_few

KEY = "INPUT.EXTRA_AUGMENTATIONS"
_NESTING = "RandomApply"
_OF_RGB = ("RandomSaturation", "RandomLighting")    # whose weights are those of red, green and blue in this order
_TRIAL_SIZE = (48, 64)


def _from_image_alone(cls: Any) -> bool:
    """Whether a class makes its transform of the picture, and of nothing that not every data set has."""
    return (isinstance(cls, type) and issubclass(cls, T.Augmentation)
            and list(inspect.signature(cls.get_transform).parameters) == ["self", "image"])


# Name -> class; in place of three of Detectron2's those that keep a pixel of thin pictures.
AUGMENTATIONS = {**{name: cls for name, cls in vars(T).items() if _from_image_alone(cls)}, _NESTING: T.RandomApply,
                 **{cls.__name__: cls for cls in (RandomCrop, ResizeScale, ResizeShortestEdge)}}


class LabelledTransform(Transform):
    """A transform after which label maps have ``label_padding`` wherever there is no pixel of the picture."""

    def __init__(self, transform: Transform, label_padding: int):
        super().__init__()
        self.transform = transform
        self.label_padding = label_padding

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        return self.transform.apply_image(image)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return self.transform.apply_coords(coords)

    def apply_segmentation(self, labels: np.ndarray) -> np.ndarray:
        moved = np.array(self.transform.apply_segmentation(labels))
        moved[self.transform.apply_segmentation(np.ones(labels.shape[:2], np.uint8)) != 1] = self.label_padding
        return moved


class ExtraAugmentation(T.Augmentation):
    """One of Detectron2's, giving `LabelledTransform`."""

    def __init__(self, augmentation: T.Augmentation, label_padding: int):
        super().__init__()
        self.augmentation = augmentation
        self.label_padding = label_padding

    def get_transform(self, image: np.ndarray) -> Transform:
        transform = self.augmentation.get_transform(image)
        return transform if isinstance(transform, NoOpTransform) else LabelledTransform(transform, self.label_padding)


def extra_augmentations(cfg: CfgNode, *, label_padding: int) -> list[T.Augmentation]:
    """The augmentations of `KEY`, each tried on a picture.

    Raises ValueError: an entry is not of the form, its name unknown, or its arguments are not those of the name; the
    message begins with the key.
    """
    entries = cfg.INPUT.EXTRA_AUGMENTATIONS
    extras = []
    for number, entry in enumerate(entries, start=1):
        where = f"{KEY}, entry {number}, {entry!r}"
        augmentation = _augmentation(entry, where, cfg.INPUT.FORMAT)
        with random_state_kept():
            _try(augmentation, where)
        extras.append(ExtraAugmentation(augmentation, label_padding))
    return extras


def _augmentation(entry: Any, where: str, image_format: str) -> T.Augmentation:
    name, *values = entry if isinstance(entry, (list, tuple)) and entry else [entry]
    if not isinstance(name, str):
        raise ValueError(f"{where}: expected [name, argument, ..., {{argument by name: value}}], such as "
                         "['RandomBrightness', 0.8, 1.2]")
    if name not in AUGMENTATIONS:
        near = difflib.get_close_matches(name, AUGMENTATIONS, n=3, cutoff=0.4) or sorted(AUGMENTATIONS)
        raise ValueError(f"{where}: there is no augmentation {name!r} of a picture alone in "
                         f"detectron2.data.transforms; the nearest are {first_few(near, len(near))}")
    if name in _OF_RGB and image_format != "RGB":
        raise ValueError(f"{where}: {name} reads red, green and blue in this order, but INPUT.FORMAT is {image_format}")
    named = values.pop() if values and isinstance(values[-1], dict) else {}
    signature = inspect.signature(AUGMENTATIONS[name])
    if name == _NESTING and values:
        values[0] = _augmentation(values[0], where, image_format)
    try:
        signature.bind(*values, **named)
        return AUGMENTATIONS[name](*values, **named)
    except Exception as error:      # what Detectron2's constructors raise is not known
        raise ValueError(_refused(where, name, signature, error)) from error


def _try(augmentation: T.Augmentation, where: str) -> None:
    """Apply it to a picture: numbers of a wrong kind show there, and in training would end a worker."""
    tried = augmentation
    while isinstance(tried, T.RandomApply):     # which would not always do so
        tried = tried.aug
    try:
        tried.get_transform(np.zeros((*_TRIAL_SIZE, 3), np.uint8)).apply_image(np.zeros((*_TRIAL_SIZE, 3), np.uint8))
    except Exception as error:      # nor is what they raise when they are called
        raise ValueError(_refused(where, type(tried).__name__, inspect.signature(type(tried)), error)) from error


def _refused(where: str, name: str, signature: inspect.Signature, error: Exception) -> str:
    arguments = ", ".join(parameter.name if parameter.default is parameter.empty
                          else f"{parameter.name}={parameter.default!r}" for parameter in signature.parameters.values())
    return f"{where}: {name} takes ({arguments}) and refuses these: {error or type(error).__name__}"


def kept_in_picture(targets: dict, transforms: TransformList, size: tuple[int, int]) -> dict:
    """Training targets without what lies beyond the picture, whose size (H, W) was ``size``.

    Outlines and boxes are moved by their points: what one transform has cut off another one, or padding, may bring back
    where no pixel of the picture is.
    """
    instances = targets["instances"]
    if not any(isinstance(transform, LabelledTransform) for transform in transforms.transforms) or not len(instances):
        return targets
    picture = transforms.apply_segmentation(np.ones(size, np.uint8)) == 1
    if picture.all():
        return targets
    if instances.has("gt_masks"):
        masks = instances.gt_masks.tensor.numpy() & picture
        return {**targets, "instances": instances_of(masks, instances.gt_classes.tolist())}
    return {**targets, "instances": _boxes_within(instances, picture)}


def _boxes_within(instances: Instances, picture: np.ndarray) -> Instances:
    """The boxes cut at the box of the picture (H, W), those without area left out."""
    if not picture.any():
        return instances[torch.zeros(len(instances), dtype=torch.bool)]
    rows, columns = np.flatnonzero(picture.any(axis=1)), np.flatnonzero(picture.any(axis=0))
    low, high = torch.tensor([columns[0], rows[0]]), torch.tensor([columns[-1] + 1, rows[-1] + 1])
    corners = instances.gt_boxes.tensor.view(-1, 2, 2)
    corners.copy_(torch.minimum(torch.maximum(corners, low), high))
    return instances[instances.gt_boxes.nonempty()]

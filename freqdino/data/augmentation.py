"""The three augmentation recipes of Mask2Former and Mask DINO, as lists of Detectron2 augmentations.

Large-scale jitter (Ghiasi et al., arXiv:2012.07177): flip, rescale, fixed-size crop with padding. Crop recipe (ADE20K,
Cityscapes): resize the shorter edge, random crop, SSD colour jitter, flip, padding. DETR recipe (arXiv:2005.12872,
section A.4): flip, resize, with an optional crop in half of the cases. Padded pixels get 128.

Every recipe reads ``cfg.INPUT`` and takes the value that padding gives to label maps. No resize or crop makes an edge
shorter than one pixel.
"""
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.projects.point_rend import ColorAugSSDTransform
from fvcore.transforms.transform import NoOpTransform, PadTransform, Transform

IMAGE_PADDING = 128
UNLABELLED = 255  # in the category maps that `CategoryLimitedCrop` looks at
_DETR_CROP_EDGES = (400, 500, 600)


def _at_least_one_pixel(transform: Transform) -> Transform:
    """Detectron2 rounds a very thin picture's short edge to 0; this gives it one pixel."""
    if isinstance(transform, T.ResizeTransform) and min(transform.new_h, transform.new_w) < 1:
        return T.ResizeTransform(transform.h, transform.w, max(transform.new_h, 1), max(transform.new_w, 1),
                                 transform.interp)
    return transform


class ResizeShortestEdge(T.ResizeShortestEdge):
    """Detectron2's, with at least one pixel an edge."""

    def get_transform(self, image: np.ndarray) -> Transform:
        return _at_least_one_pixel(super().get_transform(image))


class ResizeToOneSize(ResizeShortestEdge):
    """The same for one length of the shorter edge; Detectron2's draws a number to choose it, which this does not."""

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        length = self.short_edge_length[0]      # Detectron2 doubles a single one
        if length == 0:
            return NoOpTransform()
        new_height, new_width = self.get_output_shape(height, width, length, self.max_size)
        return _at_least_one_pixel(T.ResizeTransform(height, width, new_height, new_width, self.interp))


class ResizeScale(T.ResizeScale):
    """Detectron2's, with at least one pixel an edge."""

    def get_transform(self, image: np.ndarray) -> Transform:
        return _at_least_one_pixel(super().get_transform(image))


class RandomCrop(T.RandomCrop):
    """Detectron2's, with at least one pixel an edge."""

    def get_crop_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        height, width = super().get_crop_size(image_size)
        return max(int(height), 1), max(int(width), 1)


class CategoryLimitedCrop(T.Augmentation):
    """A random crop in which no class takes more than a share of the labelled area; the last of ten tries is kept.

    Source: Detectron2's DeepLab recipe; a picture without a category map is cropped anywhere.
    """

    def __init__(self, *, crop: RandomCrop, single_category_max_area: float):
        super().__init__()
        self.crop = crop
        self.single_category_max_area = single_category_max_area

    def get_transform(self, image: np.ndarray, sem_seg: np.ndarray | None) -> Transform:
        transform = self.crop.get_transform(image)
        if sem_seg is None or self.single_category_max_area >= 1:
            return transform
        for _ in range(9):
            labels = transform.apply_segmentation(sem_seg)
            counts = np.bincount(labels[labels != UNLABELLED])
            if np.count_nonzero(counts) > 1 and counts.max() < counts.sum() * self.single_category_max_area:
                break
            transform = self.crop.get_transform(image)
        return transform


class PadToMultiple(T.Augmentation):
    """Pad right and bottom up to the next multiple of ``divisor``; an edge that is one already stays."""

    def __init__(self, *, divisor: int, label_padding: int):
        super().__init__()
        self.divisor = divisor
        self.label_padding = label_padding

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        return PadTransform(0, 0, -width % self.divisor, -height % self.divisor, width, height,
                            IMAGE_PADDING, self.label_padding)


def _flips(cfg: CfgNode) -> list[T.Augmentation]:
    direction = cfg.INPUT.RANDOM_FLIP
    if direction not in ("horizontal", "vertical", "none"):
        raise ValueError(f"INPUT.RANDOM_FLIP is {direction!r}; known are horizontal, vertical, none")
    if direction == "none":
        return []
    return [T.RandomFlip(horizontal=direction == "horizontal", vertical=direction == "vertical")]


def _resize_for_training(cfg: CfgNode) -> ResizeShortestEdge:
    return ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING)


def _random_crop(cfg: CfgNode) -> RandomCrop:
    kind, size = cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE
    largest = {"relative": 1.0, "relative_range": 1.0, "absolute": float("inf"), "absolute_range": float("inf")}
    if kind not in largest:
        raise ValueError(f"INPUT.CROP.TYPE is {kind!r}; known are {', '.join(largest)}")
    if len(size) != 2 or not all(0 < edge <= largest[kind] for edge in size):
        raise ValueError(f"INPUT.CROP.SIZE is {list(size)}; {kind} wants two numbers above 0, at most {largest[kind]}")
    if kind.startswith("absolute") and any(edge != int(edge) for edge in size):
        raise ValueError(f"INPUT.CROP.SIZE is {list(size)}; {kind} wants whole numbers of pixels, relative and "
                         "relative_range take parts of the picture")
    return RandomCrop(kind, [int(edge) for edge in size] if kind.startswith("absolute") else size)


def large_scale_jitter(cfg: CfgNode, *, label_padding: int) -> list[T.Augmentation]:
    """Flip, rescale into IMAGE_SIZE times MIN_SCALE..MAX_SCALE, crop or pad to IMAGE_SIZE squared."""
    size, low, high = cfg.INPUT.IMAGE_SIZE, cfg.INPUT.MIN_SCALE, cfg.INPUT.MAX_SCALE
    if size < 1:
        raise ValueError(f"INPUT.IMAGE_SIZE is {size}; it must be at least 1")
    if not 0 < low <= high:
        raise ValueError(f"INPUT.MIN_SCALE {low} and INPUT.MAX_SCALE {high}: expected 0 < MIN_SCALE <= MAX_SCALE")
    return _flips(cfg) + [ResizeScale(low, high, size, size),
                          T.FixedSizeCrop((size, size), pad_value=IMAGE_PADDING, seg_pad_value=label_padding)]


def crop_recipe(cfg: CfgNode, *, label_padding: int) -> list[T.Augmentation]:
    """Resize the shorter edge, crop (INPUT.CROP), colour jitter (COLOR_AUG_SSD), flip, pad (SIZE_DIVISIBILITY)."""
    recipe = [_resize_for_training(cfg)]
    if cfg.INPUT.CROP.ENABLED:
        recipe.append(CategoryLimitedCrop(crop=_random_crop(cfg),
                                          single_category_max_area=cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA))
    if cfg.INPUT.COLOR_AUG_SSD:
        recipe.append(ColorAugSSDTransform(img_format=cfg.INPUT.FORMAT))
    recipe += _flips(cfg)
    if cfg.INPUT.SIZE_DIVISIBILITY > 0:
        recipe.append(PadToMultiple(divisor=cfg.INPUT.SIZE_DIVISIBILITY, label_padding=label_padding))
    return recipe


def detr_recipe(cfg: CfgNode, *, label_padding: int) -> list[T.Augmentation]:
    """Flip and resize; with INPUT.CROP.ENABLED half of the pictures are resized and cropped first. No padding."""
    recipe = _flips(cfg)
    if cfg.INPUT.CROP.ENABLED:
        zoom = [ResizeShortestEdge(list(_DETR_CROP_EDGES), sample_style="choice"), _random_crop(cfg)]
        recipe.append(T.RandomApply(T.AugmentationList(zoom), prob=0.5))
    return recipe + [_resize_for_training(cfg)]


def inference_recipe(cfg: CfgNode) -> list[T.Augmentation]:
    """Resize the shorter edge to MIN_SIZE_TEST (0: not at all), the longer one to at most MAX_SIZE_TEST."""
    return InferenceInput.of(cfg).recipe()


@dataclass(frozen=True, kw_only=True)
class InferenceInput:
    """How a model is given a picture that it is to predict: the shorter edge of ``min_size`` pixels (0: as it is), the
    longer one of at most ``max_size``, channels in the order ``image_format``, RGB or BGR."""

    image_format: str
    min_size: int
    max_size: int

    @classmethod
    def of(cls, cfg: CfgNode) -> "InferenceInput":
        return cls(image_format=cfg.INPUT.FORMAT, min_size=cfg.INPUT.MIN_SIZE_TEST, max_size=cfg.INPUT.MAX_SIZE_TEST)

    def recipe(self) -> list[T.Augmentation]:
        return [ResizeToOneSize(self.min_size, self.max_size, "choice")]

    def __call__(self, image: np.ndarray) -> torch.Tensor:
        """RGB uint8 (H, W, 3) -> uint8 (3, h, w)."""
        augmented = T.AugInput(image[:, :, ::-1] if self.image_format == "BGR" else image)
        T.AugmentationList(self.recipe())(augmented)
        return torch.from_numpy(np.ascontiguousarray(augmented.image.transpose(2, 0, 1)))

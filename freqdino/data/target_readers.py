"""Target readers: what the mapper trains on, read from one dataset record and carried through the augmentation.

Five sources of ground truth, one interface: instance annotations (polygons and RLE, mixed), the boxes of instance
annotations alone, panoptic PNGs, semantic PNGs, instance annotations beside semantic PNGs. Each gives an `Instances`
with gt_classes, gt_masks and gt_boxes; the boxes are those of the masks after augmentation, XYXY with exclusive
maximum. From boxes alone there are no gt_masks.
Crowd regions are left out. So is an object of which the crop leaves nothing: a query trained on an empty mask would
learn to answer "object" with nothing.

Source: Mask2Former's training input (arXiv:2112.01527, section 4 and its COCO and ADE20K recipes).
Shape key: N: objects, H: height, W: width.
"""
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from fvcore.transforms.transform import TransformList

from freqdino.data.augmentation import UNLABELLED
from freqdino.data.image_reading import check_label_size, read_label_map
from freqdino.data.panoptic_png import read_segment_colors, rgb_to_id
from freqdino.data.segmentation import (
    box_corners,
    check_segmentation,
    decode_rle,
    lies_outside,
    polygon_points,
    rasterise,
)
from freqdino.data.targets import NO_CLASS, instances_of, required
from freqdino.errors import DataError

ANNOTATION_MAPPERS = "*_instance*, coco_boxes_* and *_separated"

logger = logging.getLogger(__name__)


class AnnotationReader(ABC):
    """Objects from ``record["annotations"]``, each with category_id (contiguous) and a shape, which subclasses read."""

    keys = ("annotations",)
    label_padding = 0

    def __init__(self, *, num_classes: int):
        self.num_classes = num_classes
        self._warned = set()

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            logger.warning(message)

    def load(self, record: dict, image_size: tuple[int, int]) -> list[tuple[int, list | np.ndarray]]:
        """(class, shape) of every object that is no crowd and touches the picture.

        Raises DataError: a category_id beyond the classes, or an absent or malformed shape; names image and annotation.
        """
        objects = []
        for annotation, where in self._checked(record):
            shape = self.shape(annotation, image_size, where)
            if isinstance(shape, list) and lies_outside(np.concatenate(shape), *image_size):
                self._warn_once(f"{where} lies wholly outside the picture of {image_size[1]}x{image_size[0]} pixels "
                                "(width x height) and is left out")
                continue
            objects.append((annotation["category_id"], shape))
        return objects

    def check(self, record: dict) -> None:
        """Raises DataError as `load`, but for malformed shapes."""
        for _ in self._checked(record):
            continue

    def _checked(self, record: dict) -> Iterator[tuple[dict, str]]:
        """The annotations that are no crowd and have what is read, and their names."""
        for index, annotation in enumerate(required(record, "annotations", ANNOTATION_MAPPERS)):
            if annotation.get("iscrowd", 0):
                continue
            where = (f"{record['file_name']} (image_id {record.get('image_id', 'unknown')}), "
                     f"annotation {annotation.get('id', f'number {index}')}")
            category = annotation["category_id"]
            if not 0 <= category < self.num_classes:
                raise DataError(f"{where}: class index {category} is beyond the dataset's {self.num_classes} classes")
            self.require_shape(annotation, where)
            yield annotation, where

    @abstractmethod
    def require_shape(self, annotation: dict, where: str) -> None:
        """Raise DataError, beginning with ``where`` (file, image, annotation), if there is no shape to read."""

    @abstractmethod
    def shape(self, annotation: dict, image_size: tuple[int, int], where: str) -> list | np.ndarray:
        """A list of points, arrays (P, 2) in (x, y), or a mask (H, W).

        Raises DataError: beginning with ``where``, if it is malformed.
        """

    def category_map(self, labels: list) -> None:
        """None: objects do not cover the picture, so a class's share of the area is not defined."""


class InstanceReader(AnnotationReader):
    """Masks and boxes from annotations with polygons or an RLE."""

    def require_shape(self, annotation: dict, where: str) -> None:
        """A segmentation."""
        if not annotation.get("segmentation"):
            raise DataError(f"{where}: there is no segmentation, but masks are needed; to train on boxes alone, set "
                             "INPUT.DATASET_MAPPER_NAME to coco_boxes_lsj or coco_boxes_detr and MODEL.MaskDINO's "
                             "MASK_WEIGHT, DICE_WEIGHT, COST_MASK_WEIGHT and COST_DICE_WEIGHT to 0")

    def shape(self, annotation: dict, image_size: tuple[int, int], where: str) -> list | np.ndarray:
        """Polygons or the RLE's mask."""
        segmentation = annotation["segmentation"]
        check_segmentation(segmentation, *image_size, where)
        return decode_rle(segmentation) if isinstance(segmentation, dict) else polygon_points(segmentation)

    def objects(self, labels: list, image_size: tuple[int, int]) -> list[tuple[int, int]]:
        """(class, pixels) of every mask."""
        masks = (shape if isinstance(shape, np.ndarray) else rasterise(shape, *image_size) for _, shape in labels)
        return [(category, int(np.count_nonzero(mask))) for (category, _), mask in zip(labels, masks)]

    def targets(self, labels: list, transforms: TransformList, image_size: tuple[int, int]) -> dict:
        """{"instances"}; polygons are transformed as points and rasterised once, at the final size."""
        masks, classes = [], []
        for category, shape in labels:
            if isinstance(shape, np.ndarray):
                mask = transforms.apply_segmentation(shape).astype(bool)
            else:
                polygons = [transforms.apply_coords(polygon.copy()) for polygon in shape]
                if lies_outside(np.concatenate(polygons), *image_size):
                    continue
                mask = rasterise(polygons, *image_size)
            masks.append(mask)
            classes.append(category)
        stacked = np.stack(masks) if masks else np.zeros((0, *image_size), dtype=bool)
        return {"instances": instances_of(stacked, classes)}


class BoxReader(AnnotationReader):
    """Boxes alone, from annotations with a bbox; segmentations are not looked at."""

    def require_shape(self, annotation: dict, where: str) -> None:
        """A bbox, and how it is written."""
        if not {"bbox", "bbox_mode"} <= annotation.keys():
            raise DataError(f"{where}: there is no bbox with its bbox_mode, which the mappers coco_boxes_* read; "
                             "those named *_instance* take boxes from the segmentations")

    def shape(self, annotation: dict, image_size: tuple[int, int], where: str) -> list:
        """The box's two corners, clipped to the picture."""
        corners = box_corners(annotation["bbox"], annotation["bbox_mode"], where)
        return [np.clip(corners, 0, image_size[::-1])]

    def objects(self, labels: list, image_size: tuple[int, int]) -> list[tuple[int, int]]:
        """(class, pixels) of every box."""
        return [(category, int(np.prod(corners[1] - corners[0]))) for category, (corners,) in labels]

    def targets(self, labels: list, transforms: TransformList, image_size: tuple[int, int]) -> dict:
        """{"instances"} without gt_masks; boxes are clipped to the result, and one without area is left out."""
        corners = np.array([shape for _, shape in labels]).reshape(-1, 4)
        boxes = Boxes(torch.from_numpy(transforms.apply_box(corners)).float())
        boxes.clip(image_size)
        kept = boxes.nonempty()
        instances = Instances(image_size)
        instances.gt_classes = torch.tensor([category for category, _ in labels], dtype=torch.int64)[kept]
        instances.gt_boxes = boxes[kept]
        return {"instances": instances}


class PanopticReader:
    """Things and stuff from ``record["pan_seg_file_name"]`` and ``record["segments_info"]`` (COCO panoptic format)."""

    keys = ("pan_seg_file_name", "segments_info")
    label_padding = 0  # colour (0, 0, 0): id 0, which the format reserves for unlabelled pixels

    def __init__(self, *, num_classes: int):
        self.num_classes = num_classes

    def load(self, record: dict, image_size: tuple[int, int]) -> tuple[np.ndarray, list[dict]]:
        """The PNG's colours (H, W, 3) uint8 and the record's segments.

        Raises DataError: the PNG's segment ids are not those of segments_info, its size is not the picture's, or a
        category_id is beyond the classes; names the file.
        """
        self.check(record)
        path, segments = record["pan_seg_file_name"], record["segments_info"]
        colors = read_segment_colors(path)
        check_label_size(path, colors, image_size)
        drawn = set(np.unique(rgb_to_id(colors)).tolist()) - {0}
        listed = {segment["id"] for segment in segments}
        if drawn != listed:
            raise DataError(f"{path} and its segments_info differ: segment ids only in the PNG "
                            f"{sorted(drawn - listed)}, only in the JSON {sorted(listed - drawn)}")
        return colors, segments

    def check(self, record: dict) -> None:
        """A category_id beyond the classes is an error."""
        path = required(record, "pan_seg_file_name", "*_panoptic*")
        for segment in required(record, "segments_info", "*_panoptic*"):
            if not 0 <= segment["category_id"] < self.num_classes:
                raise DataError(f"{path}, segment {segment['id']}: class index {segment['category_id']} is beyond "
                                f"the dataset's {self.num_classes} classes")

    def objects(self, labels: tuple[np.ndarray, list[dict]], image_size: tuple[int, int]) -> list[tuple[int, int]]:
        """(class, pixels) of every segment that is no crowd."""
        colors, segments = labels
        pixels = dict(zip(*(values.tolist() for values in np.unique(rgb_to_id(colors), return_counts=True))))
        return [(segment["category_id"], pixels[segment["id"]]) for segment in segments
                if not segment.get("iscrowd", 0)]

    def category_map(self, labels: tuple[np.ndarray, list[dict]]) -> np.ndarray:
        """(H, W) uint8 class indices."""
        colors, segments = labels
        ids = rgb_to_id(colors)
        order = np.argsort([0, *(segment["id"] for segment in segments)])
        known = np.array([0, *(segment["id"] for segment in segments)])[order]
        categories = np.array([UNLABELLED, *(segment["category_id"] for segment in segments)], np.uint8)[order]
        return categories[np.searchsorted(known, ids)]

    def targets(self, labels: tuple[np.ndarray, list[dict]], transforms: TransformList,
                image_size: tuple[int, int]) -> dict:
        """{"instances"}: one mask per segment, things and stuff alike."""
        colors, segments = labels
        segments = [segment for segment in segments if not segment.get("iscrowd", 0)]
        ids = rgb_to_id(transforms.apply_segmentation(colors))
        wanted = np.array([segment["id"] for segment in segments], dtype=ids.dtype)
        masks = ids == wanted[:, None, None]
        return {"instances": instances_of(masks, [segment["category_id"] for segment in segments])}


class SemanticReader:
    """A class index per pixel from ``record["sem_seg_file_name"]``; one mask per class that occurs."""

    keys = ("sem_seg_file_name",)

    def __init__(self, *, num_classes: int, ignore_label: int):
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        self.label_padding = ignore_label

    def load(self, record: dict, image_size: tuple[int, int]) -> np.ndarray:
        """(H, W) uint8 class indices.

        Raises DataError: a value that is neither a class index nor the ignore label, or a size other than the
        picture's; names the file.
        """
        self.check(record)
        path = record["sem_seg_file_name"]
        labels = read_label_map(path)
        check_label_size(path, labels, image_size)
        foreign = (labels != self.ignore_label) & ((labels >= self.num_classes) | (labels < 0))
        if foreign.any():
            value = labels[foreign].flat[0]
            raise DataError(f"label map {path} has the value {value}, but the dataset has {self.num_classes} classes "
                             f"(0..{self.num_classes - 1}, {self.ignore_label} is ignored)")
        return labels.astype(np.uint8)

    def check(self, record: dict) -> None:
        """The record names a label map."""
        required(record, "sem_seg_file_name", "*_semantic and *_separated")

    def objects(self, labels: np.ndarray, image_size: tuple[int, int]) -> list[tuple[int, int]]:
        """(class, pixels) of every class that occurs."""
        return [(NO_CLASS if value == self.ignore_label else value, pixels)
                for value, pixels in enumerate(np.bincount(labels.ravel()).tolist()) if pixels]

    def category_map(self, labels: np.ndarray) -> np.ndarray:
        """The label map, with `UNLABELLED` for the ignore label."""
        return np.where(labels == self.ignore_label, np.uint8(UNLABELLED), labels)

    def targets(self, labels: np.ndarray, transforms: TransformList, image_size: tuple[int, int]) -> dict:
        """{"sem_seg": (H, W) int64, "instances": one mask per class that occurs}."""
        sem_seg = transforms.apply_segmentation(labels)
        classes = np.unique(sem_seg)
        classes = classes[classes != self.ignore_label]
        masks = sem_seg == classes[:, None, None]
        return {"sem_seg": torch.from_numpy(sem_seg.astype(np.int64)),
                "instances": instances_of(masks, classes.tolist())}


class SeparatedReader:
    """Things from instance annotations and, beside them, a label map: what Panoptic FPN learns from.

    Source: Kirillov et al., "Panoptic Feature Pyramid Networks" (arXiv:1901.02446); Detectron2's "separated" datasets,
    whose label maps have one class for all things.
    """

    keys = ("annotations", "sem_seg_file_name")

    def __init__(self, *, instances: InstanceReader, semantic: SemanticReader):
        self.instances = instances
        self.semantic = semantic
        self.label_padding = semantic.label_padding

    def load(self, record: dict, image_size: tuple[int, int]) -> tuple[list, np.ndarray]:
        """The labels of either reader. Raises DataError as they do."""
        return self.instances.load(record, image_size), self.semantic.load(record, image_size)

    def category_map(self, labels: tuple[list, np.ndarray]) -> np.ndarray:
        """That of the label map."""
        return self.semantic.category_map(labels[1])

    def targets(self, labels: tuple[list, np.ndarray], transforms: TransformList, image_size: tuple[int, int]) -> dict:
        """{"instances": the things, "sem_seg": (H, W) int64}."""
        objects, label_map = labels
        return {**self.instances.targets(objects, transforms, image_size),
                "sem_seg": torch.from_numpy(transforms.apply_segmentation(label_map).astype(np.int64))}

"""The dataset mapper: one class for every published name; a name picks a target reader and an augmentation recipe.

Source: the mappers of Mask2Former (arXiv:2112.01527) and Mask DINO (arXiv:2206.02777), which are variants of this one.
Shape key: H, W: height and width after augmentation, N: objects.
"""
from collections.abc import Callable

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T

from freqdino.data.augmentation import crop_recipe, detr_recipe, inference_recipe, large_scale_jitter
from freqdino.data.catalog import id_of
from freqdino.data.extra_augmentations import extra_augmentations, kept_in_picture
from freqdino.data.image_reading import check_image_size, read_image
from freqdino.data.target_readers import (
    AnnotationReader,
    BoxReader,
    InstanceReader,
    PanopticReader,
    SemanticReader,
    SeparatedReader,
)
from freqdino.data.targets import TargetReader
from freqdino.errors import DataError

MAPPERS = {
    "coco_instance_lsj": (InstanceReader, large_scale_jitter),
    "coco_panoptic_lsj": (PanopticReader, large_scale_jitter),
    "coco_instance_detr": (InstanceReader, detr_recipe),
    "coco_boxes_lsj": (BoxReader, large_scale_jitter),
    "coco_boxes_detr": (BoxReader, detr_recipe),
    "coco_panoptic_separated": (SeparatedReader, detr_recipe),
    "mask_former_instance": (InstanceReader, crop_recipe),
    "mask_former_panoptic": (PanopticReader, crop_recipe),
    "mask_former_semantic": (SemanticReader, crop_recipe),
    "MaskDINO_semantic": (SemanticReader, crop_recipe),
}


class SegmentationMapper:
    """Dataset record to model input: reads the picture, augments it, and reads the targets where a reader is given.

    Result: ``image`` uint8 (3, H, W), ``file_name``, ``image_id``, ``height`` and ``width`` of the picture in the file,
    and the reader's targets: ``instances`` with gt_classes (N,) int64, gt_masks BitMasks (N, H, W) (not of a box
    reader), gt_boxes, and where there is a label map ``sem_seg`` (H, W) int64. The record is not changed.
    """

    def __init__(self, *, augmentations: list[T.Augmentation], image_format: str, reader: TargetReader | None = None):
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.reader = reader

    def __call__(self, record: dict) -> dict:
        """
        Raises DataError: the picture or a label file is missing or damaged, or they do not fit each other; the message
        names the file.
        """
        image = read_image(record["file_name"], self.image_format)
        check_image_size(record, image.shape[:2])
        height, width = image.shape[:2]
        sample = {"file_name": record["file_name"], "image_id": id_of(record),
                  "height": height, "width": width}
        if self.reader is None:
            augmented = T.AugInput(image)
            self.augmentations(augmented)
        else:
            labels = self.reader.load(record, (height, width))
            augmented = T.AugInput(image, sem_seg=self.reader.category_map(labels))
            transforms = self.augmentations(augmented)
            targets = self.reader.targets(labels, transforms, augmented.image.shape[:2])
            sample.update(kept_in_picture(targets, transforms, (height, width)))
        sample["image"] = torch.from_numpy(np.ascontiguousarray(augmented.image.transpose(2, 0, 1)))
        return sample


def build_reader(cls: type, dataset_name: str) -> TargetReader:
    """A target reader for a data set's classes, which its metadata has. Raises DataError where it has none."""
    if cls is SeparatedReader:
        return SeparatedReader(instances=build_reader(InstanceReader, dataset_name),
                               semantic=build_reader(SemanticReader, dataset_name))
    metadata = MetadataCatalog.get(dataset_name)
    key = "thing_classes" if issubclass(cls, AnnotationReader) else "stuff_classes"
    classes = metadata.get(key)
    if classes is None:
        raise DataError(f"the metadata of DATASETS.TRAIN[0] = {dataset_name!r} has no {key}: it is not registered, or "
                        "not the kind of dataset that INPUT.DATASET_MAPPER_NAME reads")
    if cls is SemanticReader:
        return SemanticReader(num_classes=len(classes), ignore_label=metadata.get("ignore_label", 255))
    return cls(num_classes=len(classes))


def chosen_mapper(cfg: CfgNode) -> tuple[type, Callable[..., list[T.Augmentation]]]:
    """The target reader's class and the recipe that INPUT.DATASET_MAPPER_NAME names.

    Raises ValueError: an unknown name, or DATASETS.TRAIN is empty.
    """
    name = cfg.INPUT.DATASET_MAPPER_NAME
    if name not in MAPPERS:
        raise ValueError(f"INPUT.DATASET_MAPPER_NAME is {name!r}; known are {', '.join(MAPPERS)}")
    if not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty; it has to name at least one dataset")
    return MAPPERS[name]


def mappers_of(record: dict) -> list[str]:
    """Names of the mappers that read a record of this kind."""
    return [name for name, (reader, _) in MAPPERS.items() if set(reader.keys) <= record.keys()]


def build_mapper(cfg: CfgNode, is_train: bool) -> SegmentationMapper:
    """The mapper of a configuration: for training what INPUT.DATASET_MAPPER_NAME names, after
    INPUT.EXTRA_AUGMENTATIONS; else one without targets.

    Classes and ignore label are those of the first training dataset, which has to be registered.

    Raises ValueError: an unknown mapper name, a setting out of range, or a dataset without the classes that it needs.
    """
    if not is_train:
        return SegmentationMapper(augmentations=inference_recipe(cfg), image_format=cfg.INPUT.FORMAT)
    reader_class, recipe = chosen_mapper(cfg)
    reader = build_reader(reader_class, cfg.DATASETS.TRAIN[0])
    augmentations = [*extra_augmentations(cfg, label_padding=reader.label_padding),
                     *recipe(cfg, label_padding=reader.label_padding)]
    return SegmentationMapper(augmentations=augmentations, image_format=cfg.INPUT.FORMAT, reader=reader)

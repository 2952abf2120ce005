"""The category of every pixel of a dataset's picture, whatever kind of ground truth the dataset has.

H, W: height and width of the picture.
"""
import numpy as np
import torch
from detectron2.data import Metadata
from torch import Tensor

from freqdino.data.augmentation import UNLABELLED
from freqdino.data.image_reading import read_image
from freqdino.data.segmentation import rasterise
from freqdino.data.target_readers import InstanceReader, PanopticReader, SemanticReader
from freqdino.errors import NotThere


def category_labels(record: dict, metadata: Metadata) -> Tensor:
    """(H, W) int64 class indices, -1 where there is none; the richest kind of ground truth that the record has.

    Of overlapping instances the later one counts. Raises NotThere for a record without ground truth, ValueError for
    one whose ground truth is not in order.
    """
    size = read_image(record["file_name"], "RGB").shape[:2]
    if "sem_seg_file_name" in record:
        reader = SemanticReader(num_classes=len(metadata.stuff_classes),
                                ignore_label=metadata.get("ignore_label", UNLABELLED))
        return from_category_map(reader.category_map(reader.load(record, size)))
    if "pan_seg_file_name" in record:
        reader = PanopticReader(num_classes=len(metadata.stuff_classes))
        return from_category_map(reader.category_map(reader.load(record, size)))
    if "annotations" not in record:
        raise NotThere(f"{record['file_name']}: its dataset has no ground truth, neither semantic nor panoptic nor of "
                       "instances")
    labels = torch.full(size, -1)
    for category, shape in InstanceReader(num_classes=len(metadata.thing_classes)).load(record, size):
        mask = shape.astype(bool) if isinstance(shape, np.ndarray) else rasterise(shape, *size)
        labels[torch.from_numpy(mask)] = category
    return labels


def from_category_map(categories: np.ndarray) -> Tensor:
    labels = torch.from_numpy(categories.astype(np.int64))
    return torch.where(labels == UNLABELLED, -1, labels)

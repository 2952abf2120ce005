"""What every target reader offers the mapper and the checks, and the `Instances` that they make of masks.

Shape key: N: objects, H: height, W: width.
"""
from typing import Any, Protocol

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances
from fvcore.transforms.transform import TransformList

from freqdino.errors import DataError

NO_CLASS = -1


class TargetReader(Protocol):
    """What the mapper asks of a reader; labels are the reader's own, in the frame of the unaugmented picture."""

    keys: tuple[str, ...]   # of the record, where the labels or their files are
    label_padding: int      # the value that padding gives to a label map

    def load(self, record: dict, image_size: tuple[int, int]) -> Any:
        """Read and check the labels of a record whose picture has ``image_size`` (H, W)."""

    def category_map(self, labels: Any) -> np.ndarray | None:
        """(H, W) uint8 of class indices and `UNLABELLED`, for the crop that limits a class's share; None: unknown."""

    def targets(self, labels: Any, transforms: TransformList, image_size: tuple[int, int]) -> dict:
        """The training targets after ``transforms``, whose result has ``image_size`` (H, W)."""


class LabelReader(TargetReader, Protocol):
    """A reader of one kind of labels, and what the checks of a data set ask of it."""

    def check(self, record: dict) -> None:
        """What can be said of a record's labels without opening a file. Raises DataError."""

    def objects(self, labels: Any, image_size: tuple[int, int]) -> list[tuple[int, int]]:
        """(class, pixels) of every object; `NO_CLASS` stands for the ignored pixels of a label map."""


def instances_of(masks: np.ndarray, classes: list[int]) -> Instances:
    """`Instances` of the objects that have a pixel, from masks (N, H, W) bool and N class indices."""
    rows, columns = masks.any(axis=2), masks.any(axis=1)  # numpy: PyTorch's any is tens of times slower on bool
    kept = rows.any(axis=1)
    rows, columns = rows[kept], columns[kept]
    height, width = masks.shape[1:]
    boxes = np.stack([columns.argmax(axis=1), rows.argmax(axis=1), width - columns[:, ::-1].argmax(axis=1),
                      height - rows[:, ::-1].argmax(axis=1)], axis=1)
    instances = Instances((height, width))
    instances.gt_classes = torch.tensor(classes, dtype=torch.int64)[torch.from_numpy(kept)]
    instances.gt_masks = BitMasks(torch.from_numpy(masks if kept.all() else masks[kept]))
    instances.gt_boxes = Boxes(torch.from_numpy(boxes).float())
    return instances


def required(record: dict, key: str, mappers: str) -> Any:
    """``record[key]``. Raises DataError, with the picture and the ``mappers`` that read the key, where it is absent."""
    if key not in record:
        raise DataError(f"the dataset record of {record['file_name']} has no {key!r}, which the mappers {mappers} "
                         "read; choose INPUT.DATASET_MAPPER_NAME to fit the dataset")
    return record[key]

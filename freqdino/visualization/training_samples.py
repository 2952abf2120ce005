"""What a configuration trains on, drawn: annotations on the left, on the right what the mapper makes of them."""
import random

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from freqdino.data import dataset_records
from freqdino.data.image_reading import read_image
from freqdino.data.mapper import SegmentationMapper
from freqdino.data.target_readers import BoxReader, InstanceReader, PanopticReader, SemanticReader, SeparatedReader
from freqdino.visualization.drawing import Drawing, draw_ground_truth, draw_targets, side_by_side

# What each reader reads of a record, as tasks of `draw_ground_truth`, in the order of drawing.
TASKS = {InstanceReader: ("instance",), BoxReader: ("box",), PanopticReader: ("panoptic",),
         SemanticReader: ("semantic",), SeparatedReader: ("semantic", "instance")}


def choose_records(cfg: CfgNode, *, count: int, seed: int) -> list[dict]:
    """At most ``count`` records of the training sets, drawn by lot, in the order of the sets.

    Raises OSError: files of a set are missing; ValueError: there is no training set, one is not registered, or they are
    empty.
    """
    records = []
    for name in cfg.DATASETS.TRAIN:
        if name not in DatasetCatalog:
            raise ValueError(f"DATASETS.TRAIN: {name} is not registered; registered are "
                             f"{', '.join(sorted(DatasetCatalog))}")
        records += dataset_records(name)
    if not records:
        raise ValueError(f"DATASETS.TRAIN {list(cfg.DATASETS.TRAIN)} holds no image")
    chosen = random.Random(seed).sample(range(len(records)), min(count, len(records)))
    return [records[index] for index in sorted(chosen)]


def draw_sample(record: dict, mapper: SegmentationMapper, cfg: CfgNode, scale: float) -> tuple[np.ndarray, str]:
    """Annotations and training sample of a record beside each other, and a line that says what they hold."""
    metadata, reader = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]), type(mapper.reader)
    sample = mapper(record)
    left = Drawing(read_image(record["file_name"], "RGB"), metadata, scale=scale)
    for task in TASKS[reader]:
        draw_ground_truth(left, record, task, metadata)
    pixels = sample["image"].numpy().transpose(1, 2, 0)
    right = Drawing(pixels if cfg.INPUT.FORMAT == "RGB" else pixels[:, :, ::-1], metadata, scale=scale)
    if "sem_seg" in sample:
        right.draw_label_map(sample["sem_seg"].numpy())
    if reader is not SemanticReader:    # whose objects are the regions of the map
        draw_targets(right, sample["instances"], "stuff" if reader is PanopticReader else "thing")
    line = (f"{sample['width']}x{sample['height']} -> {pixels.shape[1]}x{pixels.shape[0]}, "
            f"{len(sample['instances'])} targets")
    return side_by_side([left.image, right.image]), line

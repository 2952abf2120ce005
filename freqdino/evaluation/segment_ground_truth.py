"""Instances and label maps of panoptic ground truth, for data sets that come with nothing else: own data by name.

Shape key: H, W: height and width of an image.
"""
import functools
from collections.abc import Mapping, Sequence

import numpy as np
import pycocotools.mask as mask_util
from detectron2.data import DatasetCatalog, MetadataCatalog

from freqdino.data.panoptic_png import read_segment_ids


def has_only_segments(dataset_name: str, key: str) -> bool:
    """Whether the data set has no ``key``, the other ground truth, and is one whose segments take its place."""
    metadata = MetadataCatalog.get(dataset_name)
    return bool(metadata.get("ground_truth_from_segments")) and not metadata.get(key)


@functools.lru_cache(maxsize=4)         # it reads every PNG, and each evaluation of a training asks anew
def instances_of_segments(dataset_name: str, without: frozenset[int | str] = frozenset()) -> dict:
    """The segments of things as the content of a COCO instance file; ``without`` images of these ids."""
    metadata = MetadataCatalog.get(dataset_name)
    ids = {index: category for category, index in metadata.thing_dataset_id_to_contiguous_id.items()}
    images, annotations = [], []
    for record in DatasetCatalog.get(dataset_name):
        if record["image_id"] in without:
            continue
        images.append({"id": record["image_id"], "height": record["height"], "width": record["width"],
                       "file_name": record["file_name"]})
        drawn = read_segment_ids(record["pan_seg_file_name"])
        for segment in record["segments_info"]:
            if segment["category_id"] not in ids:
                continue
            mask = mask_util.encode(np.asfortranarray(drawn == segment["id"], dtype=np.uint8))
            annotations.append({
                "image_id": record["image_id"], "category_id": ids[segment["category_id"]],
                "iscrowd": int(bool(segment.get("iscrowd", 0))), "area": float(mask_util.area(mask)),
                "bbox": mask_util.toBbox(mask).tolist(), "segmentation": mask})
    categories = [{"id": category, "name": metadata.thing_classes[index]} for index, category in sorted(ids.items())]
    return {"images": images, "annotations": annotations, "categories": categories}


def class_map(panoptic_png: str, segments: Sequence[Mapping], ignore_label: int) -> np.ndarray:
    """(H, W) int64: the class of each pixel's segment; ``ignore_label`` where there is none."""
    ids = read_segment_ids(panoptic_png)
    classes = np.full(ids.shape, ignore_label, dtype=np.int64)
    for segment in segments:
        classes[ids == segment["id"]] = segment["category_id"]
    return classes

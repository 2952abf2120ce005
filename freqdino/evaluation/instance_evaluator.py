"""Evaluator of instance predictions: COCO's AP of masks and boxes, for Detectron2's evaluation loop.

Source: the contract of Detectron2's DatasetEvaluator and the names of its COCO results.
Shape key: N: instances of an image, H, W: its height and width.
"""
import json
import logging
import os
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_json
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import BoxMode, Instances
from detectron2.utils.file_io import PathManager

from freqdino.data.catalog import left_out
from freqdino.data.coco_files import read_ground_truth
from freqdino.evaluation.coco_api import FastCOCOeval, average_precision, complete_annotations
from freqdino.evaluation.gathering import gather_predictions
from freqdino.evaluation.metadata import distinct_names, require_metadata
from freqdino.evaluation.remarks import INSTANCE_THRESHOLDS, say_absent_classes, say_empty, say_undefined
from freqdino.evaluation.segment_ground_truth import has_only_segments, instances_of_segments
from freqdino.evaluation.tables import markdown_table

logger = logging.getLogger(__name__)

PREDICTIONS_FILE = "coco_instances_results.json"
PREDICTION_FIELD = {"bbox": "pred_boxes", "segm": "pred_masks"}
# Why a metric may be undefined; the areas are COCO's.
REASONS = {"AP": "there is no object", "APs": "no object is smaller than 32 x 32 pixels",
           "APm": "no object has between 32 x 32 and 96 x 96 pixels",
           "APl": "no object is larger than 96 x 96 pixels"}


class InstanceEvaluator(DatasetEvaluator):
    """Collects ``instances`` (scores, pred_classes, pred_boxes, pred_masks) and computes their AP.

    Boxes and masks are evaluated, or boxes alone where no annotation of the ground truth has a segmentation.

    Contiguous classes become category ids through the metadata's thing_dataset_id_to_contiguous_id, which need not
    start at 0. Predictions of a stuff class (stuff_dataset_id_to_contiguous_id) are left out: they are not instances.
    Without either table classes are category ids. The ground truth is the metadata's json_file; a dataset that was
    registered without one is converted into ``output_dir``, of own panoptic data the segments of things are it.
    """

    def __init__(self, dataset_name: str, *, tasks: Sequence[str] | None = None, output_dir: str | None = None,
                 distributed: bool = True, max_dets_per_image: int = 100, use_fast_impl: bool = True,
                 boundary: bool = False):
        """
        Args:
            tasks: "bbox", "segm" or both; None: what the ground truth has.
            output_dir: where coco_instances_results.json goes; None: nowhere.
            distributed: gather the predictions of all ranks; ``evaluate`` must then be called on every rank.
            max_dets_per_image: predictions of a class that count in an image.
            use_fast_impl: faster-coco-eval if it is installed; False: always pycocotools.
            boundary: also Boundary AP, as the task "boundary", where masks are evaluated.
        Raises ValueError: an unknown task, no ground truth, an annotation without a mask where masks are evaluated, or
        a class of the metadata that the ground truth lacks.
        """
        if tasks is not None and (not tasks or set(tasks) - PREDICTION_FIELD.keys()):
            raise ValueError(f"tasks must be some of {sorted(PREDICTION_FIELD)}, got {list(tasks)}")
        if max_dets_per_image < 1:
            raise ValueError(f"max_dets_per_image must be at least 1, got {max_dets_per_image}")
        self._dataset_name = dataset_name
        self._output_dir = output_dir
        self._distributed = distributed
        self._max_detections = max_dets_per_image
        self._fast = use_fast_impl and FastCOCOeval is not None
        self._ground_truth_file, self._ground_truth = _load_ground_truth(dataset_name, output_dir)
        self._tasks = self._tasks_of_ground_truth() if tasks is None else tuple(tasks)
        self.boundary = boundary
        for annotation in self._ground_truth["annotations"]:
            if "segm" in self._tasks and not annotation.get("segmentation"):
                raise ValueError(f"{self._ground_truth_file} has an annotation without segmentation on image "
                                 f"{annotation['image_id']}: masks are evaluated where every annotation has one, boxes "
                                 "alone where none has, or with tasks=('bbox',)")
        names = [category["name"] for category in self._ground_truth["categories"]]
        ids = [category["id"] for category in self._ground_truth["categories"]]
        self._class_names = dict(zip(ids, distinct_names(names, ids)))

        metadata = MetadataCatalog.get(dataset_name)
        table = metadata.get("thing_dataset_id_to_contiguous_id") or {i: i for i in self._class_names}
        self._category_of_class = {contiguous: category for category, contiguous in table.items()}
        self._stuff_classes = (set((metadata.get("stuff_dataset_id_to_contiguous_id") or {}).values())
                               - self._category_of_class.keys())
        absent = table.keys() - self._class_names.keys()
        if absent:
            raise ValueError(f"{self._ground_truth_file} has no category {sorted(absent)}, which "
                             f"thing_dataset_id_to_contiguous_id of dataset {dataset_name!r} names")
        counted = {annotation["category_id"] for annotation in self._ground_truth["annotations"]
                   if not annotation["iscrowd"]}
        say_absent_classes(logger, dataset_name, [self._class_names[category] for category in sorted(table)
                                                  if category not in counted], what="object", metric="AP")
        self._image_ids = {image["id"] for image in self._ground_truth["images"]}
        self._say_limit()
        self._predictions: list[dict] = []

    def _say_limit(self):
        """Say how many predictions count where it is not COCO's 100, or fewer than there are objects."""
        if self._max_detections != 100:
            logger.info("At most %d predictions of a class count in an image of %s, COCO's AP counts 100: "
                        "TEST.DETECTIONS_PER_IMAGE", self._max_detections, self._dataset_name)
        objects = Counter((annotation["image_id"], annotation["category_id"])
                          for annotation in self._ground_truth["annotations"] if not annotation["iscrowd"])
        crowded = [image for (image, _), count in objects.items() if count > self._max_detections]
        if crowded:
            logger.warning("%s has up to %d objects of a class in an image, more than the %d predictions that count "
                           "(%d images, such as %s): AP cannot reach 100; set TEST.DETECTIONS_PER_IMAGE higher",
                           self._ground_truth_file, max(objects.values()), self._max_detections, len(set(crowded)),
                           crowded[0])

    def _tasks_of_ground_truth(self):
        if any(annotation.get("segmentation") for annotation in self._ground_truth["annotations"]):
            return "bbox", "segm"
        logger.info("%s has no segmentations: boxes alone are evaluated.", self._ground_truth_file)
        return ("bbox",)

    def reset(self) -> None:
        self._predictions = []

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Keep the predictions of one batch in COCO's format.

        Raises ValueError: an output without ``instances`` or without the field that a task needs, an image that is not
        in the ground truth, a class that the dataset does not have, a score that is not finite.
        """
        for image, output in zip(inputs, outputs, strict=True):
            name = f"image {image['image_id']} of {self._dataset_name}"
            if "instances" not in output:
                raise ValueError(f"{name}: the model's output has no 'instances', only {sorted(output)}; is its "
                                 "instance inference switched on (INSTANCE_ON)?")
            if image["image_id"] not in self._image_ids:
                raise ValueError(f"{name} is not among the images of {self._ground_truth_file}")
            try:
                self._predictions += self._to_coco(output["instances"], image["image_id"])
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error

    def evaluate(self) -> OrderedDict | None:
        """
        Returns {task: {AP, AP50, AP75, APs, APm, APl, AP-<class name>}}, in percent; 0 where nothing was predicted, NaN
        where there is no ground truth. None on ranks other than the first.
        """
        predictions = gather_predictions(self._predictions) if self._distributed else self._predictions
        if predictions is None:
            return None
        self._say_empty(predictions)
        if self._output_dir:
            PathManager.mkdirs(self._output_dir)
            with PathManager.open(os.path.join(self._output_dir, PREDICTIONS_FILE), "w") as file:
                json.dump(predictions, file)
        category_ids = sorted(self._category_of_class.values())
        results = OrderedDict()
        for task in (*self._tasks, *(["boundary"] if self.boundary and "segm" in self._tasks else [])):
            metrics, by_category = average_precision(self._ground_truth, predictions, task, category_ids=category_ids,
                                                     max_detections=self._max_detections, fast=self._fast)
            by_name = {self._class_names[category]: ap for category, ap in zip(category_ids, by_category)}
            self._log(task, metrics, by_name)
            say_undefined(logger, self._dataset_name, metrics, REASONS)
            results[task] = {**metrics, **{f"AP-{name}": ap for name, ap in by_name.items()}}
        return results

    def _say_empty(self, predictions):
        if not predictions:
            say_empty(logger, f"The model predicted no instance on {self._dataset_name}: every AP is 0",
                      INSTANCE_THRESHOLDS)
        elif "segm" in self._tasks and not any(mask_util.area(prediction["segmentation"])
                                               for prediction in predictions):
            say_empty(logger, f"All masks of the {len(predictions)} instances that the model predicted on "
                              f"{self._dataset_name} are empty: every AP of masks is 0")

    def _to_coco(self, instances: Instances, image_id: int | str) -> list[dict]:
        for task in self._tasks:
            if not instances.has(PREDICTION_FIELD[task]):
                raise ValueError(f"instances have no {PREDICTION_FIELD[task]!r}, which task {task!r} needs")
        if not torch.isfinite(instances.scores).all():
            raise ValueError("an instance has a score that is not finite")
        is_thing = torch.tensor([self._is_thing(label) for label in instances.pred_classes.tolist()], dtype=torch.bool)
        instances = instances[is_thing.to(instances.scores.device)]
        labels = instances.pred_classes.tolist()
        results = [{"image_id": image_id, "category_id": self._category_of_class[label], "score": score}
                   for label, score in zip(labels, instances.scores.tolist())]
        if "bbox" in self._tasks:
            boxes = BoxMode.convert(instances.pred_boxes.tensor.cpu(), BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
            for result, box in zip(results, boxes.tolist()):
                result["bbox"] = box
        if "segm" in self._tasks:
            for result, mask in zip(results, encode_masks(instances.pred_masks)):
                result["segmentation"] = mask
        return results

    def _is_thing(self, label):
        if label in self._category_of_class:
            return True
        if label in self._stuff_classes:
            return False
        raise ValueError(f"an instance has class {label}, but the classes of the dataset are "
                         f"{sorted(self._category_of_class)}")

    def _log(self, task, metrics, by_name):
        logger.info("Average precision (%s) on %s:\n%s", task, self._dataset_name,
                    markdown_table(list(metrics), [list(metrics.values())], text=()))
        if len(by_name) > 1:
            logger.info("Average precision (%s) by class:\n%s", task,
                        markdown_table(("class", "AP"), by_name.items()))


def encode_masks(masks: torch.Tensor) -> list[dict]:
    """COCO's compressed RLE of masks (N, H, W); a pixel belongs to the mask where the value is not 0."""
    # The encoder reads columns: laid out so by torch, on the masks' device, all of them are encoded without a copy.
    columns = (masks != 0).transpose(1, 2).contiguous().cpu().numpy().view(np.uint8)
    return [{"size": rle["size"], "counts": rle["counts"].decode("ascii")} for rle in mask_util.encode(columns.T)]


def _load_ground_truth(dataset_name, output_dir):
    """Path and completed content of the dataset's COCO JSON file, or what its panoptic one says about things."""
    metadata = MetadataCatalog.get(dataset_name)
    if has_only_segments(dataset_name, "json_file"):
        return metadata.panoptic_json, complete_annotations(instances_of_segments(dataset_name, left_out(dataset_name)))
    if metadata.get("json_file") or metadata.get("panoptic_json") or output_dir is None:
        path = require_metadata(dataset_name, "json_file")
    else:
        path = os.path.join(output_dir, f"{dataset_name}_coco_format.json")
        convert_to_coco_json(dataset_name, path, allow_cached=False)
    return path, complete_annotations(read_ground_truth(path, without=left_out(dataset_name)))

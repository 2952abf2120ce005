"""Evaluator of panoptic predictions for Detectron2's evaluation loop.

Source: the contract of Detectron2's DatasetEvaluator; model outputs as in its panoptic models.
"""
import io
import json
import logging
import os
import tempfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils.file_io import PathManager
from PIL import Image

from freqdino.data.catalog import left_out
from freqdino.data.panoptic_png import id_to_rgb
from freqdino.evaluation.gathering import gather_predictions
from freqdino.evaluation.metadata import distinct_names, require_metadata
from freqdino.evaluation.panoptic_files import ground_truth_by_image, panoptic_quality
from freqdino.evaluation.remarks import SEGMENT_THRESHOLDS, say_absent_classes, say_empty, say_undefined
from freqdino.evaluation.tables import markdown_table

logger = logging.getLogger(__name__)

PREDICTIONS_FILE = "panoptic_predictions.json"
PREDICTIONS_FOLDER = "panoptic_predictions"
REASONS = {"PQ": "no segment is annotated or predicted", "PQ_th": "no segment of a thing is annotated or predicted",
           "PQ_st": "no segment of stuff is annotated or predicted"}


class PanopticEvaluator(DatasetEvaluator):
    """Collects panoptic predictions, writes them in COCO's format and scores them.

    A model's output for an image is ``panoptic_seg``: (segment ids (H, W), segments_info). Each segment has ``id``,
    ``isthing`` and a contiguous ``category_id``; without ``isthing`` the category id is the dataset's own.
    segments_info may be None: then a pixel holds category * label_divisor + instance, or -1 for void.

    The metadata of the dataset must have panoptic_json, panoptic_root, thing_dataset_id_to_contiguous_id and
    stuff_dataset_id_to_contiguous_id; label_divisor if segments_info is None.
    """

    def __init__(self, dataset_name: str, *, output_dir: str | None = None, distributed: bool = True):
        """
        Args:
            output_dir: where panoptic_predictions.json and the folder panoptic_predictions go; None: nowhere.
            distributed: gather the predictions of all ranks; ``evaluate`` must then be called on every rank.
        Raises ValueError: the metadata lacks a key, or the ground truth has no annotations.
        """
        self._dataset_name = dataset_name
        self._ground_truth_json = require_metadata(dataset_name, "panoptic_json")
        self._ground_truth_folder = require_metadata(dataset_name, "panoptic_root")
        self._thing_ids, self._stuff_ids = (
            {contiguous: dataset_id for dataset_id, contiguous in require_metadata(dataset_name, key).items()}
            for key in ("thing_dataset_id_to_contiguous_id", "stuff_dataset_id_to_contiguous_id"))
        self._output_dir = output_dir
        self._distributed = distributed

        self._categories, by_image = ground_truth_by_image(self._ground_truth_json)
        occurring = {segment["category_id"] for annotation in by_image.values()
                     for segment in annotation["segments_info"] if not segment.get("iscrowd", 0)}
        say_absent_classes(logger, dataset_name, [category["name"] for category in self._categories
                                                  if category["id"] not in occurring],
                           what="segment", metric="PQ, where none is predicted either,")
        self._file_names = dict(zip(by_image, _prediction_names(by_image.values())))
        self._predictions: list[dict] = []

    def reset(self) -> None:
        self._predictions = []

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Keep the predictions of one batch, the segment maps as compressed PNG.

        Raises ValueError: an output without ``panoptic_seg``, an image that the ground truth does not have, a category
        that the dataset does not have, an id that no PNG can hold; the message names image and segment.
        """
        for image, output in zip(inputs, outputs, strict=True):
            name = f"image {image['image_id']} of {self._dataset_name}"
            if "panoptic_seg" not in output:
                raise ValueError(f"{name}: the model's output has no 'panoptic_seg', only {sorted(output)}; is its "
                                 "panoptic inference switched on (PANOPTIC_ON)?")
            if str(image["image_id"]) not in self._file_names:
                raise ValueError(f"{name} has no ground truth in {self._ground_truth_json}")
            ids, segments = output["panoptic_seg"]
            ids = ids.cpu().numpy()
            if segments is None:
                ids, segments = self._decode_segments(ids)
            try:
                picture = id_to_rgb(ids)
                segments = [{"id": int(segment["id"]), "category_id": self._dataset_category(segment)}
                            for segment in segments]
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            with io.BytesIO() as file:
                Image.fromarray(picture).save(file, format="PNG")
                self._predictions.append({"image_id": image["image_id"], "segments_info": segments,
                                          "file_name": self._file_names[str(image["image_id"])],
                                          "png": file.getvalue()})

    def evaluate(self) -> OrderedDict | None:
        """
        Returns {"panoptic_seg": {PQ, SQ, RQ, the same with _th and _st, PQ-<class name>}}, in percent; NaN where no
        category occurs. None on ranks other than the first.
        """
        predictions = gather_predictions(self._predictions) if self._distributed else self._predictions
        if predictions is None:
            return None
        if not any(prediction["segments_info"] for prediction in predictions):
            say_empty(logger, f"The model predicted no segment on {self._dataset_name}: every PQ is 0",
                      SEGMENT_THRESHOLDS)
        with ExitStack() as stack:
            folder = self._output_dir or stack.enter_context(tempfile.TemporaryDirectory(prefix="panoptic_"))
            prediction_json = self._write(predictions, folder)
            quality = panoptic_quality(self._ground_truth_json, self._ground_truth_folder, prediction_json,
                                       os.path.join(folder, PREDICTIONS_FOLDER), without=left_out(self._dataset_name))
        return OrderedDict(panoptic_seg=self._summarize(quality))

    def _decode_segments(self, ids):
        """Segments of a map of category * label_divisor + instance; ids go up by one: 0 means void in the file."""
        divisor = require_metadata(self._dataset_name, "label_divisor")
        categories = {int(label) + 1: int(label) // divisor for label in np.unique(ids) if label >= 0}
        segments = [{"id": segment_id, "category_id": category, "isthing": category in self._thing_ids}
                    for segment_id, category in categories.items()]
        return ids.astype(np.int64) + 1, segments

    def _dataset_category(self, segment):
        if segment.get("isthing") is None:
            return int(segment["category_id"])
        kind, table = ("thing", self._thing_ids) if segment["isthing"] else ("stuff", self._stuff_ids)
        if segment["category_id"] not in table:
            raise ValueError(f"segment {segment['id']} has {kind} class {segment['category_id']}, but the {kind} "
                             f"classes of the dataset are {sorted(table)}")
        return table[segment["category_id"]]

    def _write(self, predictions, folder):
        """Write PNG files and JSON; returns the JSON's path."""
        PathManager.mkdirs(os.path.join(folder, PREDICTIONS_FOLDER))
        for prediction in predictions:
            with PathManager.open(os.path.join(folder, PREDICTIONS_FOLDER, prediction["file_name"]), "wb") as file:
                file.write(prediction["png"])
        annotations = [{key: value for key, value in prediction.items() if key != "png"} for prediction in predictions]
        path = os.path.join(folder, PREDICTIONS_FILE)
        with PathManager.open(path, "w") as file:
            json.dump({"annotations": annotations, "categories": self._categories}, file)
        return path

    def _summarize(self, quality):
        """Percentages by name; logs them as tables."""
        rows, results = [], {}
        for group, suffix in (("All", ""), ("Things", "_th"), ("Stuff", "_st")):
            percent = (100 * quality[group]).tolist()
            results.update({f"{metric}{suffix}": value for metric, value in zip(("PQ", "SQ", "RQ"), percent)})
            rows.append((group, *percent))
        names = distinct_names([category["name"] for category in self._categories],
                               [category["id"] for category in self._categories])
        class_rows = [(name, *(100 * row).tolist()) for name, row in zip(names, quality["per_class"])]
        results.update({f"PQ-{name}": pq for name, pq, _, _ in class_rows})
        logger.info("Panoptic quality on %s:\n%s", self._dataset_name,
                    markdown_table(("", "PQ", "SQ", "RQ"), rows + class_rows))
        say_undefined(logger, self._dataset_name, results, REASONS)
        return results


def _prediction_names(annotations):
    """PNG names of the predictions: the ground truth's without folders, numbered where that repeats a name."""
    names = [os.path.basename(annotation["file_name"]) for annotation in annotations]
    if len(set(names)) < len(names):
        names = [f"{number:06}_{name}" for number, name in enumerate(names)]
    return names

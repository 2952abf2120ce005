"""Evaluator of semantic predictions: Detectron2's, with the checks that its counting needs.

Detectron2's SemSegEvaluator adds up a confusion matrix by flat index, where a label that the dataset does not have
lands silently in the row of another class, and its default reader fails under numpy 2. Its Boundary IoU subtracts an
eroded label map from the map, which gives differences of labels and not boundaries of classes; ours is of every class,
see `freqdino.evaluation.boundary`.
Shape key: K: classes, H, W: height and width of an image.
"""
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator
from detectron2.utils.comm import all_gather
from detectron2.utils.file_io import PathManager
from PIL import Image

from freqdino.evaluation.boundary import boundary_counts
from freqdino.evaluation.metadata import distinct_names, require_metadata
from freqdino.evaluation.remarks import say_absent_classes, say_empty, say_undefined
from freqdino.evaluation.segment_ground_truth import class_map, has_only_segments
from freqdino.evaluation.tables import markdown_table

logger = logging.getLogger(__name__)


class SemanticEvaluator(SemSegEvaluator):
    """Scores ``sem_seg`` (K, H, W), K scores a pixel, against the label maps ``sem_seg_file_name``.

    The metadata must have stuff_classes, all K of them, and ignore_label. Results are Detectron2's: {"sem_seg": {mIoU,
    fwIoU, mACC, pACC, IoU-<class>, ...}}, and mBoundaryIoU, BoundaryIoU-<class>, in percent; NaN for a class without
    ground truth, which no mean counts.
    """

    def __init__(self, dataset_name: str, *, output_dir: str | None = None, distributed: bool = True):
        """
        Args:
            output_dir: where sem_seg_predictions.json and sem_seg_evaluation.pth go; None: nowhere.
            distributed: gather the counts of all ranks; ``evaluate`` must then be called on every rank.
        Raises ValueError: the metadata lacks a key, or an image has no label map.
        """
        metadata = MetadataCatalog.get(dataset_name)
        names = require_metadata(dataset_name, "stuff_classes")
        self._class_names = distinct_names(names, range(len(names)))
        self._ignore_label = require_metadata(dataset_name, "ignore_label")
        key = "pan_seg_file_name" if has_only_segments(dataset_name, "sem_seg_root") else "sem_seg_file_name"
        records = DatasetCatalog.get(dataset_name)
        for image in records:
            if key not in image:
                raise ValueError(f"dataset {dataset_name!r} has no semantic ground truth: {image['file_name']} has no "
                                 f"{key}; switch semantic inference off (SEMANTIC_ON) to go without")
        # What Detectron2's constructor sets; that reads the records again and wants label maps of them.
        self._logger, self._cpu_device = logging.getLogger(SemSegEvaluator.__module__), torch.device("cpu")
        self._dataset_name, self._distributed, self._output_dir = dataset_name, distributed, output_dir
        self._num_classes = len(self._class_names)
        self._compute_boundary_iou = False      # Detectron2's
        self.sem_seg_loading_fn = self._read_labels
        self.input_file_to_gt_file = {image["file_name"]: image[key] for image in records}
        self._segments = {image[key]: image["segments_info"] for image in records} if key.startswith("pan") else {}
        stuff = metadata.get("stuff_dataset_id_to_contiguous_id")
        # Every predicted class is looked up; with things among the K classes some of them are no stuff.
        things = metadata.get("thing_dataset_id_to_contiguous_id") or {}
        self._contiguous_id_to_dataset_id = None if stuff is None else {
            contiguous: category for category, contiguous in (*things.items(), *stuff.items())}

    def reset(self) -> None:
        super().reset()
        self._boundary_counts = np.zeros((2, self._num_classes), dtype=np.int64)

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Count the pixels of one batch.

        Raises ValueError: an output without ``sem_seg``, of another class count or another size than the ground truth
        or with a score that is not finite, or a label in the ground truth that the dataset does not have; the message
        names the file.
        """
        for image, output in zip(inputs, outputs, strict=True):
            if "sem_seg" not in output:
                raise ValueError(f"{image['file_name']}: the model's output has no 'sem_seg', only {sorted(output)}; "
                                 "is its semantic inference switched on (SEMANTIC_ON)?")
            classes, height, width = output["sem_seg"].shape
            if classes != self._num_classes:
                raise ValueError(f"{image['file_name']}: the model scores {classes} classes, dataset "
                                 f"{self._dataset_name!r} has {self._num_classes}")
            if not torch.isfinite(output["sem_seg"]).all():
                raise ValueError(f"{image['file_name']}: the model gives a pixel a score that is not finite")
            label_file = self.input_file_to_gt_file[image["file_name"]]
            with PathManager.open(label_file, "rb") as file, Image.open(file) as labels:
                if labels.size != (width, height):
                    raise ValueError(f"{label_file} has {labels.width}x{labels.height} pixels, the prediction "
                                     f"{width}x{height}")
            self._count(output["sem_seg"].argmax(dim=0).cpu().numpy(), label_file, image["file_name"])

    def _count(self, predicted, label_file, file_name):
        """As Detectron2's confusion matrix has it: by predicted class and true class, the last of which is none."""
        classes, truth = self._num_classes, self.sem_seg_loading_fn(label_file, dtype=int)
        truth[truth == self._ignore_label] = classes
        self._conf_matrix += np.bincount((classes + 1) * predicted.reshape(-1) + truth.reshape(-1),
                                         minlength=self._conf_matrix.size).reshape(self._conf_matrix.shape)
        self._boundary_counts += boundary_counts(predicted, truth, classes)
        self._predictions.extend(self.encode_json_sem_seg(predicted, file_name))

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """See the class; None on ranks other than the first."""
        if self._distributed:
            self._boundary_counts = np.sum(all_gather(self._boundary_counts), axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):        # of no labelled pixel: said below
            results = super().evaluate()
        if results:
            metrics = results["sem_seg"]
            metrics.update(self._boundary_metrics())
            names = ("mIoU", "mBoundaryIoU", "fwIoU", "mACC", "pACC")
            logger.info("Semantic segmentation on %s:\n%s", self._dataset_name,
                        markdown_table(names, [[metrics[name] for name in names]], text=()))
            self._say_absent(metrics)
        return results

    def _boundary_metrics(self):
        (both, either), true = self._boundary_counts, self._conf_matrix[:-1, :-1].sum(axis=0)
        shares = np.full(self._num_classes, np.nan)
        np.divide(100 * both, either, out=shares, where=(true > 0) & (either > 0))
        defined = shares[~np.isnan(shares)]
        return {"mBoundaryIoU": defined.mean() if defined.size else math.nan,
                **{f"BoundaryIoU-{name}": share for name, share in zip(self._class_names, shares)}}

    def _say_absent(self, metrics):
        """Detectron2's matrix counts pixels by predicted class, then by true class; the last of either is no class."""
        true, predicted = self._conf_matrix[:, :-1].sum(axis=0), self._conf_matrix[:-1].sum(axis=1)
        say_absent_classes(logger, self._dataset_name, [self._class_names[index] for index in np.nonzero(true == 0)[0]],
                           what="pixel", metric="IoU")
        say_undefined(logger, self._dataset_name, metrics, {"mIoU": "no pixel of the ground truth has a class"})
        if self._num_classes > 1 and np.count_nonzero(predicted) == 1:
            say_empty(logger, f"The model predicts class {self._class_names[predicted.argmax()]!r} at every pixel of "
                              f"{self._dataset_name}")

    def encode_json_sem_seg(self, sem_seg: np.ndarray, input_file_name: str) -> list[dict]:
        """Detectron2's records of a label map for sem_seg_predictions.json; none where that file is not written."""
        return super().encode_json_sem_seg(sem_seg, input_file_name) if self._output_dir else []

    def _read_labels(self, path, dtype):
        if path in self._segments:
            return class_map(path, self._segments[path], self._ignore_label).astype(dtype)
        with PathManager.open(path, "rb") as file, Image.open(file) as image:
            labels = np.array(image, dtype=dtype)
        if labels.ndim != 2:
            raise ValueError(f"{path}: a label map has one value a pixel, this one has {labels.shape[2]}")
        known = (labels >= 0) & (labels < self._num_classes) | (labels == self._ignore_label)
        if not known.all():
            raise ValueError(f"{path} holds labels {np.unique(labels[~known]).tolist()}, but the dataset has classes "
                             f"0..{self._num_classes - 1} and ignore_label {self._ignore_label}")
        return labels

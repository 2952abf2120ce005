"""COCO average precision through faster-coco-eval, or pycocotools where that is not installed.

Source: https://cocodataset.org/#detection-eval. Both packages compute the same arrays; the metrics are read from the
arrays here, so that they do not depend on the package or on a fixed limit of detections per image.
Shape key: T: IoU thresholds, R: recall thresholds, C: categories, A: area ranges.
"""
import contextlib
import io
from collections.abc import Sequence

import numpy as np
import pycocotools.mask as mask_util

try:
    from faster_coco_eval import COCO as FastCOCO
    from faster_coco_eval import COCOeval_faster as FastCOCOeval
except ImportError:
    FastCOCO = FastCOCOeval = None
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from freqdino.data.values import order_of_id
from freqdino.evaluation.boundary import boundary_of_mask

AREA_RANGES = {"s": 1, "m": 2, "l": 3}  # suffix of the metric -> COCO's index; index 0 is all areas
NO_GROUND_TRUTH = -1  # how both packages mark a precision that is not defined


def average_precision(ground_truth: dict, detections: Sequence[dict], iou_type: str, *, category_ids: Sequence[int],
                      max_detections: int, fast: bool) -> tuple[dict[str, float], list[float]]:
    """AP of detections.

    Args:
        ground_truth: content of a COCO instance JSON file, as ``complete_annotations`` returns it.
        detections: results in COCO's format; ``segmentation`` as compressed RLE for masks.
        iou_type: "bbox", "segm", or "boundary": Boundary AP, of pycocotools' evaluation always.
        category_ids: the C categories to evaluate, ascending.
        max_detections: detections of a category in an image that count, the best ones.
        fast: use faster-coco-eval.
    Returns ({AP, AP50, AP75, APs, APm, APl}, AP by category), in percent; NaN where there is no ground truth.
    """
    coco_class, evaluation_class = (FastCOCO, FastCOCOeval) if fast else (COCO, COCOeval)
    if iou_type == "boundary":
        coco_class, evaluation_class, iou_type = COCO, BoundaryEvaluation, "segm"
    ground_truth, detections = _numbered_images(ground_truth, detections)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress with print
        truth = _index(coco_class, ground_truth)
        found = _index(coco_class, {**ground_truth, "annotations": _as_annotations(detections, iou_type)})
        evaluation = evaluation_class(truth, found, iou_type)
        evaluation.params.catIds = list(category_ids)
        evaluation.params.maxDets = [max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = np.asarray(evaluation.eval["precision"])[..., 0]  # (T, R, C, A)
    thresholds = evaluation.params.iouThrs
    metrics = {"AP": _mean(precision[:, :, :, 0])}
    for percent in (50, 75):
        metrics[f"AP{percent}"] = _mean(precision[np.isclose(thresholds, percent / 100), :, :, 0])
    for suffix, area in AREA_RANGES.items():
        metrics[f"AP{suffix}"] = _mean(precision[..., area])
    return metrics, [_mean(precision[:, :, index, 0]) for index in range(len(category_ids))]


class BoundaryEvaluation(COCOeval):
    """pycocotools' evaluation of masks by the smaller of mask IoU and Boundary IoU (arXiv 2103.16562, section 5)."""

    def computeIoU(self, imgId: int, catId: int) -> np.ndarray | list:
        overlaps = super().computeIoU(imgId, catId)
        if not len(overlaps):
            return overlaps
        entries = [*self._gts[imgId, catId], *self._dts[imgId, catId]]
        masks = [entry["segmentation"] for entry in entries]
        for entry in entries:
            entry["segmentation"] = boundary_of_mask(entry["segmentation"])
        boundaries = super().computeIoU(imgId, catId)
        for entry, mask in zip(entries, masks):
            entry["segmentation"] = mask
        return np.minimum(overlaps, boundaries)


def complete_annotations(content: dict) -> dict:
    """Ground truth, as `read_ground_truth` gives it, with every field that the evaluation reads.

    Annotation ids are counted anew from 1: the evaluation takes an id of 0 for "unmatched" and drops repeated ids.
    ``iscrowd`` defaults to 0, ``bbox`` and ``area`` to those of the mask, ``area`` without a mask to that of the box.
    """
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    annotations = []
    for number, annotation in enumerate(content["annotations"], start=1):
        annotation = {"iscrowd": 0, **annotation, "id": number}
        if "area" not in annotation or "bbox" not in annotation:
            area, box = _measure(annotation, *sizes[annotation["image_id"]])
            annotation = {"area": area, "bbox": box, **annotation}
        annotations.append(annotation)
    return {**content, "annotations": annotations}


def _measure(annotation, height, width):
    """Area and box (x, y, width, height) of an annotation's mask, or of its box where it has no mask."""
    mask = annotation.get("segmentation")
    if not mask:
        return annotation["bbox"][2] * annotation["bbox"][3], annotation["bbox"]
    if isinstance(mask, list):
        mask = mask_util.merge(mask_util.frPyObjects(mask, height, width))
    elif isinstance(mask["counts"], list):
        mask = mask_util.frPyObjects(mask, height, width)
    return float(mask_util.area(mask)), mask_util.toBbox(mask).tolist()


def _numbered_images(ground_truth, detections):
    """Both with the images numbered in the order of their ids: the packages sort ids and take numbers alone."""
    ids = sorted((image["id"] for image in ground_truth["images"]), key=order_of_id)
    numbers = {image_id: number for number, image_id in enumerate(ids, start=1)}
    annotations, detections = ([{**entry, "image_id": numbers[entry["image_id"]]} for entry in entries]
                               for entries in (ground_truth["annotations"], detections))
    images = [{**image, "id": numbers[image["id"]]} for image in ground_truth["images"]]
    return {**ground_truth, "images": images, "annotations": annotations}, detections


def _index(coco_class, content):
    coco = coco_class()
    coco.dataset = content
    coco.createIndex()
    return coco


def _as_annotations(detections, iou_type):
    """Detections with the fields of annotations; the size of a detection is that of its mask for segm."""
    if iou_type == "segm":
        # One call for each: given a list, pycocotools fails beyond 255 masks.
        areas = [mask_util.area(detection["segmentation"]) for detection in detections]
    else:
        areas = [detection["bbox"][2] * detection["bbox"][3] for detection in detections]
    return [{**detection, "id": number, "area": float(area), "iscrowd": 0}
            for number, (detection, area) in enumerate(zip(detections, areas), start=1)]


def _mean(precision):
    defined = precision[precision != NO_GROUND_TRUTH]
    return 100 * float(defined.mean()) if defined.size else float("nan")

"""Boundaries worked out by hand: of label maps, of semantic predictions, of instances in Boundary AP."""
import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from freqdino.evaluation.boundary import boundary_counts, boundary_of_mask, boundary_width, near_contour
from freqdino.evaluation.coco_api import average_precision, complete_annotations
from freqdino.evaluation.instance_evaluator import InstanceEvaluator
from freqdino.evaluation.semantic_evaluator import SemanticEvaluator

HEIGHT, WIDTH = 60, 80      # a diagonal of 100: boundaries are 2 pixels wide
CLASSES = 7
LEFT, RIGHT = 2, 5


def halves(columns):
    labels = np.full((HEIGHT, WIDTH), RIGHT)
    labels[:, :columns] = LEFT
    return labels


def test_width_of_boundaries():
    assert [boundary_width(*size) for size in ((60, 80), (128, 128), (3, 4), (480, 640), (1, 1))] == [2, 4, 1, 16, 1]


@pytest.mark.parametrize("largest", [3, 255, 256])
def test_pixels_near_a_contour(largest):
    labels = np.zeros((HEIGHT, WIDTH), dtype=np.int64)
    labels[20:33, 30:41], labels[25:28, 33:50], labels[50, 70] = 1, 2, largest
    near = near_contour(labels)
    for y in range(HEIGHT):
        for x in range(WIDTH):
            square = [labels[j, i] if 0 <= j < HEIGHT and 0 <= i < WIDTH else -1
                      for j in range(y - 2, y + 3) for i in range(x - 2, x + 3)]
            assert near[y, x] == any(label != labels[y, x] for label in square), (y, x)


def test_counts_of_a_shifted_contour():
    """Truth: 40 and 40 columns, each of 60 · 40 − 56 · 36 = 384 pixels of boundary. Predicted 41 and 39: 388 and 380.
    Left both: two columns (120), column 39 (60), four rows of columns 2 to 38 (148): 328. Right: 120 + 60 + 144."""
    both, either = boundary_counts(halves(41), halves(40), CLASSES)
    assert dict(enumerate(both.tolist())) == {LEFT: 328, RIGHT: 324} | {label: 0 for label in (0, 1, 3, 4, 6)}
    assert (either[LEFT], either[RIGHT]) == (384 + 388 - 328, 384 + 380 - 324) and either.sum() == 444 + 440


def test_pixels_that_do_not_count():
    """Of the truth's right half nothing counts, of the prediction there neither; beside it is the left half's end."""
    truth = halves(40)
    truth[truth == RIGHT] = CLASSES
    both, either = boundary_counts(halves(40), truth, CLASSES)
    assert both[LEFT] == either[LEFT] == 384 and both.sum() == either.sum() == 384


def test_semantic_evaluator(tmp_path):
    name, path, truth = "boundary_test", tmp_path / "labels.png", halves(40)
    Image.fromarray(truth.astype(np.uint8)).save(path)
    try:
        DatasetCatalog.register(name, lambda: [{"file_name": f"{i}.jpg", "sem_seg_file_name": str(path)}
                                               for i in range(2)])
        MetadataCatalog.get(name).set(stuff_classes=[f"class {i}" for i in range(CLASSES)], ignore_label=255)
        evaluator = SemanticEvaluator(name)
        evaluator.reset()
        for index, labels in enumerate((halves(41), truth)):
            scores = torch.nn.functional.one_hot(torch.as_tensor(labels), CLASSES).permute(2, 0, 1).float()
            evaluator.process([{"file_name": f"{index}.jpg"}], [{"sem_seg": scores}])
        metrics = evaluator.evaluate()["sem_seg"]
    finally:
        DatasetCatalog.pop(name, None)
        MetadataCatalog.pop(name, None)
    left, right = 100 * (328 + 384) / (444 + 384), 100 * (324 + 384) / (440 + 384)
    assert metrics["BoundaryIoU-class 2"] == pytest.approx(left)
    assert metrics["BoundaryIoU-class 5"] == pytest.approx(right)
    assert metrics["mBoundaryIoU"] == pytest.approx((left + right) / 2) and np.isnan(metrics["BoundaryIoU-class 0"])


def rectangle(column):
    """A mask of 40 rows and 50 columns: 40 · 50 − 36 · 46 = 344 pixels of boundary."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[10:50, column:column + 50] = 1
    return mask_util.encode(np.asfortranarray(mask))


def test_boundary_of_a_mask():
    boundary = mask_util.decode(boundary_of_mask(rectangle(10)))
    assert boundary.sum() == 344 and not boundary[12:48, 12:58].any()


TRUTH = {"images": [{"id": 1, "height": HEIGHT, "width": WIDTH}], "categories": [{"id": 1, "name": "box"}],
         "annotations": [{"id": 1, "image_id": 1, "category_id": 1,
                          "segmentation": [[10, 10, 60, 10, 60, 50, 10, 50]]}]}


@pytest.mark.parametrize("shift, masks, boundaries", [
    (0, 100, 100),
    (1, 100, 30),       # masks: 49/51 of 0.95. Boundaries: 4 · 49 + 2 · 36 = 268 of 688 − 268: 0.638
    (2, 90, 0),         # masks: 48/52. Boundaries: 4 · 48 of 688 − 192: 0.387
])
def test_boundary_ap(shift, masks, boundaries):
    truth = complete_annotations(TRUTH)
    found = [{"image_id": 1, "category_id": 1, "score": 0.9, "segmentation": rectangle(10 + shift)}]
    for iou_type, expected in (("segm", masks), ("boundary", boundaries)):
        metrics, by_category = average_precision(truth, found, iou_type, category_ids=[1], max_detections=100,
                                                 fast=False)
        assert metrics["AP"] == pytest.approx(expected) and by_category == pytest.approx([expected])
    assert found[0]["segmentation"] == rectangle(10 + shift)


def test_boundary_ap_is_asked_for(tmp_path):
    name, file = "boundary_ap_test", tmp_path / "truth.json"
    file.write_text(json.dumps(TRUTH))
    try:
        MetadataCatalog.get(name).set(json_file=str(file), thing_dataset_id_to_contiguous_id={1: 0})
        for asked, tasks in ((False, {"bbox", "segm"}), (True, {"bbox", "segm", "boundary"})):
            evaluator = InstanceEvaluator(name, distributed=False, boundary=asked)
            assert evaluator.evaluate().keys() == tasks
        assert InstanceEvaluator(name, tasks=("bbox",), distributed=False, boundary=True).evaluate().keys() == {"bbox"}
    finally:
        MetadataCatalog.pop(name, None)

"""What evaluators say: absent classes, undefined metrics with their reasons, predictions that are empty everywhere."""
import json
import logging
import math

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import LVISEvaluator
from detectron2.structures import Boxes, Instances
from PIL import Image

from freqdino.data.panoptic_png import id_to_rgb
from freqdino.evaluation.build import UndefinedAsNan
from freqdino.evaluation.instance_evaluator import InstanceEvaluator
from freqdino.evaluation.metadata import distinct_names
from freqdino.evaluation.panoptic_evaluator import PanopticEvaluator
from freqdino.evaluation.results import write_results
from freqdino.evaluation.semantic_evaluator import SemanticEvaluator

NAME = "remarks_test"
LABELS = np.array([[0, 0, 0, 255], [0, 0, 0, 255]])
IMAGE = [{"image_id": 1, "file_name": "1.jpg"}]


@pytest.fixture
def dataset(tmp_path):
    """One image of 4 x 2 pixels, all sky but for the last column; nothing of the thing "cat" and the stuff "sea"."""
    Image.fromarray(LABELS.astype(np.uint8)).save(tmp_path / "labels.png")
    Image.fromarray(id_to_rgb(np.where(LABELS == 0, 1, 0))).save(tmp_path / "1.png")
    categories = [{"id": 1, "name": "sky", "isthing": 0}, {"id": 2, "name": "cat", "isthing": 1},
                  {"id": 3, "name": "dog", "isthing": 1}]
    (tmp_path / "panoptic.json").write_text(json.dumps({"categories": categories, "annotations": [
        {"image_id": 1, "file_name": "1.png", "segments_info": [{"id": 1, "category_id": 1}]}]}))
    (tmp_path / "instances.json").write_text(json.dumps({
        "categories": categories[1:], "images": [{"id": 1, "height": 2, "width": 4}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "segmentation": [[0, 0, 2, 0, 2, 2]]}]}))
    DatasetCatalog.register(NAME, lambda: [{"file_name": "1.jpg", "sem_seg_file_name": str(tmp_path / "labels.png")}])
    MetadataCatalog.get(NAME).set(
        panoptic_json=str(tmp_path / "panoptic.json"), panoptic_root=str(tmp_path), ignore_label=255,
        json_file=str(tmp_path / "instances.json"), stuff_classes=["sky", "cat", "dog"],
        thing_dataset_id_to_contiguous_id={2: 1, 3: 2}, stuff_dataset_id_to_contiguous_id={1: 0})
    return NAME


def said(caplog, evaluator, output):
    """The warnings of an evaluator's making and of its results, and these."""
    with caplog.at_level(logging.WARNING):
        evaluator = evaluator(NAME)
        evaluator.reset()
        evaluator.process(IMAGE, [output])
        results = evaluator.evaluate()
    return caplog.text, results


def instances(*masks):
    boxes = Boxes(torch.zeros(len(masks), 4))
    return {"instances": Instances((2, 4), scores=torch.ones(len(masks)), pred_boxes=boxes,
                                   pred_classes=torch.full((len(masks),), 2),
                                   pred_masks=torch.stack(masks) if masks else torch.zeros(0, 2, 4))}


def test_instances(dataset, caplog):
    text, results = said(caplog, InstanceEvaluator, instances())
    assert f"The ground truth of {NAME} has no object of class 'cat': their AP is undefined" in text
    assert f"The model predicted no instance on {NAME}: every AP is 0" in text
    assert "MODEL.ROI_HEADS.SCORE_THRESH_TEST" in text
    assert (f"On {NAME} APm (no object has between 32 x 32 and 96 x 96 pixels), APl (no object is larger than 96 x 96 "
            "pixels) are undefined, nan in the log and null in results.json") in text
    assert math.isnan(results["segm"]["AP-cat"]) and results["segm"]["AP-dog"] == results["segm"]["APs"] == 0


def test_instances_with_empty_masks(dataset, caplog):
    text, _ = said(caplog, InstanceEvaluator, instances(torch.zeros(2, 4), torch.zeros(2, 4)))
    assert f"All masks of the 2 instances that the model predicted on {NAME} are empty" in text


def test_segments(dataset, caplog):
    text, results = said(caplog, PanopticEvaluator, {"panoptic_seg": (torch.zeros(2, 4, dtype=torch.int32), [])})
    assert f"The ground truth of {NAME} has no segment of classes 'cat', 'dog'" in text
    assert f"The model predicted no segment on {NAME}: every PQ is 0" in text and "OBJECT_MASK_THRESHOLD" in text
    assert f"On {NAME} PQ_th (no segment of a thing is annotated or predicted) are undefined" in text
    assert results["panoptic_seg"]["PQ"] == 0 and math.isnan(results["panoptic_seg"]["PQ_th"])


def test_label_maps(dataset, caplog):
    scores = torch.zeros(3, 2, 4)
    scores[1] = 1
    text, results = said(caplog, SemanticEvaluator, {"sem_seg": scores})
    assert f"The ground truth of {NAME} has no pixel of classes 'cat', 'dog': their IoU is undefined" in text
    assert f"The model predicts class 'cat' at every pixel of {NAME}" in text
    assert results["sem_seg"]["mIoU"] == 0


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_label_maps_without_a_class(dataset, caplog, tmp_path):
    Image.fromarray(np.full((2, 4), 255, np.uint8)).save(tmp_path / "labels.png")
    text, results = said(caplog, SemanticEvaluator, {"sem_seg": torch.rand(3, 2, 4)})
    assert f"On {NAME} mIoU (no pixel of the ground truth has a class) are undefined" in text
    written = json.loads(write_results({NAME: results}, tmp_path).read_text())
    assert written[NAME]["sem_seg"]["mIoU"] is None


def test_nothing_is_said_of_a_good_prediction(dataset, caplog, tmp_path):
    Image.fromarray(np.array([[0, 1, 2, 255], [0, 1, 2, 255]], np.uint8)).save(tmp_path / "labels.png")
    scores = torch.eye(3)[:, [0, 1, 2, 2]][:, None].expand(3, 2, 4)
    text, results = said(caplog, SemanticEvaluator, {"sem_seg": scores})
    assert text == "" and results["sem_seg"]["mIoU"] == 100


def test_classes_of_one_name_have_a_row_each(dataset):
    assert distinct_names(["cat", "dog", "cat"], [3, 5, 9]) == ["cat (3)", "dog", "cat (9)"]
    MetadataCatalog.get(NAME).stuff_classes[:] = ["sky", "sky", "dog"]
    evaluator = SemanticEvaluator(NAME)
    evaluator.reset()
    evaluator.process(IMAGE, [{"sem_seg": torch.eye(3)[:, [0, 1, 2, 2]][:, None].expand(3, 2, 4)}])
    assert {"IoU-sky (0)", "IoU-sky (1)", "IoU-dog"} <= evaluator.evaluate()["sem_seg"].keys()


def test_scores_that_are_no_numbers(dataset):
    evaluator = SemanticEvaluator(NAME)
    evaluator.reset()
    with pytest.raises(ValueError, match="1.jpg: the model gives a pixel a score that is not finite"):
        evaluator.process(IMAGE, [{"sem_seg": torch.full((3, 2, 4), math.nan)}])


def test_lvis_has_no_negative_precision(monkeypatch):
    monkeypatch.setattr(LVISEvaluator, "evaluate", lambda self: {"bbox": {"AP": 12.5, "APs": -100.0}})
    metrics = UndefinedAsNan.__new__(UndefinedAsNan).evaluate()["bbox"]
    assert metrics["AP"] == 12.5 and math.isnan(metrics["APs"])

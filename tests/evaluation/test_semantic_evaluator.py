"""Semantic evaluator: worked mIoU, absent classes, and every way in which files and predictions do not fit."""
import json
import math

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from freqdino.evaluation.semantic_evaluator import SemanticEvaluator

NAME = "semantic_evaluator_test"
CLASSES = ["sky", "cat", "grass", "sea"]
LABELS = np.array([[0, 0, 1, 1], [0, 0, 2, 255]])


@pytest.fixture
def dataset(tmp_path):
    """A function that registers one image with the given label map and returns the dataset's name."""
    def register(labels=LABELS, classes=CLASSES, **metadata):
        for catalog in (DatasetCatalog, MetadataCatalog):
            catalog.pop(NAME, None)
        path = tmp_path / "labels.png"
        Image.fromarray(np.asarray(labels).astype(np.uint8)).save(path)
        DatasetCatalog.register(NAME, lambda: [{"file_name": "1.jpg", "sem_seg_file_name": str(path)}])
        MetadataCatalog.get(NAME).set(stuff_classes=list(classes), ignore_label=255, **metadata)
        return NAME
    return register


def scores(labels, classes=len(CLASSES)):
    """A model's output whose best class is ``labels``."""
    return {"sem_seg": torch.nn.functional.one_hot(torch.as_tensor(labels), classes).permute(2, 0, 1).float()}


def evaluate(evaluator, output):
    evaluator.reset()
    evaluator.process([{"file_name": "1.jpg"}], [output])
    return evaluator.evaluate()["sem_seg"]


def test_worked_values(dataset):
    # sky: 3 right of 4, nothing else called sky: 3/4. cat: 2 right, 1 too many: 2/3. grass: right. The ignored pixel is
    # called sea, which is in no ground truth: it does not count.
    result = evaluate(SemanticEvaluator(dataset()), scores([[0, 1, 1, 1], [0, 0, 2, 3]]))
    assert [result[f"IoU-{name}"] for name in CLASSES[:3]] == pytest.approx([75, 200 / 3, 100])
    assert math.isnan(result["IoU-sea"]) and math.isnan(result["ACC-sea"])
    assert result["mIoU"] == pytest.approx((75 + 200 / 3 + 100) / 3)
    assert result["mACC"] == pytest.approx((75 + 100 + 100) / 3)
    assert result["pACC"] == pytest.approx(600 / 7)


def test_half_precision_scores_and_predictions_file(dataset, tmp_path):
    # Both tables of a panoptic dataset are needed to name a predicted class: here 1 is a thing.
    name = dataset(thing_dataset_id_to_contiguous_id={20: 1}, stuff_dataset_id_to_contiguous_id={10: 0, 30: 2, 40: 3})
    output = {"sem_seg": scores([[0, 0, 1, 1], [0, 0, 2, 3]])["sem_seg"].half()}
    assert evaluate(SemanticEvaluator(name, output_dir=str(tmp_path / "out")), output)["mIoU"] == 100
    written = json.loads((tmp_path / "out" / "sem_seg_predictions.json").read_text())
    assert [record["category_id"] for record in written] == [10, 20, 30, 40]


def test_palette_and_16_bit_label_maps(dataset, tmp_path):
    evaluator = SemanticEvaluator(dataset())
    picture = Image.fromarray(LABELS.astype(np.uint8), mode="P")
    picture.putpalette(list(range(255, -1, -1)) * 3)
    picture.save(tmp_path / "labels.png")
    assert evaluate(evaluator, scores(np.where(LABELS == 255, 0, LABELS)))["mIoU"] == 100
    Image.fromarray(LABELS.astype(np.uint16)).save(tmp_path / "labels.png")
    assert evaluate(evaluator, scores(np.where(LABELS == 255, 0, LABELS)))["mIoU"] == 100


@pytest.mark.parametrize(("labels", "output", "message"), [
    (LABELS, {"instances": 0}, r"1.jpg: the model's output has no 'sem_seg', only \['instances'\].*SEMANTIC_ON"),
    (LABELS, scores(LABELS % 4, 5), f"1.jpg: the model scores 5 classes, dataset '{NAME}' has 4"),
    (LABELS, scores(LABELS.T % 4), "labels.png has 4x2 pixels, the prediction 2x4"),
    (LABELS + [[4] * 4, [0] * 4], scores(LABELS % 4),
     r"labels.png holds labels \[4, 5\], but .* 0..3 and ignore_label 255"),
    (np.zeros((2, 4, 3)), scores(LABELS % 4), "labels.png: a label map has one value a pixel, this one has 3"),
])
def test_what_does_not_fit(dataset, labels, output, message):
    with pytest.raises(ValueError, match=message):
        evaluate(SemanticEvaluator(dataset(labels)), output)


def test_dataset_without_label_maps():
    name = "semantic_evaluator_no_labels"
    DatasetCatalog.register(name, lambda: [{"file_name": "7.jpg"}])
    with pytest.raises(ValueError, match=f"'{name}' cannot be evaluated: its metadata has no 'stuff_classes'"):
        SemanticEvaluator(name)
    MetadataCatalog.get(name).set(stuff_classes=CLASSES, ignore_label=255)
    with pytest.raises(ValueError, match=f"dataset '{name}' has no semantic ground truth: 7.jpg .*SEMANTIC_ON"):
        SemanticEvaluator(name)

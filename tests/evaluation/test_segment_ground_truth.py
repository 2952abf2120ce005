"""Own panoptic data are evaluated by AP and mIoU, too: ground truth worked out by hand from the segments."""
import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image

from freqdino.data import register_custom_datasets
from freqdino.data.panoptic_png import id_to_rgb
from freqdino.evaluation.build import build_evaluator, tasks_with_ground_truth
from freqdino.evaluation.segment_ground_truth import class_map, instances_of_segments

# Two cats (ids 10, 11), a crowd of cats (12), sky (20); the last column is unlabelled.
IDS = np.array([[10, 10, 11, 20, 0], [10, 10, 11, 20, 0], [12, 12, 12, 20, 0]])
CLASSES = np.array([[0, 0, 0, 1, 255], [0, 0, 0, 1, 255], [0, 0, 0, 1, 255]])


@pytest.fixture
def dataset(tmp_path):
    """Own-data name of one picture with the segments IDS."""
    for folder, pixels in (("images", np.zeros((3, 5, 3), np.uint8)), ("segments", id_to_rgb(IDS))):
        (tmp_path / folder).mkdir()
        Image.fromarray(pixels).save(tmp_path / folder / "a.png")
    segments = [{"id": 10, "category_id": 5}, {"id": 11, "category_id": 5}, {"id": 12, "category_id": 5, "iscrowd": 1},
                {"id": 20, "category_id": 7}]
    (tmp_path / "panoptic.json").write_text(json.dumps({
        "images": [{"id": 4, "file_name": "a.png", "height": 3, "width": 5}],
        "annotations": [{"image_id": 4, "file_name": "a.png", "segments_info": segments}],
        "categories": [{"id": 5, "name": "cat", "isthing": 1}, {"id": 7, "name": "sky", "isthing": 0}]}))
    name = f"{tmp_path}/panoptic.json@{tmp_path}/images@{tmp_path}/segments"
    register_custom_datasets([name])
    return name


def test_pictures_that_are_left_out_are_not_opened(dataset, tmp_path):
    (tmp_path / "segments" / "a.png").write_bytes(b"broken")
    content = instances_of_segments(dataset, frozenset([4]))
    assert content["images"] == content["annotations"] == []


def test_things_become_instances(dataset):
    content = instances_of_segments(dataset)
    assert content["categories"] == [{"id": 5, "name": "cat"}]
    assert [(each["area"], each["bbox"], each["iscrowd"]) for each in content["annotations"]] == [
        (4, [0, 0, 2, 2], 0), (2, [2, 0, 1, 2], 0), (3, [0, 2, 3, 1], 1)]
    assert {(each["image_id"], each["category_id"]) for each in content["annotations"]} == {(4, 5)}


def test_segments_become_a_label_map(dataset):
    record, = DatasetCatalog.get(dataset)
    assert np.array_equal(class_map(record["pan_seg_file_name"], record["segments_info"], 255), CLASSES)


def test_every_task_is_evaluated(dataset):
    """The first cat is found exactly, the second not at all: AP is the precision 1 up to a recall of one half, on 51 of
    101 thresholds. Called cat are all but two pixels of the right half: 9 of cat, 1 of 3 of sky; IoU 9/11 and 1/3.
    """
    assert tasks_with_ground_truth(dataset) == ["semantic", "instance", "panoptic"]
    record, = DatasetCatalog.get(dataset)
    scores = torch.zeros(2, 3, 5)
    scores[0] = 0.5
    scores[1, 0, 3:] = 1
    mask = torch.as_tensor(IDS == 10)[None]
    instances = Instances((3, 5), scores=torch.tensor([0.9]), pred_classes=torch.tensor([0]), pred_masks=mask,
                          pred_boxes=Boxes(torch.tensor([[0.0, 0, 2, 2]])))
    segments = torch.as_tensor(IDS, dtype=torch.int32) * torch.as_tensor(IDS != 12)
    output = {"sem_seg": scores, "instances": instances, "panoptic_seg": (segments, [
        {"id": 10, "isthing": True, "category_id": 0}, {"id": 11, "isthing": True, "category_id": 0},
        {"id": 20, "isthing": False, "category_id": 1}])}
    evaluator = build_evaluator(dataset, tasks=["semantic", "instance", "panoptic"], output_dir=None)
    evaluator.reset()
    evaluator.process([{"image_id": record["image_id"], "file_name": record["file_name"]}], [output])
    results = evaluator.evaluate()
    assert results["segm"]["AP-cat"] == pytest.approx(100 * 51 / 101)
    assert results["bbox"]["AP-cat"] == pytest.approx(100 * 51 / 101)
    assert results["sem_seg"]["mIoU"] == pytest.approx(100 * (9 / 11 + 1 / 3) / 2)
    assert results["panoptic_seg"]["PQ"] == 100

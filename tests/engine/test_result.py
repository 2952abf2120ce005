"""What a model predicts for one picture: order, drawing, COCO's entries, JSON."""
import json

import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances
from pycocotools import mask as mask_util

from freqdino.engine.result import Result

HEIGHT, WIDTH = 8, 10
METADATA = {"thing_classes": ["cup", "jug"], "stuff_classes": ["cup", "jug", "table"],
            "thing_dataset_id_to_contiguous_id": {11: 0, 12: 1}, "stuff_dataset_id_to_contiguous_id": {13: 2}}


def rectangle(rows, columns):
    mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    mask[slice(*rows), slice(*columns)] = True
    return mask


JUG, CUP = rectangle((0, 4), (0, 5)), rectangle((2, 8), (6, 10))


@pytest.fixture
def output():
    ids = torch.zeros(HEIGHT, WIDTH, dtype=torch.int32)
    ids[JUG], ids[CUP] = 1, 2
    return {"instances": Instances(
                (HEIGHT, WIDTH), scores=torch.tensor([0.25, 0.75]), pred_classes=torch.tensor([1, 0]),
                pred_boxes=Boxes(torch.tensor([[0., 0, 5, 4], [6, 2, 10, 8]])), pred_masks=torch.stack([JUG, CUP])),
            "panoptic_seg": (ids, [{"id": 1, "isthing": True, "category_id": 1, "score": 0.25},
                                   {"id": 2, "isthing": False, "category_id": 2, "score": 0.75}]),
            "sem_seg": torch.stack([torch.zeros(HEIGHT, WIDTH), JUG.float(), torch.full((HEIGHT, WIDTH), 0.5)])}


def result_of(output, metadata=METADATA):
    return Result(image=np.full((HEIGHT, WIDTH, 3), 128, np.uint8), output=output, metadata=Metadata().set(**metadata))


def test_the_best_come_first(output):
    result = result_of(output)
    assert result.instances.scores.tolist() == [0.75, 0.25] and result.instances.pred_classes.tolist() == [0, 1]
    assert torch.equal(result.instances.pred_masks[0], CUP)
    assert [segment["id"] for segment in result.panoptic[1]] == [2, 1]
    assert result.semantic.shape == (3, HEIGHT, WIDTH)


@pytest.mark.parametrize("absent", ["instances", "panoptic_seg", "sem_seg"])
def test_what_is_not_predicted_is_none(output, absent):
    del output[absent]
    result = result_of(output)
    found = [result.instances, result.panoptic, result.semantic]
    assert [part is None for part in found] == [key == absent for key in ("instances", "panoptic_seg", "sem_seg")]
    assert len(result.to_dict()) == 4


def mask_of(rle):
    return torch.from_numpy(mask_util.decode({**rle, "counts": rle["counts"].encode()})).bool()


def test_coco_entries_of_instances(output):
    cup, jug = json.loads(json.dumps(result_of(output).to_coco(image_id=5)))
    assert (cup["image_id"], cup["category_id"], cup["score"], cup["bbox"]) == (5, 11, 0.75, [6, 2, 4, 6])
    assert (jug["category_id"], jug["bbox"]) == (12, [0, 0, 5, 4])
    assert torch.equal(mask_of(cup["segmentation"]), CUP) and torch.equal(mask_of(jug["segmentation"]), JUG)


def test_coco_entries_of_boxes_of_segments_and_of_a_map(output):
    output["instances"].remove("pred_masks")
    assert all("segmentation" not in entry for entry in result_of(output).to_coco())
    del output["instances"]
    table, jug = result_of(output).to_coco()
    assert (table["category_id"], table["score"], table["bbox"]) == (13, 0.75, [6, 2, 4, 6])
    assert torch.equal(mask_of(table["segmentation"]), CUP) and jug["category_id"] == 12
    del output["panoptic_seg"]
    regions = result_of(output).to_coco()
    # The jug's pixels have its score, 1; all others the table's, 0.5. A semantic map's classes have stuff's ids.
    assert [entry["category_id"] for entry in regions] == [1, 13] and "score" not in regions[0]
    assert torch.equal(mask_of(regions[0]["segmentation"]), JUG)


def test_all_of_it_as_json(output):
    content = json.loads(json.dumps(result_of(output).to_dict()))
    assert (content["height"], content["width"]) == (HEIGHT, WIDTH)
    assert [(entry["class"], entry["name"], entry["box"]) for entry in content["instances"]] == [
        (0, "cup", [6, 2, 10, 8]), (1, "jug", [0, 0, 5, 4])]
    assert [(entry["id"], entry["name"], entry["isthing"]) for entry in content["panoptic"]] == [
        (2, "table", False), (1, "jug", True)]
    assert [(entry["class"], entry["name"]) for entry in content["semantic"]] == [(1, "jug"), (2, "table")]
    assert torch.equal(mask_of(content["panoptic"][1]["mask"]), JUG)
    nameless = result_of(output, metadata={}).to_dict()
    assert nameless["instances"][0]["name"] == "0" and result_of(output, metadata={}).to_coco()[0]["category_id"] == 0


def test_drawing(output):
    result = result_of(output)
    untouched = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    for task, pixel in (("instance", (3, 8)), ("panoptic", (3, 8)), ("semantic", (0, 0))):
        drawn = np.asarray(result.draw(task=task))
        assert drawn.shape == (HEIGHT, WIDTH, 3) and (drawn[pixel] != 128).any()
    assert (np.asarray(result.draw(task="instance", threshold=0.9)) == untouched).all()
    assert result.draw(scale=20).size == (20 * WIDTH, 20 * HEIGHT) and (result.image == untouched).all()
    del output["panoptic_seg"]
    with pytest.raises(ValueError, match="panoptic.*the model predicts .'instance', 'semantic'."):
        result_of(output).draw(task="panoptic")

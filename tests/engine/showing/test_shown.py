"""What of a result is shown: the rows of its table, the map of its masks, the files."""
import io
import json
import zipfile

import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances
from PIL import Image

from freqdino.engine.result import Result
from freqdino.engine.showing.shown import id_map, packed, what_is_shown

HEIGHT, WIDTH = 4, 6


def mask(rows, columns):
    """Of the pixels from a row and a column to others, exclusive."""
    found = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    found[slice(*rows), slice(*columns)] = True
    return found


# A cup on 3 x 2 pixels; a jug below it in the list, though better, on 2 x 4, of which they share 2.
CUP, JUG = mask((0, 3), (0, 2)), mask((2, 4), (0, 4))


def instances(with_masks=True):
    found = Instances((HEIGHT, WIDTH), scores=torch.tensor([0.25, 0.75]), pred_classes=torch.tensor([0, 1]),
                      pred_boxes=Boxes(torch.tensor([[0., 0, 2, 3], [0, 2, 4, 4]])))
    if with_masks:
        found.pred_masks = torch.stack([CUP, JUG])
    return found


def panoptic():
    ids = torch.where(JUG, 2, torch.where(CUP, 5, 0)).int()
    return ids, [{"id": 5, "isthing": True, "category_id": 0, "score": 0.25}, {"id": 2, "isthing": True,
                 "category_id": 1, "score": 0.75}]


def result_of(**output):
    return Result(image=np.zeros((HEIGHT, WIDTH, 3), np.uint8), output=output,
                  metadata=Metadata().set(thing_classes=["cup", "jug"], stuff_classes=["cup", "jug", "table"]))


def listed(shown):
    return [(one.id, one.name, one.score, one.box, one.area) for one in shown]


def test_instances():
    result = result_of(instances=instances())
    shown = what_is_shown(result, task="instance", threshold=0.25)
    assert listed(shown) == [(1, "jug", 0.75, [0, 2, 4, 4], 8), (2, "cup", 0.25, [0, 0, 2, 3], 6)]
    # Where they overlap the better one is seen.
    assert id_map(shown, (HEIGHT, WIDTH)).tolist() == [
        [2, 2, 0, 0, 0, 0], [2, 2, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0]]
    assert [one.name for one in what_is_shown(result, task="instance", threshold=0.26)] == ["jug"]
    assert what_is_shown(result, task="instance", threshold=0.76) == []


def test_instances_without_masks_have_the_area_of_their_boxes():
    result = result_of(instances=instances(with_masks=False))
    shown = what_is_shown(result, task="instance", threshold=0)
    assert [(one.area, one.mask) for one in shown] == [(8, None), (6, None)]
    archive = packed(result, shown, task="instance", threshold=0, document="{}")
    assert sorted(zipfile.ZipFile(io.BytesIO(archive)).namelist()) == ["result.json", "shown.json"]


def test_panoptic_segments_keep_their_ids():
    result = result_of(panoptic_seg=panoptic())
    shown = what_is_shown(result, task="panoptic", threshold=0.2)
    # Of the cup 4 pixels are left.
    assert listed(shown) == [(2, "jug", 0.75, [0, 2, 4, 4], 8), (5, "cup", 0.25, [0, 0, 2, 2], 4)]
    assert (id_map(shown, (HEIGHT, WIDTH)) == panoptic()[0].numpy()).all()
    assert [one.id for one in what_is_shown(result, task="panoptic", threshold=0.5)] == [2]


def test_segments_without_a_score_are_shown_at_any_threshold():
    ids, segments = panoptic()
    del segments[0]["score"]
    shown = what_is_shown(result_of(panoptic_seg=(ids, segments)), task="panoptic", threshold=1)
    assert [(one.id, one.score) for one in shown] == [(5, None)]


def test_classes_of_a_semantic_map_have_no_threshold():
    scores = torch.stack([CUP.float(), JUG.float() * 2, torch.full((HEIGHT, WIDTH), 0.5)])
    shown = what_is_shown(result_of(sem_seg=scores), task="semantic", threshold=1)
    assert listed(shown) == [(1, "cup", None, [0, 0, 2, 2], 4), (2, "jug", None, [0, 2, 4, 4], 8),
                             (3, "table", None, [2, 0, 6, 4], 12)]


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_a_task_that_is_not_predicted(task):
    with pytest.raises(ValueError, match=rf"the task {task}: the model predicts \['instance'\]"):
        what_is_shown(result_of(instances=instances()), task=task, threshold=0)


def test_files():
    result = result_of(instances=instances())
    shown = what_is_shown(result, task="instance", threshold=0.5)
    packing = packed(result, shown, task="instance", threshold=0.5, document=json.dumps({"height": 4}))
    with zipfile.ZipFile(io.BytesIO(packing)) as archive:
        assert json.loads(archive.read("result.json")) == {"height": 4}
        assert json.loads(archive.read("shown.json")) == {"task": "instance", "threshold": 0.5, "shown": [
            {"id": 1, "class": 1, "name": "jug", "score": 0.75, "box": [0, 2, 4, 4], "area": 8}]}
        picture = Image.open(io.BytesIO(archive.read("masks.png")))
        assert picture.mode == "I;16" and (np.asarray(picture) == JUG.numpy()).all()

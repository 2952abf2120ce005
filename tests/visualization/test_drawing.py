"""Drawing: names, colours, ignored pixels, ground truth of every kind, pictures in a row."""
import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances
from detectron2.utils.visualizer import Visualizer
from PIL import Image

from freqdino.data.categories import class_colors
from freqdino.visualization import drawing
from freqdino.visualization.drawing import Drawing

GREY = np.full((40, 60, 3), 128, np.uint8)
RED, BLUE = [255, 0, 0], [0, 0, 255]
NAMED = {"thing_classes": ["cat", "dog"], "thing_colors": [RED, BLUE], "stuff_classes": ["sky", "sea"],
         "stuff_colors": [BLUE, RED], "ignore_label": 255}
LEFT = np.tile(np.arange(60) < 30, (40, 1))


@pytest.fixture
def words(monkeypatch):
    found = []
    monkeypatch.setattr(Visualizer, "draw_text", lambda self, text, *_, **__: found.append(text))
    return found


@pytest.fixture
def canvas():
    return Drawing(GREY, Metadata().set(**NAMED))


def blend(color, opacity, base=128):
    return np.array([round(opacity * channel + (1 - opacity) * base) for channel in color])


def test_objects_have_their_class_names_colours_and_scores(canvas, words):
    canvas.draw_objects([1, 0], masks=[LEFT, ~LEFT], scores=[0.876, 0.5])
    assert sorted(words) == ["cat 50%", "dog 88%"]
    assert np.abs(canvas.image[20, 15] - blend(BLUE, 0.5)).max() <= 2
    assert np.abs(canvas.image[20, 45] - blend(RED, 0.5)).max() <= 2


def test_objects_of_one_class_differ_in_colour(canvas, words):
    """The first is red, the second 0.618 of the circle further: hue 222.5 degrees, 0.708 of the way from cyan (180) to
    blue (240), which has 1 - 0.708 of green left."""
    canvas.draw_objects([0, 0], masks=[LEFT, ~LEFT])
    assert np.abs(canvas.image[20, 15] - blend(RED, 0.5)).max() <= 2
    green = 1 - (0.6180339887 * 6 - 3)
    assert np.abs(canvas.image[20, 45] - blend([0, green * 255, 255], 0.5)).max() <= 2


@pytest.mark.parametrize("color", [RED, [0, 0, 70], [0, 0, 0], [255, 255, 255], [128, 128, 128]])
def test_colours_of_many_objects_can_be_told_apart(color):
    """Twelve objects of a class: by eye colours differ where a channel does by a tenth."""
    colors = np.array([drawing.object_color(np.array(color) / 255, number) for number in range(12)])
    assert ((colors >= 0) & (colors <= 1)).all() and np.allclose(colors[0], np.array(color) / 255)
    differences = np.abs(colors[:, None] - colors).max(axis=2) + np.eye(12)
    assert differences.min() >= 0.1


def test_objects_have_the_same_colours_every_time(canvas, words):
    again = Drawing(GREY, Metadata().set(**NAMED))
    boxes = np.array([[1, 1, 20, 30], [22, 1, 40, 30], [42, 1, 58, 30]])
    for each in (canvas, again):
        each.draw_objects([0, 0, 0], boxes=boxes)
    assert np.array_equal(canvas.image, again.image)


def test_regions_have_the_names_of_stuff(canvas, words):
    canvas.draw_regions([0], [LEFT])
    assert words == ["sky"]
    assert np.abs(canvas.image[20, 15] - blend(BLUE, 0.6)).max() <= 2
    assert (canvas.image[20, 35:] == 128).all()


def test_ignored_pixels_of_a_label_map_stay_as_they_are(canvas, words):
    assert canvas.draw_label_map(np.where(LEFT, 1, 255)) == 1
    assert words == ["sea"] and (canvas.image[:, 35:] == 128).all()


def test_numbers_and_colours_of_unknown_classes(words):
    canvas = Drawing(GREY, Metadata())
    canvas.draw_segments(np.where(LEFT, 1, 2), [
        {"id": 1, "isthing": True, "category_id": 7, "score": 0.5}, {"id": 2, "isthing": False, "category_id": 3}])
    assert sorted(words) == ["3", "7 50%"]
    assert np.abs(canvas.image[20, 15] - blend(class_colors(9)[7], 0.5)).max() <= 2


def test_nothing_to_draw(canvas):
    canvas.draw_objects([], masks=[], boxes=np.zeros((0, 4)), scores=[])
    canvas.draw_objects([], masks=[])
    canvas.draw_regions([], [])
    canvas.draw_segments(np.zeros((40, 60), int), [])
    assert (canvas.image == GREY).all()


def test_scale():
    assert Drawing(GREY, Metadata(), scale=1.5).image.shape == (60, 90, 3)


def test_masks_and_boxes_of_predictions(canvas, words):
    """Detectors without masks draw boxes; scores below the threshold are left out."""
    instances = Instances((40, 60), pred_boxes=Boxes(torch.tensor([[5.0, 5, 25, 35], [30, 5, 55, 35]])),
                          scores=torch.tensor([0.5, 0.49]), pred_classes=torch.tensor([0, 1]))
    count = drawing.draw_prediction(canvas, {"instances": instances}, "instance", threshold=0.5)
    assert count == "1 instances" and words == ["cat 50%"]
    assert (canvas.image[10:30, 10:20] == 128).all() and (canvas.image[10:30, 3:8] != 128).any()


@pytest.mark.parametrize(("task", "annotation"), [
    ("instance", {"segmentation": [[0, 0, 30, 0, 30, 40, 0, 40]]}),
    ("instance", {"segmentation": {"size": [40, 60], "counts": [0, 1200, 1200]}}),
    ("instance", {"bbox": [0, 0, 30, 40], "bbox_mode": BoxMode.XYWH_ABS}),
    ("box", {"segmentation": [[0, 0, 30, 0, 30, 40]], "bbox": [0, 0, 30, 40], "bbox_mode": BoxMode.XYWH_ABS})])
def test_ground_truth_of_instances(canvas, words, task, annotation):
    record = {"file_name": "x.png", "annotations": [{"category_id": 0, **annotation}]}
    drawing.draw_ground_truth(canvas, record, task, Metadata())
    assert words == ["cat"]
    assert (canvas.image[15, 15] != 128).any() == (task == "instance" and "segmentation" in annotation)
    assert (canvas.image[:, 35:] == 128).all() and (canvas.image[:, 28:33] != 128).any()


def test_record_without_objects(canvas):
    drawing.draw_ground_truth(canvas, {"file_name": "x.png", "annotations": []}, "instance", Metadata())
    assert (canvas.image == GREY).all()


def test_ground_truth_that_is_not_there(canvas):
    with pytest.raises(ValueError, match="x.png has no semantic ground truth .'sem_seg_file_name'"):
        drawing.draw_ground_truth(canvas, {"file_name": "x.png"}, "semantic", Metadata())


def test_semantic_ground_truth(canvas, words, tmp_path):
    Image.fromarray(np.where(LEFT, 0, 255).astype(np.uint8)).save(tmp_path / "x.png")
    drawing.draw_ground_truth(canvas, {"file_name": "x", "sem_seg_file_name": str(tmp_path / "x.png")}, "semantic",
                              Metadata())
    assert words == ["sky"]


def test_targets(canvas, words):
    instances = Instances((40, 60), gt_classes=torch.tensor([1]), gt_masks=BitMasks(torch.from_numpy(LEFT)[None]),
                          gt_boxes=Boxes(torch.tensor([[0.0, 0, 30, 40]])))
    drawing.draw_targets(canvas, instances, "stuff")
    assert words == ["sea"] and np.abs(canvas.image[20, 15] - blend(RED, 0.5)).max() <= 2


def test_choose_task():
    assert drawing.choose_task({"sem_seg": 0, "instances": 0}, None) == "instance"
    assert drawing.choose_task({"sem_seg": 0, "instances": 0}, "semantic") == "semantic"
    with pytest.raises(ValueError, match=r"the task panoptic: the model predicts \['semantic'\]; its TEST options"):
        drawing.choose_task({"sem_seg": 0}, "panoptic")


def test_side_by_side():
    row = drawing.side_by_side([np.zeros((2, 3, 3), np.uint8), np.ones((4, 1, 3), np.uint8)])
    assert row.shape == (4, 4, 3)
    assert (row[2:, :3] == 255).all() and (row[:2, :3] == 0).all() and (row[:, 3] == 1).all()


def test_labels_near_an_edge_are_moved_inside():
    grey = np.full((120, 200, 3), 128, np.uint8)
    picture = Drawing(grey, Metadata().set(thing_classes=["a long name", "wide " * 40]))
    corners = [[0, 0, 6, 6], [194, 0, 200, 6], [0, 114, 6, 120], [194, 114, 200, 120]]
    masks = np.zeros((4, 120, 200), bool)
    for mask, (left, top, right, bottom) in zip(masks, corners):
        mask[top:bottom, left:right] = True
    picture.draw_objects([0, 0, 0, 0], masks=list(masks))
    picture.draw_objects([1], masks=[masks.any(axis=0)])
    assert picture.image.shape == (120, 200, 3)
    *inside, wide = [text.get_bbox_patch().get_window_extent() for text in picture._visualizer.output.ax.texts]
    assert len(inside) == 4
    for label in inside:
        assert label.x0 > -1 and label.x1 < 201 and label.y0 > -1 and label.y1 < 121
    assert abs(wide.x0) < 1 and wide.x1 > 200

"""How well a prediction fits an image, by hand, and which images the report shows for it."""

import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image

from freqdino.analysis.report import sections
from freqdino.analysis.report.image_scores import score_image
from freqdino.data.image_reading import read_image
from freqdino.data.panoptic_png import id_to_rgb
from freqdino.engine.result import Result

HEIGHT, WIDTH = 20, 40
LEFT = np.tile(np.arange(WIDTH) < WIDTH // 2, (HEIGHT, 1))
PANOPTIC = Metadata().set(thing_dataset_id_to_contiguous_id={1: 0}, ignore_label=255)


@pytest.fixture
def panoptic_record(tmp_path):
    Image.fromarray(id_to_rgb(np.where(LEFT, 7, 9))).save(tmp_path / "segments.png")
    return {"file_name": "x.png", "pan_seg_file_name": str(tmp_path / "segments.png"),
            "segments_info": [{"id": 7, "category_id": 0}, {"id": 9, "category_id": 1}]}


def test_panoptic_score(panoptic_record):
    """The thing is found with an IoU of 3/4, the stuff not at all: PQ is (0.75 + 0) / 2."""
    ids = torch.from_numpy(np.where(LEFT & (np.arange(WIDTH) < 15), 1, 0))
    output = {"panoptic_seg": (ids, [{"id": 1, "isthing": True, "category_id": 0, "score": 0.9}])}
    assert score_image(output, panoptic_record, "panoptic", PANOPTIC) == pytest.approx(37.5)


def test_panoptic_classes_that_are_counted_apart(panoptic_record):
    """Thing 0 and stuff 0 are two classes: predicting the one where the other is gives nothing."""
    panoptic_record["segments_info"] = [{"id": 7, "category_id": 0, "isthing": True},
                                        {"id": 9, "category_id": 0, "isthing": False}]
    ids = torch.from_numpy(np.where(LEFT, 1, 2))
    right, wrong = ([{"id": 1, "isthing": isthing, "category_id": 0},
                     {"id": 2, "isthing": not isthing, "category_id": 0}] for isthing in (True, False))
    assert score_image({"panoptic_seg": (ids, right)}, panoptic_record, "panoptic", PANOPTIC) == 100
    assert score_image({"panoptic_seg": (ids, wrong)}, panoptic_record, "panoptic", PANOPTIC) == 0


def instances(*, masks=None, boxes, scores, classes):
    fields = {"pred_boxes": Boxes(torch.tensor(boxes, dtype=torch.float32)), "scores": torch.tensor(scores),
              "pred_classes": torch.tensor(classes)}
    if masks is not None:
        fields["pred_masks"] = torch.from_numpy(np.stack(masks))
    return {"instances": Instances((HEIGHT, WIDTH), **fields)}


HALF = LEFT & (np.arange(WIDTH) < 10)
OBJECTS = [{"category_id": 0, "segmentation": [[0, 0, 20, 0, 20, 20, 0, 20]], "bbox": [0, 0, 20, 20],
            "bbox_mode": BoxMode.XYWH_ABS},
           {"category_id": 1, "segmentation": {"size": [HEIGHT, WIDTH], "counts": [400, 400]},
            "bbox": [20, 0, 20, 20], "bbox_mode": BoxMode.XYWH_ABS},
           {"category_id": 0, "iscrowd": 1, "segmentation": [[0, 0, 40, 0, 40, 20]]}]


def test_instance_score_of_masks():
    """The left object is covered to one half, the right one by an instance of another class: (1/2 + 0) / 2."""
    output = instances(masks=[HALF, ~LEFT, LEFT], boxes=[[0] * 4] * 3, scores=[0.9, 0.8, 0.4], classes=[0, 0, 0])
    assert score_image(output, {"annotations": OBJECTS}, "instance", Metadata()) == pytest.approx(25)


def test_instance_score_of_boxes():
    output = instances(boxes=[[0, 0, 20, 20], [20, 0, 40, 10]], scores=[0.9, 0.8], classes=[0, 1])
    assert score_image(output, {"annotations": OBJECTS[:2]}, "instance", Metadata()) == pytest.approx(75)


def test_instance_score_without_predictions_or_objects():
    nothing = instances(masks=[LEFT], boxes=[[0] * 4], scores=[0.1], classes=[0])
    assert score_image(nothing, {"annotations": OBJECTS}, "instance", Metadata()) == 0
    assert score_image(nothing, {"annotations": OBJECTS[2:]}, "instance", Metadata()) is None


def test_semantic_score(tmp_path):
    """Class 0: 200 of 400 pixels; class 1: none of 200 predicted; the right half is ignored."""
    Image.fromarray(np.where(LEFT, 0, 255).astype(np.uint8)).save(tmp_path / "labels.png")
    scores = torch.stack([torch.from_numpy(HALF), torch.from_numpy(~HALF), torch.zeros(HEIGHT, WIDTH).bool()]).float()
    record = {"sem_seg_file_name": str(tmp_path / "labels.png")}
    assert score_image({"sem_seg": scores}, record, "semantic", PANOPTIC) == pytest.approx((50 + 0) / 2)
    Image.fromarray(np.full((HEIGHT, WIDTH), 255, np.uint8)).save(tmp_path / "labels.png")
    assert score_image({"sem_seg": scores}, record, "semantic", PANOPTIC) is None


def test_best_and_worst_images(tmp_path):
    """Five images, of which the model finds 1, 2, ... 5 fifths of the object; one of them has no object."""
    records = []
    for number in range(1, 6):
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), number, np.uint8)).save(tmp_path / f"{number}.png")
        records.append({"file_name": str(tmp_path / f"{number}.png"), "annotations": OBJECTS[:1]})
    records[2] = {**records[2], "annotations": []}

    def predict(path):
        image = read_image(path, "RGB")
        mask = np.tile(np.arange(WIDTH) < 4 * image[0, 0, 0], (HEIGHT, 1))
        output = instances(masks=[mask], boxes=[[0] * 4], scores=[0.9], classes=[0])
        return Result(image=image, output=output, metadata=Metadata())

    text = sections.images_section(predict, records, 4)
    best, worst = text.split("Best")[1].split("Worst")
    assert [part.split("<")[0] for part in best.split("<figcaption>")[1:]] == ["5.png: 100.0", "4.png: 80.0"]
    assert [part.split("<")[0] for part in worst.split("<figcaption>")[1:]] == ["1.png: 20.0", "2.png: 40.0"]
    assert "Of the first 5 images" in text and "1 without ground truth are left out" in text


def test_no_common_task():
    with pytest.raises(ValueError, match=r"x: the model predicts \['semantic'\], .* ground truth for \['instance'\]"):
        sections.choose_common_task({"sem_seg": 0}, {"file_name": "x", "annotations": []})
    record = {"file_name": "x", "annotations": [], "sem_seg_file_name": "y"}
    assert sections.choose_common_task({"sem_seg": 0, "panoptic_seg": 0}, record) == "semantic"

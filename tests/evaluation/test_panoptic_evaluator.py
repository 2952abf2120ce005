"""Panoptic evaluator: what a model emits becomes COCO files and the right numbers."""
import json

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from PIL import Image

from freqdino.data.panoptic_png import id_to_rgb, rgb_to_id
from freqdino.evaluation.panoptic_evaluator import PanopticEvaluator

# A thing class between two stuff classes: the contiguous thing ids do not start at 0.
CATEGORIES = [{"id": 10, "name": "sky", "isthing": 0}, {"id": 20, "name": "cat", "isthing": 1},
              {"id": 30, "name": "grass", "isthing": 0}]
TRUTH = np.array([[1, 1, 2, 2], [1, 1, 3, 3], [4, 4, 4, 4]])  # sky, cat, cat, grass


@pytest.fixture
def dataset(tmp_path):
    """A registered dataset with the images 1 and 2, both with the ground truth TRUTH."""
    name = "panoptic_evaluator_test"
    (tmp_path / "truth").mkdir()
    annotations = []
    for image_id in (1, 2):
        Image.fromarray(id_to_rgb(TRUTH)).save(tmp_path / "truth" / f"{image_id}_gt.png")
        info = [{"id": i, "category_id": category} for i, category in ((1, 10), (2, 20), (3, 20), (4, 30))]
        annotations.append({"image_id": image_id, "file_name": f"{image_id}_gt.png", "segments_info": info})
    path = tmp_path / "truth.json"
    path.write_text(json.dumps({"annotations": annotations, "categories": CATEGORIES}))
    MetadataCatalog.get(name).set(panoptic_json=str(path), panoptic_root=str(tmp_path / "truth"), label_divisor=100,
                                  thing_dataset_id_to_contiguous_id={20: 1},
                                  stuff_dataset_id_to_contiguous_id={10: 0, 30: 2})
    return name


def model_output(ids=TRUTH, classes=((1, 0, False), (2, 1, True), (3, 1, True), (4, 2, False))):
    info = [{"id": i, "category_id": category, "isthing": thing, "score": 0.9} for i, category, thing in classes]
    return {"panoptic_seg": (torch.as_tensor(np.asarray(ids), dtype=torch.int32), info)}


def evaluate(evaluator, *outputs):
    evaluator.reset()
    for image_id, output in enumerate(outputs, start=1):
        evaluator.process([{"image_id": image_id, "file_name": f"/images/{image_id}.jpg"}], [output])
    return evaluator.evaluate()["panoptic_seg"]


def test_perfect_predictions(dataset, tmp_path):
    result = evaluate(PanopticEvaluator(dataset, output_dir=str(tmp_path / "out")), model_output(), model_output())
    assert result == dict.fromkeys(["PQ", "SQ", "RQ", "PQ_th", "SQ_th", "RQ_th", "PQ_st", "SQ_st", "RQ_st", "PQ-sky",
                                    "PQ-cat", "PQ-grass"], 100)
    written = json.loads((tmp_path / "out" / "panoptic_predictions.json").read_text())
    assert [a["image_id"] for a in written["annotations"]] == [1, 2]
    assert written["annotations"][0]["segments_info"][1] == {"id": 2, "category_id": 20}
    picture = np.asarray(Image.open(tmp_path / "out" / "panoptic_predictions" / written["annotations"][0]["file_name"]))
    assert (rgb_to_id(picture) == TRUTH).all()


def test_missed_objects(dataset):
    # Image 2 has everything void: its sky, grass and both cats are missed. Each RQ is then n / (n + n / 2).
    nothing = model_output(np.zeros_like(TRUTH), ())
    result = evaluate(PanopticEvaluator(dataset), model_output(), nothing)
    for metric in ("PQ", "RQ", "PQ_th", "PQ_st", "PQ-cat"):
        assert result[metric] == pytest.approx(200 / 3)
    assert result["SQ"] == 100


def test_reset_forgets(dataset):
    evaluator = PanopticEvaluator(dataset)
    evaluate(evaluator, model_output(), model_output())
    assert evaluate(evaluator, model_output(), model_output())["PQ"] == 100


def test_panoptic_ids_without_segments_info(dataset):
    # category * label_divisor + instance with contiguous categories, -1 for void; sky's id 0 is no void here.
    labels = np.array([[0, 0, 101, 101], [0, 0, 102, 102], [200, 200, 200, -1]])
    result = evaluate(PanopticEvaluator(dataset), *[{"panoptic_seg": (torch.as_tensor(labels), None)}] * 2)
    assert (result["PQ_th"], result["PQ-sky"]) == (100, 100)
    assert result["PQ-grass"] == pytest.approx(75)  # 3 of 4 pixels


def test_category_ids_of_the_dataset_where_isthing_is_absent(dataset):
    output = model_output()
    for segment, category in zip(output["panoptic_seg"][1], (10, 20, 20, 30)):
        del segment["isthing"]
        segment["category_id"] = category
    assert evaluate(PanopticEvaluator(dataset), output, output)["PQ"] == 100


def test_image_ids_may_be_text_in_the_file(dataset, tmp_path):
    path = tmp_path / "truth.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        annotation["image_id"] = str(annotation["image_id"])
    path.write_text(json.dumps(content))
    assert evaluate(PanopticEvaluator(dataset), model_output(), model_output())["PQ"] == 100


def test_ground_truth_with_folders_and_repeated_names_is_left_alone(dataset, tmp_path):
    # One file serves both images, once by its absolute path: predictions must not be written over it or each other.
    path = tmp_path / "truth.json"
    content = json.loads(path.read_text())
    for annotation, name in zip(content["annotations"], ("1_gt.png", str(tmp_path / "truth" / "1_gt.png"))):
        annotation["file_name"] = name
    path.write_text(json.dumps(content))
    before = (tmp_path / "truth" / "1_gt.png").read_bytes()
    nothing = model_output(np.zeros_like(TRUTH), ())
    result = evaluate(PanopticEvaluator(dataset, output_dir=str(tmp_path / "out")), model_output(), nothing)
    assert result["RQ"] == pytest.approx(200 / 3)
    assert (tmp_path / "truth" / "1_gt.png").read_bytes() == before


@pytest.mark.parametrize(("output", "message"), [
    ({"sem_seg": 0}, r"image 1 of panoptic_evaluator_test: .* has no 'panoptic_seg', only \['sem_seg'\].*PANOPTIC_ON"),
    (model_output(classes=((1, 5, True),)), r"image 1 of .*: segment 1 has thing class 5, but the thing .* are \[1\]"),
    (model_output(classes=((1, 1, False),)), r"segment 1 has stuff class 1, but the stuff classes .* are \[0, 2\]"),
    (model_output(-TRUTH), "image 1 of .*: segment ids must lie in 0"),
])
def test_bad_output(dataset, output, message):
    with pytest.raises(ValueError, match=message):
        evaluate(PanopticEvaluator(dataset), output)


def test_images_that_do_not_fit_the_ground_truth(dataset):
    evaluator = PanopticEvaluator(dataset)
    with pytest.raises(ValueError, match=r"no prediction for 1 images \(2\)"):
        evaluate(evaluator, model_output())
    with pytest.raises(ValueError, match="image 3 of panoptic_evaluator_test has no ground truth in .*truth.json"):
        evaluate(evaluator, *[model_output()] * 3)


def test_dataset_without_ground_truth(dataset, tmp_path):
    (tmp_path / "truth.json").write_text(json.dumps({"images": [], "categories": CATEGORIES}))
    with pytest.raises(ValueError, match="truth.json holds no annotations"):
        PanopticEvaluator(dataset)
    with pytest.raises(ValueError, match="dataset 'panoptic_evaluator_none' .* no 'panoptic_json'"):
        PanopticEvaluator("panoptic_evaluator_none")

"""Instance AP: worked values, both packages, class tables of every kind, odd ground truth."""
import json
import math

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances

from freqdino.evaluation import instance_evaluator
from freqdino.evaluation.instance_evaluator import InstanceEvaluator, encode_masks

NAME = "instance_evaluator_test"
HEIGHT, WIDTH = 20, 30
CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 9, "name": "dog"}, {"id": 12, "name": "owl"}]


def rectangle(x, y, width, height):
    mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    mask[y:y + height, x:x + width] = True
    return mask


def annotation(number, image_id, category, box, **extra):
    x, y, width, height = box
    polygon = [x, y, x + width, y, x + width, y + height, x, y + height]
    return {"id": number, "image_id": image_id, "category_id": category, "bbox": list(box), "segmentation": [polygon],
            "area": width * height, "iscrowd": 0, **extra}


ANNOTATIONS = [annotation(1, 1, 3, (0, 0, 10, 10)), annotation(2, 1, 9, (10, 0, 10, 10)),
               annotation(3, 2, 3, (0, 0, 10, 10))]


@pytest.fixture
def dataset(tmp_path):
    """A function that registers ground truth and returns the dataset's name."""
    def register(annotations=ANNOTATIONS, **metadata):
        MetadataCatalog.pop(NAME, None)
        path = tmp_path / "truth.json"
        images = [{"id": i, "file_name": f"{i}.jpg", "height": HEIGHT, "width": WIDTH} for i in (1, 2)]
        path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": CATEGORIES}))
        metadata.setdefault("thing_dataset_id_to_contiguous_id", {3: 0, 9: 1, 12: 2})
        MetadataCatalog.get(NAME).set(json_file=str(path), **metadata)
        return NAME
    return register


def predict(*objects):
    """Model output from (class, score, box) triples."""
    boxes = [box for _, _, box in objects]
    instances = Instances((HEIGHT, WIDTH))
    instances.scores = torch.tensor([score for _, score, _ in objects])
    instances.pred_classes = torch.tensor([label for label, _, _ in objects], dtype=torch.int64)
    instances.pred_masks = (torch.stack([rectangle(*box) for box in boxes]).float() if boxes
                            else torch.zeros(0, HEIGHT, WIDTH))
    instances.pred_boxes = Boxes(torch.tensor([(x, y, x + w, y + h) for x, y, w, h in boxes]).float().reshape(-1, 4))
    return {"instances": instances}


def evaluate(evaluator, *outputs):
    evaluator.reset()
    for image_id, output in enumerate(outputs, start=1):
        evaluator.process([{"image_id": image_id, "file_name": f"{image_id}.jpg"}], [output])
    return evaluator.evaluate()


PERFECT = (predict((0, 0.9, (0, 0, 10, 10)), (1, 0.8, (10, 0, 10, 10))), predict((0, 0.7, (0, 0, 10, 10))))
METRICS = {"AP", "AP50", "AP75", "APs", "APm", "APl", "AP-cat", "AP-dog", "AP-owl"}


@pytest.mark.parametrize("fast", [True, False])
def test_perfect_predictions(dataset, tmp_path, fast):
    evaluator = InstanceEvaluator(dataset(), output_dir=str(tmp_path / "out"), use_fast_impl=fast)
    results = evaluate(evaluator, *PERFECT)
    assert list(results) == ["bbox", "segm"]
    for result in results.values():
        assert result.keys() == METRICS
        assert (result["AP"], result["APs"], result["AP-cat"], result["AP-dog"]) == pytest.approx((100,) * 4)
        assert math.isnan(result["AP-owl"]) and math.isnan(result["APm"])  # no ground truth
    written = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert [r["category_id"] for r in written] == [3, 9, 3]
    assert written[1]["bbox"] == [10, 0, 10, 10]
    assert (mask_util.decode(written[1]["segmentation"]) == rectangle(10, 0, 10, 10).numpy()).all()


@pytest.mark.parametrize("fast", [True, False])
def test_worked_values(dataset, fast):
    # cat: one of two objects found, with IoU 0.8, which passes the thresholds 0.5 .. 0.8 (7 of 10). Precision is 1 up
    # to recall 0.5, which are 51 of the 101 recalls. dog: the better of two predictions misses, precision 1/2 at
    # recall 1.
    outputs = predict((0, 0.9, (0, 0, 10, 8)), (1, 0.9, (20, 10, 5, 5)), (1, 0.5, (10, 0, 10, 10))), predict()
    result = evaluate(InstanceEvaluator(dataset(), use_fast_impl=fast), *outputs)["segm"]
    cat50, dog = 100 * 51 / 101, 50
    assert result["AP-cat"] == pytest.approx(0.7 * cat50) and result["AP-dog"] == pytest.approx(dog)
    assert result["AP50"] == result["AP75"] == pytest.approx((cat50 + dog) / 2)
    assert result["AP"] == pytest.approx((0.7 * cat50 + dog) / 2)


def test_both_packages_agree_on_random_predictions(dataset):
    generator = np.random.default_rng(0)

    def boxes(count):
        corner = generator.integers(0, (15, 10), (count, 2))
        return np.concatenate([corner, generator.integers(3, 10, (count, 2))], axis=1).tolist()
    annotations = [annotation(i, 1 + i % 2, int(generator.choice([3, 9, 12])), box, iscrowd=int(i % 7 == 3))
                   for i, box in enumerate(boxes(24))]
    for entry in annotations:
        if entry["iscrowd"]:
            entry["segmentation"], = encode_masks(rectangle(*entry["bbox"])[None])
    outputs = []
    for _ in range(2):
        near = [np.clip(np.array(box) + generator.integers(-1, 2, 4), [0, 0, 1, 1], [29, 19, 12, 12]).tolist()
                for box in boxes(6) + [a["bbox"] for a in annotations]]
        outputs.append(predict(*[(int(generator.integers(3)), float(generator.random()), box) for box in near]))
    name = dataset(annotations)
    fast, slow = (evaluate(InstanceEvaluator(name, use_fast_impl=flag), *outputs) for flag in (True, False))
    assert 1 < slow["segm"]["AP"] < 99
    for task in ("bbox", "segm"):
        assert fast[task] == pytest.approx(slow[task], nan_ok=True)


def test_without_the_fast_package(dataset, monkeypatch):
    monkeypatch.setattr(instance_evaluator, "FastCOCOeval", None)
    assert evaluate(InstanceEvaluator(dataset()), *PERFECT)["segm"]["AP"] == pytest.approx(100)


@pytest.mark.parametrize("fast", [True, False])
def test_no_prediction_at_all(dataset, fast, caplog):
    results = evaluate(InstanceEvaluator(dataset(), use_fast_impl=fast), predict(), predict())
    assert results["segm"].keys() == METRICS and results["segm"]["AP"] == results["bbox"]["AP-cat"] == 0
    assert math.isnan(results["segm"]["AP-owl"])
    assert f"predicted no instance on {NAME}" in caplog.text


def test_thing_classes_need_not_start_at_zero_and_stuff_is_left_out(dataset):
    name = dataset(thing_dataset_id_to_contiguous_id={3: 2, 9: 5, 12: 7},
                   stuff_dataset_id_to_contiguous_id={1: 0, 2: 1, 3: 2, 4: 3})
    evaluator = InstanceEvaluator(name)
    result = evaluate(evaluator, predict((2, 0.9, (0, 0, 10, 10)), (5, 0.9, (10, 0, 10, 10)), (3, 0.9, (0, 0, 30, 20))),
                      predict((2, 0.9, (0, 0, 10, 10))))["segm"]
    assert (result["AP-cat"], result["AP-dog"]) == pytest.approx((100, 100))
    with pytest.raises(ValueError, match=rf"image 1 of {NAME}: .* class 4, but the classes .* are \[2, 5, 7\]"):
        evaluate(evaluator, predict((4, 0.9, (0, 0, 10, 10))))


def test_limit_of_detections(dataset):
    # A false cat comes first; with one detection a class and image, the true one is not seen.
    outputs = (predict((0, 0.9, (20, 10, 5, 5)), (0, 0.8, (0, 0, 10, 10))),) * 2
    name = dataset()
    assert evaluate(InstanceEvaluator(name), *outputs)["segm"]["AP-cat"] == pytest.approx(50, abs=1)
    for fast in (True, False):
        result = evaluate(InstanceEvaluator(name, max_dets_per_image=1, use_fast_impl=fast), *outputs)
        assert result["segm"]["AP-cat"] == 0


@pytest.mark.parametrize("fast", [True, False])
def test_more_than_255_predictions(dataset, fast):
    found = [(0, 0.9, (0, 0, 10, 10)), (1, 0.8, (10, 0, 10, 10))]
    missed = [(2, 0.1, (0, 0, 1 + i % 9, 2)) for i in range(300)]
    evaluator = InstanceEvaluator(dataset(), max_dets_per_image=400, use_fast_impl=fast)
    results = evaluate(evaluator, predict(*found, *missed), predict((0, 0.9, (0, 0, 10, 10))))
    assert results["segm"]["AP"] == pytest.approx(100)     # of the two classes that have ground truth


@pytest.mark.parametrize("tasks", [("bbox",), ("segm",)])
def test_one_task(dataset, tasks):
    output = predict((0, 0.9, (0, 0, 10, 10)))
    output["instances"].remove("pred_masks" if tasks == ("bbox",) else "pred_boxes")
    assert tuple(evaluate(InstanceEvaluator(dataset(), tasks=tasks), output, output)) == tasks


@pytest.mark.parametrize("fast", [True, False])
def test_ground_truth_with_missing_fields_and_id_zero(dataset, fast):
    kept = ("image_id", "category_id", "segmentation")
    bare = [{"id": 0, **{key: entry[key] for key in kept}} for entry in ANNOTATIONS]
    results = evaluate(InstanceEvaluator(dataset(bare), use_fast_impl=fast), *PERFECT)
    for task in ("bbox", "segm"):
        assert (results[task]["AP"], results[task]["APs"]) == pytest.approx((100, 100))


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("ids", [("img_1", "img_2"), ("a", 2), ("001", 1), (10**15, -3)])
def test_image_ids_of_any_type_are_evaluated_as_numbers_are(dataset, tmp_path, fast, ids):
    outputs = (predict((0, 0.9, (0, 0, 10, 10)), (1, 0.8, (10, 0, 9, 10))), predict((0, 0.7, (3, 0, 10, 10))))
    expected = evaluate(InstanceEvaluator(dataset(), use_fast_impl=fast), *outputs)
    path = tmp_path / "truth.json"
    content = json.loads(path.read_text())
    for entry in (*content["images"], *content["annotations"]):
        key = "image_id" if "image_id" in entry else "id"
        entry[key] = ids[entry[key] - 1]
    path.write_text(json.dumps(content))
    evaluator = InstanceEvaluator(NAME, use_fast_impl=fast, output_dir=str(tmp_path))
    for image_id, output in zip(ids, outputs):
        evaluator.process([{"image_id": image_id}], [output])
    found = evaluator.evaluate()
    for task, metrics in expected.items():
        assert found[task] == pytest.approx(metrics, nan_ok=True) and 0 < metrics["AP"] < 100
    written = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert [entry["image_id"] for entry in written] == [ids[0], ids[0], ids[1]]


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("empty", [{}, {"segmentation": []}])
def test_ground_truth_of_boxes_alone(dataset, fast, empty, caplog):
    boxes = [{key: entry[key] for key in ("id", "image_id", "category_id", "bbox")} | empty for entry in ANNOTATIONS]
    with caplog.at_level("INFO"):
        evaluator = InstanceEvaluator(dataset(boxes), use_fast_impl=fast)
    assert "truth.json has no segmentations: boxes alone are evaluated" in caplog.text
    results = evaluate(evaluator, *PERFECT)     # the predictions have masks, too
    assert list(results) == ["bbox"]
    assert (results["bbox"]["AP"], results["bbox"]["APs"]) == pytest.approx((100, 100))
    with pytest.raises(ValueError, match="annotation without segmentation on image 1"):
        InstanceEvaluator(dataset(boxes), tasks=("bbox", "segm"))


def test_dataset_registered_from_python(tmp_path):
    name = "instance_evaluator_python"
    records = [{"file_name": "1.jpg", "image_id": 1, "height": HEIGHT, "width": WIDTH, "annotations": [
        {"bbox": [0, 0, 10, 10], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0,
         "segmentation": ANNOTATIONS[0]["segmentation"]}]}]
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).thing_classes = ["cat"]
    evaluator = InstanceEvaluator(name, output_dir=str(tmp_path))
    assert evaluate(evaluator, PERFECT[1])["segm"]["AP"] == pytest.approx(100)
    with pytest.raises(ValueError, match=f"dataset '{name}' cannot be evaluated: its metadata has no 'json_file'"):
        InstanceEvaluator(name)


def test_masks_are_encoded_as_they_are():
    masks = torch.rand(5, 7, 11) > 0.5
    masks[1], masks[2] = False, True
    for variant in (masks, masks.float(), masks.to(torch.uint8) * 255):
        encoded = encode_masks(variant)
        assert all((mask_util.decode(rle) == mask.numpy()).all() for rle, mask in zip(encoded, masks, strict=True))
    assert json.dumps(encoded)
    assert encode_masks(masks[:0]) == []


@pytest.mark.parametrize(("change", "message"), [
    (lambda output: output.pop("instances"), rf"image 1 of {NAME}: .* no 'instances', only \[\].*INSTANCE_ON"),
    (lambda output: output["instances"].remove("pred_masks"), "image 1 .* no 'pred_masks', which task 'segm' needs"),
    (lambda output: output["instances"].scores.fill_(math.nan), "image 1 of .* score that is not finite"),
])
def test_bad_output(dataset, change, message):
    output = predict((0, 0.9, (0, 0, 10, 10)))
    change(output)
    with pytest.raises(ValueError, match=message):
        evaluate(InstanceEvaluator(dataset()), output)


def test_unknown_image(dataset):
    with pytest.raises(ValueError, match="image 3 of .* is not among the images of .*truth.json"):
        evaluate(InstanceEvaluator(dataset()), *[predict()] * 3)


@pytest.mark.parametrize(("annotations", "message"), [
    ([], "truth.json holds no annotations: there is no ground truth"),
    ([annotation(8, 5, 3, (0, 0, 1, 1))], "truth.json: annotation 8 belongs to image 5, which the file does not have"),
    ([{"id": 8, "image_id": 1, "category_id": 3}], "annotation 8 has neither segmentation nor bbox"),
    (ANNOTATIONS[1:] + [annotation(8, 1, 3, (0, 0, 1, 1), segmentation=[])],
     r"has an annotation without segmentation on image 1: masks are .* boxes alone where none has, .*'bbox',"),
])
def test_bad_ground_truth(dataset, annotations, message):
    with pytest.raises(ValueError, match=message):
        InstanceEvaluator(dataset(annotations))


def test_bad_arguments(dataset):
    name = dataset()
    with pytest.raises(ValueError, match=r"tasks must be some of \['bbox', 'segm'\], got \['mask'\]"):
        InstanceEvaluator(name, tasks=("mask",))
    with pytest.raises(ValueError, match="max_dets_per_image must be at least 1, got 0"):
        InstanceEvaluator(name, max_dets_per_image=0)
    with pytest.raises(ValueError, match=r"truth.json has no category \[77\]"):
        InstanceEvaluator(dataset(thing_dataset_id_to_contiguous_id={77: 0}))


ROW = [annotation(n + 1, 1, 3, (7 * n, 0, 5, 5)) for n in range(3)]


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("limit, share", [(2, 67 / 101), (3, 1)])
def test_the_limit_of_predictions_counts_and_is_said(dataset, fast, limit, share, caplog):
    """Three objects found: with two that count, precision is 1 up to recall 2/3, the first 67 of the 101 recalls."""
    with caplog.at_level("INFO", "freqdino"):
        evaluator = InstanceEvaluator(dataset(ROW), use_fast_impl=fast, max_dets_per_image=limit)
    result = evaluate(evaluator, predict(*((0, 0.9 - n / 10, (7 * n, 0, 5, 5)) for n in range(3))), predict())
    assert result["segm"]["AP-cat"] == pytest.approx(100 * share)
    said = [record.getMessage() for record in caplog.records]
    assert any(f"At most {limit} predictions of a class count" in line for line in said)
    warned = [line for line in said if "has up to 3 objects of a class in an image, more than the 2" in line]
    assert len(warned) == (limit == 2) and all("TEST.DETECTIONS_PER_IMAGE" in line for line in warned)


def test_the_published_limit_is_not_said(dataset, caplog):
    with caplog.at_level("INFO", "freqdino"):
        InstanceEvaluator(dataset())
    assert not [record for record in caplog.records if "DETECTIONS_PER_IMAGE" in record.getMessage()]

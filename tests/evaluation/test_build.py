"""build_evaluator: which evaluators a dataset and a model get, and what is said where none fits."""
import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from freqdino.evaluation import build
from freqdino.evaluation.build import TASKS, build_evaluator
from freqdino.evaluation.instance_evaluator import InstanceEvaluator
from freqdino.evaluation.panoptic_evaluator import PanopticEvaluator
from freqdino.evaluation.semantic_evaluator import SemanticEvaluator

NAME = "build_evaluator_test"


@pytest.fixture
def dataset(tmp_path):
    """A function that registers one image with ground truth of every task as the given evaluator_type."""
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "labels.png")
    categories = [{"id": 5, "name": "cat", "isthing": 1}, {"id": 6, "name": "sky", "isthing": 0}]
    (tmp_path / "panoptic.json").write_text(json.dumps({"categories": categories, "annotations": [
        {"image_id": 1, "file_name": "1.png", "segments_info": []}]}))
    (tmp_path / "instances.json").write_text(json.dumps({
        "categories": categories[:1], "images": [{"id": 1, "height": 4, "width": 4}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 5, "segmentation": [[0, 0, 2, 0, 2, 2]]}]}))
    DatasetCatalog.register(NAME, lambda: [{"file_name": "1.jpg", "sem_seg_file_name": str(tmp_path / "labels.png")}])

    def register(kind, without=()):
        MetadataCatalog.pop(NAME, None)
        metadata = dict(
            evaluator_type=kind, sem_seg_root=str(tmp_path), json_file=str(tmp_path / "instances.json"),
            panoptic_root=str(tmp_path), ignore_label=255,
            panoptic_json=str(tmp_path / "panoptic.json"), stuff_classes=["cat", "sky"],
            thing_dataset_id_to_contiguous_id={5: 0}, stuff_dataset_id_to_contiguous_id={6: 1})
        MetadataCatalog.get(NAME).set(**{key: value for key, value in metadata.items() if key not in without})
        return NAME
    return register


def chosen(name, tasks=TASKS):
    return [type(evaluator) for evaluator in build_evaluator(name, tasks=tasks, output_dir=None)._evaluators]


@pytest.mark.parametrize(("kind", "expected"), [
    ("coco", [InstanceEvaluator]),
    ("sem_seg", [SemanticEvaluator]),
    ("coco_panoptic_seg", [SemanticEvaluator, InstanceEvaluator, PanopticEvaluator]),
    ("ade20k_panoptic_seg", [SemanticEvaluator, InstanceEvaluator, PanopticEvaluator]),
])
def test_evaluators_of_a_model_with_every_task(dataset, kind, expected):
    assert chosen(dataset(kind)) == expected


@pytest.mark.parametrize(("task", "expected"), [
    ("semantic", SemanticEvaluator), ("instance", InstanceEvaluator), ("panoptic", PanopticEvaluator)])
def test_a_model_with_one_task(dataset, task, expected):
    assert chosen(dataset("coco_panoptic_seg"), [task]) == [expected]


def test_cityscapes_panoptic_needs_no_other_package(dataset):
    assert chosen(dataset("cityscapes_panoptic_seg"), ["panoptic"]) == [PanopticEvaluator]


@pytest.mark.parametrize(("kind", "task", "package"), [
    ("cityscapes_instance", "instance", "cityscapesscripts"), ("cityscapes_sem_seg", "semantic", "cityscapesscripts"),
    ("cityscapes_panoptic_seg", "instance", "cityscapesscripts"), ("lvis", "instance", "lvis")])
def test_missing_package(dataset, monkeypatch, kind, task, package):
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=f"evaluating '{NAME}' needs the package {package}: pip install {package}"):
        chosen(dataset(kind), [task])


@pytest.mark.parametrize(("kind", "tasks"), [("coco", ["semantic", "panoptic"]), ("sem_seg", ["instance"]),
                                             ("coco_panoptic_seg", [])])
def test_nothing_to_evaluate(dataset, kind, tasks):
    with pytest.raises(ValueError) as error:
        chosen(dataset(kind), tasks)
    for part in (NAME, kind, str(sorted(tasks)), "INSTANCE_ON"):
        assert part in str(error.value)


def test_panoptic_dataset_without_the_other_ground_truth(dataset, caplog):
    name = dataset("coco_panoptic_seg", without=("json_file", "sem_seg_root"))
    assert chosen(name) == [PanopticEvaluator]
    assert f"instance predictions on {NAME} are not evaluated: its metadata has no json_file" in caplog.text
    assert f"semantic predictions on {NAME} are not evaluated: its metadata has no sem_seg_root" in caplog.text
    with pytest.raises(ValueError, match=r"has ground truth for \['panoptic'\], the model predicts \['instance'\]"):
        chosen(name, ["instance"])


def test_unknown_task_and_type(dataset):
    with pytest.raises(ValueError, match=r"tasks must be some of .*, got \['bbox'\]"):
        chosen(dataset("coco"), ["bbox"])
    with pytest.raises(ValueError, match=f"dataset '{NAME}' has evaluator_type 'cocoo'; known types: .*'coco'"):
        chosen(dataset("cocoo"))
    with pytest.raises(ValueError, match="dataset 'build_evaluator_none' has evaluator_type None"):
        chosen("build_evaluator_none")


@pytest.mark.parametrize("kind", ["coco", "coco_panoptic_seg", "ade20k_panoptic_seg"])
def test_instances_without_masks_are_evaluated_by_their_boxes(dataset, kind):
    evaluators = build_evaluator(dataset(kind), tasks=TASKS, output_dir=None, masks=False)._evaluators
    evaluator, = (evaluator for evaluator in evaluators if isinstance(evaluator, InstanceEvaluator))
    evaluator.reset()
    assert set(evaluator.evaluate()) == {"bbox"}


def test_masks_that_an_evaluation_needs(dataset):
    with pytest.raises(ValueError, match=f"instances of dataset '{NAME}' .* evaluated by their masks"):
        build_evaluator(dataset("cityscapes_instance"), tasks=["instance"], output_dir=None, masks=False)


@pytest.mark.parametrize("kind, masks", [("coco", True), ("coco", False), ("coco_panoptic_seg", True),
                                         ("ade20k_panoptic_seg", False)])
@pytest.mark.parametrize("predicted, counted", [(20, 100), (100, 100), (300, 300)])
def test_more_predictions_than_coco_counts_reach_the_evaluator(dataset, kind, masks, predicted, counted):
    evaluators = build_evaluator(dataset(kind), tasks=["instance"], output_dir=None, masks=masks,
                                 max_detections=predicted)._evaluators
    assert [evaluator._max_detections for evaluator in evaluators] == [counted]


@pytest.mark.parametrize("predicted, counted", [(100, 300), (500, 500)])
def test_lvis_counts_300_predictions_or_more(monkeypatch, predicted, counted):
    arguments = {}
    monkeypatch.setattr(build, "UndefinedAsNan", lambda name, **given: arguments.update(given))
    monkeypatch.setattr(build, "_require_package", lambda package, name: None)
    build.EVALUATORS["lvis"]["instance"]("lvis", output_dir=None, distributed=False, max_detections=predicted)
    assert arguments["max_dets_per_image"] == counted

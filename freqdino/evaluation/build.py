"""Chooses the evaluators of a dataset from its metadata's evaluator_type and what the model predicts.

Source: the rules of the published train_net.py of Mask2Former and Mask DINO.
"""
import importlib.util
import logging
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    CityscapesSemSegEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    LVISEvaluator,
)

from freqdino.evaluation.instance_evaluator import InstanceEvaluator
from freqdino.evaluation.panoptic_evaluator import PanopticEvaluator
from freqdino.evaluation.segment_ground_truth import has_only_segments
from freqdino.evaluation.semantic_evaluator import SemanticEvaluator

logger = logging.getLogger(__name__)

TASKS = ("semantic", "instance", "panoptic")
# Predictions of a class in an image (LVIS: in all) that the published numbers count.
COCO_DETECTIONS, LVIS_DETECTIONS = 100, 300
# Panoptic datasets may come without the ground truth of the other tasks; the metadata's key tells.
GROUND_TRUTH_KEY = {"semantic": "sem_seg_root", "instance": "json_file", "panoptic": "panoptic_json"}


def build_evaluator(dataset_name: str, *, tasks: Collection[str], output_dir: str | None, masks: bool = True,
                    max_detections: int = COCO_DETECTIONS, distributed: bool = True,
                    boundary: bool = False) -> DatasetEvaluators:
    """The evaluators of every task that the model predicts and the dataset has ground truth for.

    A panoptic dataset without instance JSON or semantic maps is evaluated without them, with a warning; of own panoptic
    data the segments take their place.

    Args:
        tasks: what the model predicts, some of "semantic", "instance", "panoptic".
        output_dir: where predictions and results go; None: nowhere.
        masks: whether the model's instances have masks; without them boxes alone are evaluated.
        max_detections: how many instances the model predicts in an image, TEST.DETECTIONS_PER_IMAGE; of a class as
            many count, and 100 (LVIS: 300) where it is less, as published. Cityscapes' scripts count all.
        distributed: gather over all ranks.
        boundary: also Boundary AP of masks, where COCO's AP is computed here, TEST.BOUNDARY_AP.
    Raises ValueError: an unknown task or evaluator type, none of the tasks fits the dataset, the dataset lacks metadata
    or ground truth, or its instances are evaluated by masks and the model has none; ImportError: the evaluation needs a
    package that is not installed; the message says how to install it.
    """
    unknown = set(tasks) - set(TASKS)
    if unknown:
        raise ValueError(f"tasks must be some of {list(TASKS)}, got {sorted(unknown)}")
    kind, known = MetadataCatalog.get(dataset_name).get("evaluator_type"), tasks_with_ground_truth(dataset_name)
    for task in sorted((set(tasks) & EVALUATORS[kind].keys()) - set(known)):
        logger.warning("The %s predictions on %s are not evaluated: its metadata has no %s.", task, dataset_name,
                       GROUND_TRUTH_KEY[task])
    chosen = {task: EVALUATORS[kind][task] for task in known if task in tasks}
    if not chosen:
        raise ValueError(f"nothing to evaluate: dataset {dataset_name!r} (evaluator_type {kind!r}) has ground truth "
                         f"for {known}, the model predicts {sorted(tasks)}; see SEMANTIC_ON, INSTANCE_ON and "
                         "PANOPTIC_ON of the model's TEST options")
    if "instance" in chosen and not masks:
        if kind not in BOX_EVALUATORS:
            raise ValueError(f"the instances of dataset {dataset_name!r} (evaluator_type {kind!r}) are evaluated by "
                             "their masks, which the model does not predict")
        chosen["instance"] = BOX_EVALUATORS[kind]
    settings = {"output_dir": output_dir, "distributed": distributed, "max_detections": max_detections}
    evaluators = [build(dataset_name, **settings) for build in chosen.values()]
    for evaluator in evaluators:
        if isinstance(evaluator, InstanceEvaluator):
            evaluator.boundary = boundary
    return DatasetEvaluators(evaluators)


def tasks_with_ground_truth(dataset_name: str) -> list[str]:
    """Those of TASKS that a data set can be evaluated by. Raises ValueError for an unknown evaluator_type."""
    metadata = MetadataCatalog.get(dataset_name)
    kind = metadata.get("evaluator_type")
    if kind not in EVALUATORS:
        raise ValueError(f"dataset {dataset_name!r} has evaluator_type {kind!r}; known types: {sorted(EVALUATORS)} "
                         f"(set MetadataCatalog.get({dataset_name!r}).evaluator_type)")
    known = [task for task in TASKS if task in EVALUATORS[kind]]
    if kind in ("coco_panoptic_seg", "ade20k_panoptic_seg"):
        known = [task for task in known
                 if metadata.get(GROUND_TRUTH_KEY[task]) or has_only_segments(dataset_name, GROUND_TRUTH_KEY[task])]
    return known


def build_evaluators(dataset_names: Sequence[str], **arguments: Any) -> list[DatasetEvaluators]:
    """`build_evaluator` of every data set, in their order."""
    return [build_evaluator(name, **arguments) for name in dataset_names]


def _own(evaluator: type) -> Callable[..., DatasetEvaluator]:
    return lambda dataset_name, output_dir, distributed, max_detections: evaluator(
        dataset_name, output_dir=output_dir, distributed=distributed)


def _instances(**arguments: Any) -> Callable[..., DatasetEvaluator]:
    return lambda dataset_name, output_dir, distributed, max_detections: InstanceEvaluator(
        dataset_name, output_dir=output_dir, distributed=distributed,
        max_dets_per_image=max(max_detections, COCO_DETECTIONS), **arguments)


def _cityscapes(evaluator: type) -> Callable[..., DatasetEvaluator]:
    """Detectron2's wrappers round the official scripts, which always write to a folder of their own and gather."""
    def build(dataset_name, output_dir, distributed, max_detections):
        _require_package("cityscapesscripts", dataset_name)
        return evaluator(dataset_name)
    return build


class UndefinedAsNan(LVISEvaluator):
    """Detectron2's, which gives -100 where there is no ground truth."""

    def evaluate(self) -> dict[str, dict[str, float]]:
        results = super().evaluate() or {}
        return {task: {name: value if value >= 0 else math.nan for name, value in metrics.items()}
                for task, metrics in results.items()}


def _lvis(dataset_name, output_dir, distributed, max_detections):
    _require_package("lvis", dataset_name)
    return UndefinedAsNan(dataset_name, output_dir=output_dir, distributed=distributed,
                          max_dets_per_image=max(max_detections, LVIS_DETECTIONS))


def _require_package(package, dataset_name):
    if importlib.util.find_spec(package) is None:
        raise ImportError(f"evaluating {dataset_name!r} needs the package {package}: pip install {package}")


EVALUATORS = {
    "coco": {"instance": _instances()},
    "lvis": {"instance": _lvis},
    "sem_seg": {"semantic": _own(SemanticEvaluator)},
    "coco_panoptic_seg": {"semantic": _own(SemanticEvaluator), "instance": _instances(),
                          "panoptic": _own(PanopticEvaluator)},
    "ade20k_panoptic_seg": {"semantic": _own(SemanticEvaluator), "instance": _instances(),
                            "panoptic": _own(PanopticEvaluator)},
    "cityscapes_instance": {"instance": _cityscapes(CityscapesInstanceEvaluator)},
    "cityscapes_sem_seg": {"semantic": _cityscapes(CityscapesSemSegEvaluator)},
    "cityscapes_panoptic_seg": {"semantic": _cityscapes(CityscapesSemSegEvaluator),
                                "instance": _cityscapes(CityscapesInstanceEvaluator),
                                "panoptic": _own(PanopticEvaluator)},
}
# Of instances without masks.
_boxes = _instances(tasks=("bbox",))
BOX_EVALUATORS = {"coco": _boxes, "coco_panoptic_seg": _boxes, "ade20k_panoptic_seg": _boxes, "lvis": _lvis}

"""What an evaluation of a configuration consists of: its evaluators, what is found out before, the augmented model."""
import os
from collections.abc import Callable

from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import GeneralizedRCNNWithTTA
from torch import nn
from tqdm import tqdm

from freqdino.data.catalog import dataset_records, id_of
from freqdino.data.registering import check_dataset_files
from freqdino.engine.validation_loss import NAME as LOSSES
from freqdino.errors import ConfigError
from freqdino.evaluation.build import GROUND_TRUTH_KEY, build_evaluator, build_evaluators, tasks_with_ground_truth
from freqdino.evaluation.results import FOLDER
from freqdino.evaluation.tta import TestTimeAugmentation
from freqdino.registration.predictions import Predictions, how_to_predict

# What the evaluation of a task can be called in its results.
RESULTS = {"semantic": ("sem_seg",), "instance": ("bbox", "segm"), "panoptic": ("panoptic_seg",)}


def evaluators_of(cfg: CfgNode, predictions: Predictions, folder: str) -> list[DatasetEvaluator]:
    """The evaluators of each of DATASETS.TEST, which write into ``folder``."""
    return build_evaluators(cfg.DATASETS.TEST, tasks=predictions.tasks, masks=predictions.masks,
                            max_detections=cfg.TEST.DETECTIONS_PER_IMAGE, boundary=cfg.TEST.BOUNDARY_AP,
                            output_dir=folder)


def check_evaluation(cfg: CfgNode, predictions: Predictions, *, training: bool = True) -> None:
    """Find before training what would end the evaluation after it: builds the evaluators, and lets them go.

    The records are those that `check_datasets` has read.

    Raises ConfigError: a set of DATASETS.TEST has no ground truth for what the model predicts, or TEST.EXPECTED_RESULTS
    or, in training, TEST.KEEP_BEST are of something else than what is evaluated; names the keys;
    ValueError, OSError, ImportError: what stands in the way of an evaluator: files, metadata, packages.
    """
    results = set()
    for name in cfg.DATASETS.TEST:
        known = tasks_with_ground_truth(name)
        evaluated = set(known) & set(predictions.tasks)
        if not evaluated:
            raise ConfigError(f"nothing to evaluate: the data set {name} of DATASETS.TEST has ground truth for "
                              f"{', '.join(known) or 'no task'}, but {cfg.MODEL.META_ARCHITECTURE} predicts "
                              f"{', '.join(predictions.tasks)}; set {how_to_predict(cfg, known)}, or DATASETS.TEST to "
                              "sets with such ground truth, or to () for no evaluation")
        check_dataset_files(name, [GROUND_TRUTH_KEY[task] for task in evaluated])
        results |= {result for task in evaluated for result in RESULTS[task]}
        if cfg.TEST.BOUNDARY_AP and "instance" in evaluated and predictions.masks:
            results.add("boundary")
    _check_expected_results(cfg, results)
    if training:
        _check_best(cfg, results)
    evaluators_of(cfg, predictions, os.path.join(cfg.OUTPUT_DIR, FOLDER))


def evaluate_predictions(predict: Callable[[str], dict], dataset: str, predictions: Predictions, *,
                         max_detections: int) -> dict[str, dict[str, float]]:
    """Task -> metric -> number of what ``predict`` gives for the pictures of a data set, by their files.

    Raises ValueError, OSError: the data set cannot be read or evaluated.
    """
    records = dataset_records(dataset)
    evaluator = build_evaluator(dataset, tasks=predictions.tasks, masks=predictions.masks,
                                max_detections=max_detections, output_dir=None, distributed=False)
    evaluator.reset()
    for record in tqdm(records, unit="image"):
        evaluator.process([{"image_id": id_of(record), **record}], [predict(record["file_name"])])
    return evaluator.evaluate()


def _check_expected_results(cfg, results):
    """Detectron2 looks the tasks of TEST.EXPECTED_RESULTS up in the results of one data set, at the very end."""
    tasks = {task.removesuffix("_TTA") if cfg.TEST.AUG.ENABLED else task for task, *_ in cfg.TEST.EXPECTED_RESULTS}
    if tasks and len(set(cfg.DATASETS.TEST)) != 1:
        raise ConfigError(f"TEST.EXPECTED_RESULTS are those of one data set, DATASETS.TEST is {cfg.DATASETS.TEST}; set "
                          "TEST.EXPECTED_RESULTS to []")
    if tasks - results:
        raise ConfigError(f"TEST.EXPECTED_RESULTS has the task {', '.join(sorted(tasks - results))}; the results of "
                          f"this evaluation are {', '.join(sorted(results))}")


def _check_best(cfg, results):
    """What the results are called; which metrics are in them shows at the first evaluation."""
    sets = tuple(dict.fromkeys(cfg.DATASETS.TEST))
    known = sorted(results) if len(sets) == 1 else [f"{name}/{result}" for name in sets for result in sorted(results)]
    known += [LOSSES] if cfg.TEST.VALIDATION_LOSS else []
    if cfg.TEST.KEEP_BEST and sets and not cfg.TEST.KEEP_BEST.startswith(tuple(f"{result}/" for result in known)):
        raise ConfigError(f"TEST.KEEP_BEST is {cfg.TEST.KEEP_BEST!r}; expected a metric of what is evaluated, "
                          f"{', '.join(f'{result}/...' for result in known)}, as in {known[0]}/"
                          f"{'mIoU' if known[0].endswith('sem_seg') else 'PQ' if 'panoptic' in known[0] else 'AP'}")


def augmented_model(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """The model with the test-time augmentation of TEST.AUG.*; Detectron2's own for its own detectors."""
    if cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN":
        if not cfg.TEST.GROUP_BY_SIZE:
            return GeneralizedRCNNWithTTA(cfg, model)
        return GeneralizedRCNNWithTTA(cfg, model, batch_size=1)     # its augmentations differ in size
    options = cfg.TEST.AUG
    return TestTimeAugmentation(model, min_sizes=options.MIN_SIZES, max_size=options.MAX_SIZE, flip=options.FLIP,
                                max_instances=cfg.TEST.DETECTIONS_PER_IMAGE)

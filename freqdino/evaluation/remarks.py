"""What the evaluators say beside their numbers: classes that a data set lacks, metrics that are undefined and why,
predictions that are empty."""
import logging
from collections.abc import Mapping, Sequence

import numpy as np

from freqdino.errors import first_few

NAMED_AT_MOST = 10
UNDEFINED = "undefined, nan in the log and null in results.json"
# What else than training empties a prediction: the thresholds below which a model leaves its results out.
INSTANCE_THRESHOLDS = "MODEL.ROI_HEADS.SCORE_THRESH_TEST or MODEL.RETINANET.SCORE_THRESH_TEST of Detectron2's models"
SEGMENT_THRESHOLDS = ("OBJECT_MASK_THRESHOLD and OVERLAP_THRESHOLD of MODEL.MASK_FORMER.TEST or MODEL.MaskDINO.TEST, "
                      "MODEL.PANOPTIC_FPN.COMBINE.* of Detectron2's Panoptic FPN")


def say_absent_classes(logger: logging.Logger, dataset: str, absent: Sequence[str], *, what: str, metric: str) -> None:
    """Warn of classes that no ``what`` ("object", ...) of the ground truth has; silent where there are none."""
    if absent:
        logger.warning("The ground truth of %s has no %s of %s: their %s is %s; no mean counts it.", dataset, what,
                       f"{'class' if len(absent) == 1 else 'classes'} {first_few(map(repr, absent), NAMED_AT_MOST)}",
                       metric, UNDEFINED)


def say_undefined(logger: logging.Logger, dataset: str, metrics: Mapping[str, float], reasons: Mapping[str, str]
                  ) -> None:
    """Warn of the metrics that are NaN, each with its reason."""
    why = [f"{name} ({reason})" for name, reason in reasons.items() if np.isnan(metrics[name])]
    if why:
        logger.warning("On %s %s are %s.", dataset, ", ".join(why), UNDEFINED)


def say_empty(logger: logging.Logger, what: str, thresholds: str = "") -> None:
    """Warn that a model predicts nothing on a whole data set, ``what`` in words, and of the keys that may be why."""
    threshold = f"; so does one with a threshold that no score reaches: {thresholds}" if thresholds else ""
    logger.warning("%s. A model that has learnt too little, or whose learning rate is too high, predicts so%s.", what,
                   threshold)

"""What the models of a configuration predict, from which their evaluators follow."""
from collections.abc import Collection
from dataclasses import dataclass

from detectron2.config import CfgNode

from freqdino.config import lookup
from freqdino.config.keys import FAMILY_SECTIONS

TASKS = ("semantic", "instance", "panoptic")
# What Detectron2's own models predict, where it is not instances alone.
DETECTRON2_TASKS = {"PanopticFPN": ("semantic", "instance", "panoptic"), "SemanticSegmentor": ("semantic",)}


@dataclass(frozen=True)
class Predictions:
    """``tasks``: some of semantic, instance, panoptic. ``masks``: whether instances have masks, not boxes alone."""

    tasks: tuple[str, ...]
    masks: bool


def predictions_of(cfg: CfgNode) -> Predictions:
    """Of Detectron2's own models instances have masks with MODEL.MASK_ON, of ours always."""
    architecture = cfg.MODEL.META_ARCHITECTURE
    section = FAMILY_SECTIONS.get(architecture)
    if section is None:
        return Predictions(DETECTRON2_TASKS.get(architecture, ("instance",)), masks=cfg.MODEL.MASK_ON)
    test = lookup(cfg, f"{section}.TEST")
    tasks = tuple(task for task in TASKS if test[f"{task.upper()}_ON"])
    return Predictions(tasks, masks=True)


def how_to_predict(cfg: CfgNode, tasks: Collection[str]) -> str:
    """The settings with which a configuration's model, or another one, predicts these tasks and no others."""
    section = FAMILY_SECTIONS.get(cfg.MODEL.META_ARCHITECTURE)
    if section is not None:
        return ", ".join(f"{section}.TEST.{task.upper()}_ON to {task in tasks}" for task in TASKS)
    able = [name for name, predicted in DETECTRON2_TASKS.items() if set(predicted) == set(tasks)]
    return f"MODEL.META_ARCHITECTURE to one of {', '.join((*FAMILY_SECTIONS, *able))}"

"""What a resumed run takes over from its checkpoint, what from its configuration, and the hooks that this asks for.

The weights, the state of the optimiser, the place in the schedule and in the data, the random states and averages are
the checkpoint's, so that a run that was interrupted ends where one without a pause ends. Rates, weight decay, lengths,
batch and data are the configuration's: what differs from the run's is said, and refused where the weights or the state
of the optimiser would mean something else.
"""
import json
import logging
import os
import re
from collections.abc import Mapping
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode
from detectron2.engine import hooks
from torch import nn

from freqdino.checkpoint.names.version_0_1 import current_name
from freqdino.config.effects import flat_keys
from freqdino.config.keys import lookup
from freqdino.errors import CheckpointError

logger = logging.getLogger(__name__)

# Keys of MODEL under which a network goes on as the same function of its weights: where it runs, what training draws,
# weighs and keeps, and what is made of predictions.
SAME_NETWORK = re.compile(
    r"^MODEL\.(DEVICE|WEIGHTS|WEIGHTS_PARTIAL|OPERATORS|COMPILE)$|\.TEST\.|_TEST$|(_WEIGHT|_WEIGHTS|CHECKPOINT|DROPOUT|DROP_RATE"
    r"|FULL_PRECISION|DROP_PATH_RATE|FREEZE_AT|TRAIN_NUM_POINTS|OVERSAMPLE_RATIO|IMPORTANCE_SAMPLE_RATIO|DN_NUM|DN_NOISE_SCALE"
    r"|BATCH_SIZE_PER_IMAGE|POSITIVE_FRACTION|_TRAIN)$|\.COST_")
# Keys outside MODEL that decide what the state of the optimiser means.
SAME_STATE = ("SOLVER.OPTIMIZER",)
METRICS = "metrics.json"                    # Detectron2's file of metrics, a line of JSON for some iterations
# Where things are, and what the checkpoint's own states rule: no news.
NO_MATTER = ("OUTPUT_DIR", "VERSION", "MODEL.WEIGHTS", "SEED")


def changed_settings(saved: str, cfg: CfgNode) -> dict[str, str]:
    """What ``cfg`` has otherwise than the dumped configuration ``saved``: key -> "KEY old -> new".

    Raises CheckpointError, with the keys, for what another network or another optimiser would be.
    """
    old, new = (CfgNode(yaml.safe_load(text)) for text in (saved, cfg.dump()))      # dumped alike: tuples are lists
    common = {*flat_keys(old)} - {*NO_MATTER}
    changed = {key: f"{key} {lookup(old, key)!r} -> {lookup(new, key)!r}" for key in flat_keys(new)
               if key in common and lookup(old, key) != lookup(new, key)}
    refused = [text for key, text in changed.items()
               if key in SAME_STATE or key.startswith("MODEL.") and not SAME_NETWORK.search(key)]
    if refused:
        raise CheckpointError(f"--resume cannot change {'; '.join(refused)}: the weights and the optimiser's state are "
                              "those of the run. Set it back, or start a new run in another OUTPUT_DIR with this "
                              "one's checkpoint as MODEL.WEIGHTS.")
    return changed


def check_unchanged_classes(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise CheckpointError where the training data have other classes, or another order of them, than the run's."""
    for key in ("thing_classes", "stuff_classes"):
        old, new = list(saved.get(key) or ()), list(now.get(key) or ())
        if old and new and old != new:
            lost, more = ([name for name in a if name not in b] for a, b in ((old, new), (new, old)))
            what = f"without {lost}, with {more}" if lost or more else "in another order"
            raise CheckpointError(f"--resume cannot change DATASETS.TRAIN to data with other {key}: {what}. Start a "
                                  "new run in another OUTPUT_DIR with this one's checkpoint as MODEL.WEIGHTS.")


def check_length(path: str, checkpoint: Mapping[str, Any], max_iter: int) -> None:
    """Raise CheckpointError where a run has more iterations behind it than ``max_iter``, SOLVER.MAX_ITER."""
    done = checkpoint.get("iteration", -1) + 1
    if done > max_iter:
        raise CheckpointError(f"{path} has {done} iterations behind it, SOLVER.MAX_ITER is {max_iter}: nothing is "
                              "left to train. Set it higher, or evaluate the checkpoint with --eval-only.")


def seed_of(saved: str) -> int:
    """The SEED of the dumped configuration ``saved``."""
    return yaml.safe_load(saved)["SEED"]


def parameter_names(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """The names that the optimiser's parameters have in the model's state dict, in the order of its state."""
    names = {id(tensor): name for name, tensor in reversed(model.state_dict(keep_vars=True).items())}
    return [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any], *, saved_names: list[str] | None,
                      names: list[str]) -> list[str]:
    """Give the optimiser what it had learnt about each parameter by name; rates and decays stay its own.

    Returns the names that have no state in the checkpoint and start anew. ``saved_names`` is None for checkpoints of
    version 0.1, whose order has to be this one's. Raises ValueError for a state of another optimiser.
    """
    own, saved = optimizer.state_dict()["param_groups"], state["param_groups"]
    if own[0].keys() != saved[0].keys() and {"betas"} & (own[0].keys() ^ saved[0].keys()):
        raise ValueError("SOLVER.OPTIMIZER is another one than the run's")
    if saved_names is None:
        if [len(group["params"]) for group in own] != [len(group["params"]) for group in saved]:
            raise ValueError("its parameter groups are others, and it does not name its parameters")
        saved_names = names
    numbers = (number for group in saved for number in group["params"])
    old = dict(zip(map(current_name, saved_names), numbers, strict=True))
    kept = {number: state["state"][old[name]] for number, name in enumerate(names) if old.get(name) in state["state"]}
    optimizer.load_state_dict({"state": kept, "param_groups": own})
    return [name for number, name in enumerate(names) if number not in kept] if state["state"] else []


def restore_schedule(scheduler: torch.optim.lr_scheduler.LRScheduler, steps: int) -> None:
    """Put a schedule, whose rates follow from the number of steps alone, where it is after ``steps``."""
    scheduler.last_epoch = steps
    rates = scheduler.get_lr()
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = rates


def forget_metrics(path: str, *, after: int) -> None:
    """Cut off the lines of a run's metrics of iterations ``after`` that one: they were not kept, and come again."""
    if not os.path.isfile(path):
        return
    with open(path, "rb+") as file:             # in place: Detectron2's writer has it open to append
        end = 0
        for line in file:
            try:
                if json.loads(line)["iteration"] > after:
                    break
            except (ValueError, KeyError):      # a line that a kill cut short
                break
            end += len(line)
        file.truncate(end)


class PreciseBN(hooks.PreciseBN):
    """Detectron2's, with the same batches each time: a resumed run computes the statistics of a straight one."""

    def update_stats(self) -> None:
        super().update_stats()
        self._data_iter = None


class Checkpoints(hooks.HookBase):
    """Detectron2's periodic checkpoints, of what all processes have: to be a hook in every one of them.

    After the last iteration, too; then OUTPUT_DIR/model_final.pth has the weights alone that are evaluated.
    """

    def __init__(self, period: int):
        self._period = period

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self._period == 0 or done >= self.trainer.max_iter:
            self.trainer.save_checkpoint()

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:      # else the last step failed
            self.trainer.save_weights("model_final")

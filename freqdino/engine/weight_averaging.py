"""An exponential moving average (EMA) of a model's weights, kept beside it during training.

Source: Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging" (1992), in the exponential form of
`torch.optim.swa_utils`. DINO (arXiv 2203.03605) trains with a decay of 0.9997.
"""
import logging
import os
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from freqdino.checkpoint.files import write_whole
from freqdino.checkpoint.names.version_0_1 import current_name
from freqdino.errors import ArgumentError

FILE_NAME = "model_final_ema.pth"
logger = logging.getLogger(__name__)
Tensors = tuple[Tensor, ...] | list[Tensor]


class WeightAveraging(HookBase):
    """After each step ``model`` ← decay · ``model`` + (1 − decay) · the trained one; buffers too.

    What counts or names (integers and booleans, such as indices of positions and groups) has no average: the trained
    model's is copied.

    To be the first of the trainer's hooks, so that what checkpoints and evaluates comes after it. The average is part
    of the trainer's checkpoints and goes on where they resume.

    Args:
        trained: the model in training, wrapped for several processes or not.
        decay: at least 0 and below 1. Raises ValueError for others.
        output_dir: where the average is written at the end of training, as model_final_ema.pth; None: nowhere, as where
            the trainer itself writes what it evaluates.
    """

    def __init__(self, trained: nn.Module, *, decay: float, output_dir: str | None = None):
        check_decay(decay)
        self._trained = trained.module if isinstance(trained, DistributedDataParallel) else trained
        average = get_ema_multi_avg_fn(decay)

        def average_or_copy(averaged: Tensors, trained: Tensors, count: Tensor | int) -> None:
            """Of tensors of one type."""
            if averaged[0].is_floating_point() or averaged[0].is_complex():
                average(averaged, trained, count)
            else:
                for kept, current in zip(averaged, trained):
                    kept.copy_(current)

        self._average = AveragedModel(self._trained, multi_avg_fn=average_or_copy, use_buffers=True)
        self._output_dir = output_dir

    @property
    def model(self) -> nn.Module:
        """The model with averaged weights."""
        return self._average.module

    def before_train(self) -> None:
        if not self._average.n_averaged:    # the trained model's weights have been loaded since it was copied
            self.model.load_state_dict(self._trained.state_dict())

    def after_step(self) -> None:
        self._average.update_parameters(self._trained)

    def after_train(self) -> None:
        finished = self.trainer.iter + 1 >= self.trainer.max_iter
        if finished and self._output_dir is not None and comm.is_main_process():
            path = os.path.join(self._output_dir, FILE_NAME)
            write_whole(path, lambda file: torch.save({"model": self.model.state_dict()}, file))
            logger.info("Averaged weights saved to %s", path)

    def state_dict(self) -> dict[str, Any]:
        return self._average.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._average.load_state_dict({current_name(name): value for name, value in state_dict.items()})


def check_decay(decay: float) -> None:
    """Raise ValueError for one that `WeightAveraging` cannot work with."""
    if not 0 <= decay < 1:
        raise ArgumentError("decay", f"must be at least 0 and below 1, got {decay}")


def averaged_weights(checkpoint: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """The average that a checkpoint of the trainer keeps, under the model's names; None where it keeps none."""
    state = checkpoint.get("trainer", {}).get("hooks", {}).get(WeightAveraging.__qualname__)
    if state is None:
        return None
    inside = "module."                      # where torch's AveragedModel has its model
    return {current_name(key.removeprefix(inside)): tensor for key, tensor in state.items() if key.startswith(inside)}

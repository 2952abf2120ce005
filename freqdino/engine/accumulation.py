"""Gradient accumulation: an iteration's batch goes through the model in parts, whose gradients add up to the batch's.

Only activations of one part are kept at a time. What is learnt is what the whole batch would teach, up to rounding,
where losses are means over images, or the model's criterion counts the objects of the whole batch (`SetCriterion`).
What cannot be equal: batch normalisation that learns, which sees one part; random draws of the model; padding, where
pictures of a batch differ in size; losses divided by a number that only the model's forward pass knows.
"""
import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from detectron2.engine import AMPTrainer, SimpleTrainer
from fvcore.nn.precise_bn import get_bn_modules
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from freqdino.errors import ConfigError
from freqdino.modeling.criterion import SetCriterion

logger = logging.getLogger(__name__)


class AccumulatingTrainer(SimpleTrainer):
    """Detectron2's, of which a step of the optimiser takes ``parts`` passes, each over an equal part of the batch.

    Batches of the loader are lists of examples, of several processes this one's. The losses that are reported are the
    batch's. Raises ConfigError for a batch that cannot be shared equally.
    """

    def __init__(self, model: nn.Module, data_loader: Iterable, optimizer: Optimizer, *, parts: int, **options: Any):
        super().__init__(model, data_loader, optimizer, **options)
        self.parts = parts
        if parts > 1 and (norms := get_bn_modules(self.model)):
            name = next(name for name, module in self.model.named_modules() if module is norms[0])
            logger.warning("SOLVER.ACCUMULATE %d: %d batch normalisations that learn, the first is %s, see one part of "
                           "a batch at a time: the run is not that of whole batches. 1 has them see all",
                           parts, len(norms), name)

    def run_step(self) -> None:
        start = time.perf_counter()
        batch = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        parts = self._parts_of(batch)
        self.optimizer.zero_grad()
        reported: defaultdict[str, Tensor] = defaultdict(lambda: torch.zeros(()))
        with self._whole_batch(batch):
            for number, part in enumerate(parts, start=1):
                with self._exchange_of_gradients(last=number == len(parts)):
                    with self._autocast():
                        losses = self.model(part)
                        losses = {"total_loss": losses} if isinstance(losses, Tensor) else losses
                        loss = sum(losses.values()) / self.parts
                    self._scaled(loss).backward()
                for name, loss in losses.items():
                    reported[name] = reported[name] + loss.detach() / self.parts
        self.after_backward()
        self._write_metrics(reported, data_time)
        self._update()

    def _parts_of(self, batch: Sequence[dict]) -> list[Sequence[dict]]:
        if self.parts == 1:
            return [batch]
        size, rest = divmod(len(batch), self.parts)
        if rest or not size:
            raise ConfigError(f"SOLVER.ACCUMULATE is {self.parts}, which does not divide the {len(batch)} images of a "
                              "batch")
        return [batch[first:first + size] for first in range(0, len(batch), size)]

    def _whole_batch(self, batch: Sequence[dict]) -> AbstractContextManager:
        model = self.model.module if isinstance(self.model, DistributedDataParallel) else self.model
        criterion = getattr(model, "criterion", None)
        if self.parts == 1 or not isinstance(criterion, SetCriterion):
            return nullcontext()
        return criterion.whole_batch([len(example.get("instances", ())) for example in batch], parts=self.parts)

    def _exchange_of_gradients(self, *, last: bool) -> AbstractContextManager:
        """Between processes: once an iteration, in the last pass."""
        return self.model.no_sync() if isinstance(self.model, DistributedDataParallel) and not last else nullcontext()

    def _autocast(self) -> AbstractContextManager:
        return nullcontext()

    def _scaled(self, loss: Tensor) -> Tensor:
        return loss

    def _update(self) -> None:
        self.optimizer.step()


class AccumulatingAMPTrainer(AccumulatingTrainer, AMPTrainer):
    """The same under mixed precision: all parts have one loss scale, which the sum of the gradients is divided by."""

    def _autocast(self) -> AbstractContextManager:
        return torch.autocast(next(self.model.parameters()).device.type, dtype=self.precision)

    def _scaled(self, loss: Tensor) -> Tensor:
        return self.grad_scaler.scale(loss)

    def _update(self) -> None:
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

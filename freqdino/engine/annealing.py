"""The temperatures of dynamic convolutions while a model trains."""
from collections.abc import Sequence

from detectron2.engine import HookBase
from torch import nn

from freqdino.errors import ArgumentError
from freqdino.frequency.rivals.temperature import Annealed


class TemperatureAnnealing(HookBase):
    """Brings the temperatures in ``models`` from their start to their end in a share of the training, linearly.

    The value of an iteration follows from its number alone, so that a resumed run has the same. To come after
    WeightAveraging, whose model, if among ``models``, would have an average of temperatures.

    Args:
        share: of the trainer's iterations, from 0 (at the end at once) to 1. Raises ValueError for others.
    """

    def __init__(self, models: Sequence[nn.Module], share: float):
        if not 0 <= share <= 1:
            raise ArgumentError("share", f"must be from 0 to 1, got {share}")
        self._parts = [part for model in models for part in model.modules() if isinstance(part, Annealed)]
        self._share, self._at_end = share, False

    def before_step(self) -> None:
        self._set()

    def after_step(self) -> None:
        self._set()

    def _set(self) -> None:
        if self._at_end:
            return
        length = self._share * self.trainer.max_iter
        progress = min(self.trainer.iter / length, 1.0) if length else 1.0
        for part in self._parts:
            part.anneal(progress)
        self._at_end = progress == 1

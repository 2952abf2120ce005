"""Says when a training has gone wrong without ending in an error: its loss has risen far above where it began."""
import logging
from collections import deque
from statistics import median
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm

logger = logging.getLogger(__name__)

BEGINNING = 3                               # iterations whose median is where the loss began,
JUMP = 10.0                                 # but for those that are as many times the smallest: the first step can be
                                            # what blows a model up, and no batch makes such a difference
WINDOW = 20                                 # iterations whose median is where it is
FACTOR = 3.0                                # above which it has not fluctuated, but risen


class LossWatch(HookBase):
    """A warning once the loss is `FACTOR` times what it began with, and again at the end if it stays there."""

    def __init__(self, base_lr: float):
        self._base_lr = base_lr
        self._beginning: list[float] = []
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._warned = False

    def after_step(self) -> None:
        if not comm.is_main_process():      # the only one that has the sum over all
            return
        loss, _ = self.trainer.storage.latest()["total_loss"]
        self._recent.append(loss)
        if len(self._beginning) < BEGINNING:
            self._beginning.append(loss)
        last = self.trainer.iter + 1 == self.trainer.max_iter
        if last or len(self._recent) == WINDOW and not self._warned:
            calm = [loss for loss in self._beginning if loss < JUMP * min(self._beginning)] or self._beginning
            began, now = median(calm), median(self._recent)
            if now > FACTOR * began:
                self._warned = True
                logger.warning("The loss has risen from %.4g to %.4g: the model learns nothing, or forgets. "
                               "SOLVER.BASE_LR %g is probably too high", began, now, self._base_lr)

    def state_dict(self) -> dict[str, Any]:
        return {"beginning": list(self._beginning), "recent": list(self._recent)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._beginning, self._recent = list(state_dict["beginning"]), deque(state_dict["recent"], maxlen=WINDOW)

"""How far a training is and what it needs: a bar in a terminal, the peak of the GPU's memory among the metrics."""
import logging
import sys

import torch
from detectron2.engine import HookBase
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

LINES = "detectron2.utils.events"           # the logger of Detectron2's lines on the progress
METRICS_PERIOD = 20                         # iterations between two rows of metrics, Detectron2's


def in_a_terminal() -> bool:
    """Whether somebody looks at both outputs, so that a bar takes nothing from a file."""
    return sys.stdout.isatty() and sys.stderr.isatty()


class ProgressBar(HookBase):
    """A bar with the loss, the learning rate and the time that is left; to be a hook of the first process.

    While it stands, other messages come above it, and Detectron2's lines on the progress go to log.txt alone.
    """

    def before_train(self) -> None:
        self._bar = tqdm(total=self.trainer.max_iter, initial=self.trainer.start_iter, desc="training",
                         unit=" iterations", dynamic_ncols=True)
        loggers = [logging.getLogger(name) for name in ("detectron2", "freqdino")]
        self._redirected = logging_redirect_tqdm(loggers)
        self._redirected.__enter__()
        for handler in loggers[0].handlers:
            if getattr(handler, "stream", None) in (sys.stdout, sys.stderr):    # gone again in `after_train`
                handler.addFilter(lambda record: record.name != LINES)

    def after_step(self) -> None:
        latest = self.trainer.storage.latest()
        self._bar.set_postfix({name: f"{latest[key][0]:.3g}" for name, key in (("loss", "total_loss"), ("lr", "lr"))
                               if key in latest}, refresh=False)
        self._bar.update()

    def after_train(self) -> None:
        self._redirected.__exit__(None, None, None)
        self._bar.close()


class PeakMemory(HookBase):
    """The most memory that tensors had on this process's GPU so far, in MiB, as max_mem among the metrics."""

    def after_step(self) -> None:
        if (self.trainer.iter + 1) % METRICS_PERIOD == 0:
            peak = torch.cuda.max_memory_allocated() / 2 ** 20
            self.trainer.storage.put_scalar("max_mem", peak, smoothing_hint=False)

"""Where a training's metrics go: the writers that OUTPUT_WRITERS names. Detectron2's three, and MLflow's."""
import importlib.util
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)

from freqdino.config.effects import flat_keys
from freqdino.config.keys import default_config, lookup
from freqdino.engine.resuming import METRICS
from freqdino.errors import Stopped

RUN_ID = "mlflow_run_id"                    # the file of OUTPUT_DIR with the id of the run
WINDOW = 20                                 # iterations whose median a loss is written as, Detectron2's
REFUSED = re.compile(r"[^\w\-./ ]", re.ASCII)    # in MLflow's names of metrics
# After a try in vain the next one waits this many times as long as that one took, and at least so many seconds.
PATIENCE, LEAST_PAUSE = 20, 60.0
logger = logging.getLogger(__name__)


class MlflowWriter(EventWriter):
    """Metrics at their iterations, and the settings that differ from the defaults, as a run of MLflow.

    The store, the experiment and the rest are MLflow's own environment: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME.
    The run has the name of OUTPUT_DIR. A store that fails does not end the training: one warning, what it did not take
    is kept and sent when it answers again. Characters that MLflow has not in names become ``_``.
    """

    def __init__(self, cfg: CfgNode):
        import mlflow  # of an extra; one that is broken ends here, before the training

        self._mlflow, self._cfg, self._file = mlflow, cfg, Path(cfg.OUTPUT_DIR, RUN_ID)
        self._run_id = ""                   # of the run that has begun
        self._settings: list = []           # these and the metrics: what the store does not have yet
        self._metrics: list = []
        self._last_write, self._next_try, self._warned = -1, 0.0, False

    @contextmanager
    def run(self, *, goes_on: bool) -> Iterator[None]:
        """The training stands in the block, whose end is the run's: FINISHED, KILLED by a signal, else FAILED.

        ``goes_on``: a resumed training, in the run that OUTPUT_DIR keeps the id of.
        """
        if not goes_on:
            self._file.unlink(missing_ok=True)
        self._send()
        status = "FAILED"
        try:
            yield
            status = "FINISHED"
        except (Stopped, KeyboardInterrupt):
            status = "KILLED"
            raise
        finally:
            self._end(status)

    def write(self) -> None:
        now = int(time.time() * 1000)       # milliseconds
        latest = get_event_storage().latest_with_smoothing_hint(WINDOW)
        metric = self._mlflow.entities.Metric
        new = [metric(REFUSED.sub("_", name), float(value), now, iteration)
               for name, (value, iteration) in latest.items() if iteration > self._last_write]
        self._last_write = max((row.step for row in new), default=self._last_write)
        self._metrics += new
        if time.monotonic() >= self._next_try:
            self._send()

    def _send(self):
        with self._failure_told():
            if not self._run_id:
                self._begin()
            client = self._mlflow.MlflowClient()
            client.log_batch(self._run_id, metrics=self._metrics)
            self._metrics = []
            client.log_batch(self._run_id, params=self._settings)
            self._settings = []

    def _begin(self):
        kept = self._file.read_text().strip() if self._file.is_file() else None
        run = self._mlflow.start_run(run_id=kept, run_name=self._file.resolve().parent.name)
        self._run_id = run.info.run_id
        if not kept:                        # MLflow's parameters cannot be changed
            self._settings = [self._mlflow.entities.Param(key, str(value))
                              for key, value in changed_keys(self._cfg).items()]
            self._file.write_text(self._run_id)

    def _end(self, status):
        try:
            self._send()
            if self._metrics:
                logger.warning("MLflow did not take %d values of metrics", len(self._metrics))
        finally:                            # a signal may come meanwhile; else MLflow says FINISHED when Python ends
            if self._run_id:
                with self._failure_told():
                    self._mlflow.end_run(status)

    @contextmanager
    def _failure_told(self):
        begun = time.monotonic()
        try:
            yield
        except Exception as error:          # stores are plug-ins, each with errors of its own
            now = time.monotonic()
            self._next_try = now + max(LEAST_PAUSE, PATIENCE * (now - begun))
            if not self._warned:
                logger.warning("MLflow's store fails, the training goes on and keeps what it has for it: %s. Is "
                               "MLFLOW_TRACKING_URI right, its server up, and on --resume the run of %s in it?", error,
                               self._file)
            self._warned = True


def changed_keys(cfg: CfgNode) -> dict[str, object]:
    """Dotted key -> value, of what ``cfg`` has otherwise than the defaults."""
    default = default_config()
    known = {*flat_keys(default)}
    return {key: lookup(cfg, key) for key in flat_keys(cfg)
            if key not in known or lookup(cfg, key) != lookup(default, key)}


def check_writers(cfg: CfgNode) -> None:
    """Raise ImportError for a writer of OUTPUT_WRITERS whose package is not installed."""
    if "mlflow" in cfg.OUTPUT_WRITERS and importlib.util.find_spec("mlflow") is None:
        raise ImportError("OUTPUT_WRITERS has mlflow, which needs the package: pip install freqdino[trackers], or "
                          "leave mlflow out")


def build_writer(name: str, cfg: CfgNode, max_iter: int) -> EventWriter:
    """The writer that OUTPUT_WRITERS calls ``name``, of a training of ``max_iter`` iterations."""
    if name == "console":
        return CommonMetricPrinter(max_iter)
    if name == "json":
        return JSONWriter(os.path.join(cfg.OUTPUT_DIR, METRICS))
    if name == "tensorboard":
        return TensorboardXWriter(cfg.OUTPUT_DIR)
    return MlflowWriter(cfg)

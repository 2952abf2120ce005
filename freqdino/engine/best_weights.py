"""The best evaluation's weights, kept beside the last ones, and a training that ends once none is better for long.

Which evaluation is best and how many came after it is part of the checkpoints: a resumed run judges as a straight one.
"""
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

from detectron2.engine import HookBase, hooks
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm

from freqdino.errors import ConfigError, first_few

FILE_NAME = "model_best"
logger = logging.getLogger(__name__)


class EnoughTrained(BaseException):
    """Ends the loop over the iterations: no error."""


class BestWeights(hooks.EvalHook):
    """Detectron2's evaluation, whose best weights go to OUTPUT_DIR/model_best.pth.

    A checkpoint is written before the evaluation after the same iteration: where one is resumed, that evaluation comes
    first. A value that is undefined is never the best.

    Args:
        period: iterations between evaluations; 0: only at the end.
        evaluate: returns the results, empty in all processes but the first, or where it did not take place.
        metric: its name, as metrics.json has it: segm/AP. Where it has the word "loss" in it, less is better.
        save: writes the evaluated weights under a name, with further entries.
        patience: evaluations without a better one after which the training ends; 0: it goes on.
    """

    def __init__(self, period: int, evaluate: Callable[[], Mapping], *, metric: str, save: Callable[..., None],
                 patience: int = 0):
        super().__init__(period, self._evaluate_and_judge)
        self._evaluate, self._metric, self._save, self._patience = evaluate, metric, save, patience
        self._less_is_better = "loss" in metric
        self.best, self.best_after, self.judged_after, self.since = math.nan, 0, 0, 0

    @property
    def enough(self) -> bool:
        """Whether as many evaluations as the patience allows had no better value."""
        return 0 < self._patience <= self.since

    def before_train(self) -> None:
        done, last = self.trainer.start_iter, self.trainer.max_iter
        if self._period and done and done % self._period == 0 and self.judged_after < done < last:
            logger.info("The checkpoint is of before the evaluation after iteration %d, which comes now", done - 1)
            self.trainer.iter = self.trainer.storage.iter = done - 1
            self._do_eval()
            self.trainer.iter = self.trainer.storage.iter = done

    def after_train(self) -> None:
        super().after_train()
        del self._evaluate, self._save      # as Detectron2's, against a circle of references
        if self.best_after:
            logger.info("Best %s: %.4g, after iteration %d, in %s.pth", self._metric, self.best, self.best_after - 1,
                        FILE_NAME)

    def _evaluate_and_judge(self) -> Mapping:
        results = self._evaluate()
        found = flatten_results_dict(results) if results else {}
        value, names = comm.all_gather((found.get(self._metric), list(found)))[0]
        if names:
            self._judge(value, names)
        return results

    def _judge(self, value: float | None, names: list[str]) -> None:
        """Every process with the same numbers. Raises ConfigError where the results do not have the metric."""
        if value is None:
            raise ConfigError(f"TEST.KEEP_BEST is {self._metric!r}, which is not among the results; these are "
                              f"{first_few(names, 30)}")
        done = min(self.trainer.iter + 1, self.trainer.max_iter)
        if done == self.judged_after:       # a finished run that is resumed evaluates again
            return
        self.judged_after, value = done, float(value)
        sign = -1.0 if self._less_is_better else 1.0
        if not math.isnan(value) and (math.isnan(self.best) or sign * value > sign * self.best):
            self.best, self.best_after, self.since = value, done, 0
            self._save(FILE_NAME, iteration=done - 1, metric={self._metric: value})
        else:
            self.since += 1

    def state_dict(self) -> dict[str, Any]:
        return {"metric": self._metric, "best": self.best, "best_after": self.best_after,
                "judged_after": self.judged_after, "since": self.since}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Values of another metric say nothing of this one: then it begins anew."""
        if state["metric"] != self._metric:
            logger.warning("TEST.KEEP_BEST was %s and is %s: the best evaluation is looked for anew", state["metric"],
                           self._metric)
            return
        self.best, self.best_after, self.since = state["best"], state["best_after"], state["since"]
        self.judged_after = state["judged_after"]


class EarlyStop(HookBase):
    """Ends the training after a checkpoint once `BestWeights` has had enough; to come after the hooks that write."""

    def __init__(self, best: BestWeights):
        self._best = best

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self._best.enough and done < self.trainer.max_iter:
            logger.info("SOLVER.EARLY_STOP_PATIENCE: %d evaluations without a better one than that after iteration %d; "
                        "the training ends", self._best.since, self._best.best_after - 1)
            self.trainer.save_checkpoint()
            self.trainer.iter, self.trainer.max_iter = done, done       # as at the end of all iterations
            raise EnoughTrained

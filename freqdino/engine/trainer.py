"""Detectron2's trainer with this project's parts.

What OUTPUT_DIR then has stands in `freqdino.commands.train`.
"""
import logging
import os
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase, create_ddp_model, hooks
from detectron2.evaluation import DatasetEvaluator, verify_results
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from fvcore.nn.precise_bn import get_bn_modules
from torch import nn

from freqdino.checkpoint import DataConfig, StrictCheckpointer, starting_weights
from freqdino.config.epochs import in_epochs, with_iterations
from freqdino.data import build_test_loader, build_train_loader
from freqdino.data.random_state import random_state, random_state_kept, set_random_state
from freqdino.data.train_loader import FromStart, TrainLoader
from freqdino.engine.accumulation import AccumulatingAMPTrainer, AccumulatingTrainer
from freqdino.engine.annealing import TemperatureAnnealing
from freqdino.engine.best_weights import BestWeights, EarlyStop, EnoughTrained
from freqdino.engine.evaluating import augmented_model, evaluators_of
from freqdino.engine.joining import share_buffers
from freqdino.engine.loss_watch import LossWatch
from freqdino.engine.pictures import showing_hooks
from freqdino.engine.resuming import (
    METRICS,
    Checkpoints,
    PreciseBN,
    changed_settings,
    check_length,
    check_unchanged_classes,
    forget_metrics,
    parameter_names,
    restore_optimizer,
    restore_schedule,
    seed_of,
)
from freqdino.engine.solver import build_lr_scheduler, build_optimizer
from freqdino.engine.stopping import StopHook, StopRequests
from freqdino.engine.validation_loss import ValidationLoss
from freqdino.engine.weight_averaging import WeightAveraging
from freqdino.engine.writers import MlflowWriter, build_writer
from freqdino.errors import Stopped
from freqdino.evaluation.results import FOLDER, write_results
from freqdino.modeling.activation_checkpointing import checkpoint_blocks
from freqdino.registration.binding import errors_about
from freqdino.registration.class_tables import check_detector_classes, training_class_tables
from freqdino.registration.model_parts import BATCH_KEYS
from freqdino.registration.predictions import Predictions, predictions_of

logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """Detectron2's trainer with this project's optimiser, checkpoints, data and evaluation; also works on the CPU."""

    best: BestWeights | None = None         # the evaluation that TEST.KEEP_BEST asks for
    _tracker: MlflowWriter | None = None    # in the first process, where OUTPUT_WRITERS has mlflow

    def __init__(self, cfg: CfgNode, predictions: Predictions | None = None, stop: StopRequests | None = None):
        """``predictions``: `predictions_of` the configuration, where the caller has them. ``stop``: see StopHook."""
        TrainerBase.__init__(self)          # DefaultTrainer's own would build Detectron2's parts, and for CUDA alone
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        data_loader = self.build_train_loader(cfg)
        if in_epochs(cfg):
            cfg = with_iterations(cfg, data_loader.pictures)
        optimizer = self.build_optimizer(cfg, model)
        on_cuda = cfg.MODEL.DEVICE.startswith("cuda")
        device_ids = [comm.get_local_rank()] if on_cuda else None
        model = create_ddp_model(model, broadcast_buffers=False, device_ids=device_ids)
        if cfg.SOLVER.AMP.ENABLED:
            dtype = getattr(torch, cfg.SOLVER.AMP.DTYPE)
            scaler = torch.amp.GradScaler("cuda", enabled=dtype is torch.float16)    # bfloat16 has float32's range
            self._trainer = AccumulatingAMPTrainer(model, data_loader, optimizer, grad_scaler=scaler, precision=dtype,
                                                   parts=cfg.SOLVER.ACCUMULATE)
        else:
            self._trainer = AccumulatingTrainer(model, data_loader, optimizer, parts=cfg.SOLVER.ACCUMULATE)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = StrictCheckpointer(model, cfg.OUTPUT_DIR, partial=cfg.MODEL.WEIGHTS_PARTIAL,
                                               remarks={"classes": training_class_tables(cfg), "config": cfg.dump()},
                                               data_config=DataConfig.of(cfg), trainer=weakref.proxy(self))
        self.predictions, self.stop = predictions or predictions_of(cfg), stop
        self.cfg, self.start_iter, self.max_iter = cfg, 0, cfg.SOLVER.MAX_ITER
        self.evaluated: nn.Module = self.checkpointer.model
        self._last_eval_results: OrderedDict | None = None      # without any entry in all processes but the first
        self.register_hooks(self.build_hooks())

    build_optimizer = staticmethod(build_optimizer)
    build_lr_scheduler = staticmethod(build_lr_scheduler)
    build_train_loader = staticmethod(build_train_loader)
    build_test_loader = staticmethod(build_test_loader)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """Detectron2's, with SOLVER.ACTIVATION_CHECKPOINTING; its own detectors are held against the data sets first,
        as ours do themselves."""
        check_detector_classes(cfg)
        model = super().build_model(cfg)
        if cfg.SOLVER.ACTIVATION_CHECKPOINTING and not checkpoint_blocks(model):
            logger.warning("SOLVER.ACTIVATION_CHECKPOINTING has no effect: %s has no blocks that are known here; "
                           "SOLVER.ACCUMULATE saves memory with any model", type(model).__name__)
        return model

    def build_hooks(self) -> list[HookBase]:
        """Detectron2's; MODEL_EMA.ENABLED has averaged weights evaluated, TEST.AUG.ENABLED adds a pass at the end."""
        cfg, loader = self.cfg, self._trainer.data_loader
        built = [hooks.IterationTimer(), hooks.LRScheduler(), LossWatch(cfg.SOLVER.BASE_LR)]
        if cfg.MODEL_EMA.ENABLED:
            averaging = WeightAveraging(self.model, decay=cfg.MODEL_EMA.DECAY)
            self.evaluated = averaging.model
            built.insert(0, averaging)      # before the checkpoints and the evaluation
        built.append(TemperatureAnnealing([self.model, self.evaluated], cfg.MODEL.BACKBONE.DYNAMIC_CONV.ANNEAL))
        if cfg.TEST.PRECISE_BN.ENABLED and not get_bn_modules(self.model):
            logger.warning("TEST.PRECISE_BN.ENABLED has no effect: the model has no batch normalisation that learns")
        elif cfg.TEST.PRECISE_BN.ENABLED:
            batches = FromStart(loader) if isinstance(loader, TrainLoader) else self.build_train_loader(cfg)
            built.append(PreciseBN(cfg.TEST.EVAL_PERIOD, self.model, batches, cfg.TEST.PRECISE_BN.NUM_ITER))

        losses = ValidationLoss(cfg) if cfg.TEST.VALIDATION_LOSS and cfg.DATASETS.TEST else None

        def test():
            ended_early = self.best is not None and self.best.enough and self.iter >= self.max_iter
            if ended_early and self._last_eval_results is not None:     # those of this very iteration
                return self._last_eval_results
            share_buffers(self.evaluated)
            self._last_eval_results = self.test(cfg, self.evaluated, predictions=self.predictions)
            if losses is not None:
                self._last_eval_results.update(losses(self.evaluated))
            return self._last_eval_results

        def test_with_augmentation():
            return self.test_with_augmentation(cfg, self.evaluated, self.predictions)

        def evaluate():
            return self._apart_from_training(test)

        if cfg.TEST.KEEP_BEST:
            self.best = BestWeights(cfg.TEST.EVAL_PERIOD, evaluate, metric=cfg.TEST.KEEP_BEST, save=self.save_weights,
                                    patience=cfg.SOLVER.EARLY_STOP_PATIENCE)
        built += [Checkpoints(cfg.SOLVER.CHECKPOINT_PERIOD),
                  self.best or hooks.EvalHook(cfg.TEST.EVAL_PERIOD, evaluate)]
        if cfg.TEST.AUG.ENABLED:
            built.append(hooks.EvalHook(0, lambda: self._apart_from_training(test_with_augmentation)))
        if comm.is_main_process():
            writers = self.build_writers()
            self._tracker = next((writer for writer in writers if isinstance(writer, MlflowWriter)), None)
            built += [*showing_hooks(cfg, self.evaluated), hooks.PeriodicWriter(writers)]
        if self.best is not None:
            built.append(EarlyStop(self.best))
        if self.stop is not None:
            built.append(StopHook(self.stop))
        return built

    def build_writers(self) -> list[EventWriter]:
        """Those of OUTPUT_WRITERS."""
        return [build_writer(name, self.cfg, self.max_iter) for name in self.cfg.OUTPUT_WRITERS]

    def _apart_from_training(self, evaluate):
        """An evaluation that moves no random state; a signal ends it at once where nothing of the training is lost."""
        if self.iter + 1 == self.max_iter:      # the last step failed, for else it would be counted
            return {}
        finished = self.iter >= self.max_iter      # one more where a finished run is resumed
        if self.stop is None or not (finished or comm.get_world_size() == 1):
            with random_state_kept():
                return evaluate()
        try:
            with random_state_kept(), self.stop.at_once():
                return evaluate()
        except Stopped:
            if not finished and self.iter >= self.start_iter:       # else the checkpoint is the one that is resumed
                self.save_checkpoint()
            raise

    def train(self) -> OrderedDict | None:
        """Detectron2's, which returns results where some are expected or it ends early. Raises Stopped where
        a signal ends it, after a checkpoint; ConfigError where the model finds in a batch what its configuration does
        not allow.
        """
        if self.best is not None and self.best.enough:
            logger.info("The run that is resumed had ended early: SOLVER.EARLY_STOP_PATIENCE %d",
                        self.cfg.SOLVER.EARLY_STOP_PATIENCE)
            self.max_iter = self.start_iter
        tracked = nullcontext() if self._tracker is None else self._tracker.run(goes_on=self.start_iter > 0)
        noted = nullcontext() if self.stop is None else self.stop.after_the_step()
        with tracked, noted, errors_about(None, **BATCH_KEYS):
            with suppress(EnoughTrained):
                return super().train()
            if comm.is_main_process():
                verify_results(self.cfg, self._last_eval_results)
            return self._last_eval_results

    def after_train(self) -> None:
        """The hooks' last words, among them the last evaluation; the workers of the training data end before."""
        loader = self._trainer.data_loader
        self._trainer.reset_data_loader(lambda: loader)
        try:
            super().after_train()
        except (OSError, ValueError) as error:
            if self.iter >= self.max_iter:
                raise
            logger.warning("After the error that ended the training: %s", error)    # which is the one to be told

    def save_checkpoint(self) -> None:
        """Write what all processes have to OUTPUT_DIR/model_<iteration>.pth; all of them have to call it.

        With SOLVER.CHECKPOINT_KEEP older ones are deleted.
        """
        loader = self._trainer.data_loader
        place = loader.state_dict() if isinstance(loader, TrainLoader) else None
        processes = comm.gather({"random": random_state(), "data": place})
        self.checkpointer.save(f"model_{self.iter:07d}", iteration=self.iter, processes=processes)
        if self.cfg.SOLVER.CHECKPOINT_KEEP:
            self.checkpointer.keep_newest(self.cfg.SOLVER.CHECKPOINT_KEEP, iteration=self.iter)

    def save_weights(self, name: str, **entries: Any) -> None:
        """Write the weights that are evaluated, and the classes, to OUTPUT_DIR/<name>.pth."""
        self.checkpointer.save_weights(name, self.evaluated, **entries)

    def resume_or_load(self, resume: bool = True) -> None:
        """With ``resume`` go on where the newest whole checkpoint of OUTPUT_DIR ends, else start from MODEL.WEIGHTS.

        One line of the log says what is kept and what is new. Raises CheckpointError for a checkpoint that does not fit
        and for settings that cannot change.
        """
        found = self.checkpointer.read_last() if resume else None
        if not found:
            if resume:
                logger.info("--resume: %s has no checkpoint yet, the training starts", self.cfg.OUTPUT_DIR)
                self._forget_metrics()
            self.checkpointer.load(starting_weights(self.cfg), checkpointables=[])
            return
        path, checkpoint = found
        new = changed_settings(checkpoint["config"], self.cfg) if "config" in checkpoint else {
            "": "not known, the checkpoint of version 0.1 does not hold its configuration"}
        check_unchanged_classes(checkpoint.get("classes", {}), training_class_tables(self.cfg))
        check_length(path, checkpoint, self.max_iter)
        rest = self.checkpointer.restore(path, checkpoint)
        kept = ["weights", "optimiser", "place in the schedule"]
        if self._restore_data(rest.get("processes"), other_data="DATASETS.TRAIN" in new):
            kept.append("place in the data")
        if self._restore_random_state(rest.get("processes")):
            kept.append("random states")
        self.start_iter = self.iter + 1
        self._forget_metrics()
        if "config" in checkpoint and (seed := seed_of(checkpoint["config"])) != self.cfg.SEED:
            logger.warning("SEED %d is not used: a resumed run goes on with the random states and the order of the "
                           "data that began with SEED %d", self.cfg.SEED, seed)
        logger.info("Resuming at iteration %d from %s. Kept: %s. New: %s", self.start_iter, path, ", ".join(kept),
                    "; ".join(new.values()) or "nothing")

    def _forget_metrics(self):
        """Of iterations that the run does not have, as it goes on, and that come again."""
        if comm.is_main_process():
            forget_metrics(os.path.join(self.cfg.OUTPUT_DIR, METRICS), after=self.start_iter or -1)

    def _restore_data(self, processes, *, other_data):
        loader = self._trainer.data_loader
        if not isinstance(loader, TrainLoader) or other_data or not processes or processes[0]["data"] is None:
            logger.warning("The training data start from their beginning")
            return False
        place = processes[comm.get_rank() % len(processes)]["data"]
        if len(processes) != comm.get_world_size():
            read = sum(process["data"]["next"] for process in processes)
            place = {**place, "next": read // comm.get_world_size(), "waiting": []}
        try:
            loader.load_state_dict(place)
        except ValueError as error:
            logger.warning("The training data start from their beginning: %s", error)
            return False
        return True

    def _restore_random_state(self, processes):
        if not processes or len(processes) != comm.get_world_size():
            logger.warning("Random numbers start anew: the checkpoint is of %s", f"{len(processes)} process(es)"
                           if processes else "version 0.1")
            return False
        set_random_state(processes[comm.get_rank()]["random"])
        return True

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        state["_trainer"]["parameter_names"] = parameter_names(self.checkpointer.model, self.optimizer)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The states of the optimiser, by names of parameters, of the loss scale and of the hooks; rates are cfg's."""
        training, hook_states = state["_trainer"], dict(state.get("hooks", {}))
        hook_states.pop("LRScheduler", None)
        TrainerBase.load_state_dict(self, {**state, "hooks": hook_states})
        anew = restore_optimizer(self.optimizer, training["optimizer"], saved_names=training.get("parameter_names"),
                                 names=parameter_names(self.checkpointer.model, self.optimizer))
        if anew:
            logger.warning("The optimiser's state of %d parameters starts anew: %s", len(anew), ", ".join(anew[:10]))
        restore_schedule(self.scheduler, self.iter + 1)
        scaler = getattr(self._trainer, "grad_scaler", None)
        if scaler is not None and "grad_scaler" in training:
            scaler.load_state_dict(training["grad_scaler"])

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Sequence[DatasetEvaluator] | None = None, *,
             predictions: Predictions | None = None, folder: str = FOLDER) -> OrderedDict:
        """Evaluate on every set of DATASETS.TEST; the results also go to OUTPUT_DIR/<folder>/results.json."""
        folder = os.path.join(cfg.OUTPUT_DIR, folder)
        if evaluators is None:
            predictions = predictions or predictions_of(cfg)
            evaluators = evaluators_of(cfg, predictions, folder)
        results = super().test(cfg, model, evaluators)
        if comm.is_main_process() and results:
            single = len(set(cfg.DATASETS.TEST)) == 1
            path = write_results({cfg.DATASETS.TEST[0]: results} if single else results, folder)
            logger.info("Evaluation results written to %s", path)
        return results

    @classmethod
    def test_with_augmentation(cls, cfg: CfgNode, model: nn.Module, predictions: Predictions | None = None
                               ) -> OrderedDict:
        """``test`` of the model under TEST.AUG.*, with its files in inference_TTA and names that end in _TTA."""
        results = cls.test(cfg, augmented_model(cfg, model), predictions=predictions, folder=f"{FOLDER}_TTA")
        return OrderedDict((f"{name}_TTA", value) for name, value in results.items())

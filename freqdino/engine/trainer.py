"""Detectron2's trainer with this project's parts, and the evaluation of a checkpoint.

OUTPUT_DIR then has config.yaml, log.txt, metrics.json, TensorBoard events, checkpoints with model_final.pth, and the
last evaluation in inference/results.json.
"""
import logging
import os
import weakref
from collections import OrderedDict

import torch
from detectron2.config import CfgNode
from detectron2.engine import AMPTrainer, DefaultTrainer, SimpleTrainer, TrainerBase, create_ddp_model
from detectron2.engine.hooks import EvalHook
from detectron2.evaluation import verify_results
from detectron2.modeling import GeneralizedRCNNWithTTA
from detectron2.utils import comm
from fvcore.nn.precise_bn import get_bn_modules

from freqdino.checkpoint import StrictCheckpointer
from freqdino.data import build_test_loader, build_train_loader
from freqdino.engine.solver import build_lr_scheduler, build_optimizer
from freqdino.engine.weight_averaging import WeightAveraging, averaged_weights
from freqdino.errors import ConfigError
from freqdino.evaluation.build import build_evaluators
from freqdino.evaluation.results import FOLDER, write_results
from freqdino.evaluation.tta import TestTimeAugmentation
from freqdino.registration.class_tables import check_detector_classes, training_class_tables
from freqdino.registration.predictions import Predictions, predictions_of

logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """Detectron2's trainer with this project's optimiser, checkpoints, data and evaluation; also works on the CPU."""

    def __init__(self, cfg: CfgNode, predictions: Predictions | None = None):
        """``predictions``: `predictions_of` the configuration, where the caller has them."""
        TrainerBase.__init__(self)          # DefaultTrainer's own would build Detectron2's parts, and for CUDA alone
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        on_cuda = cfg.MODEL.DEVICE.startswith("cuda")
        device_ids = [comm.get_local_rank()] if on_cuda else None
        model = create_ddp_model(model, broadcast_buffers=False, device_ids=device_ids)
        if cfg.SOLVER.AMP.ENABLED:
            dtype = getattr(torch, cfg.SOLVER.AMP.DTYPE)
            scaler = torch.amp.GradScaler("cuda", enabled=dtype is torch.float16)    # bfloat16 has float32's range
            self._trainer = AMPTrainer(model, data_loader, optimizer, grad_scaler=scaler, precision=dtype)
        else:
            self._trainer = SimpleTrainer(model, data_loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = StrictCheckpointer(model, cfg.OUTPUT_DIR, partial=cfg.MODEL.WEIGHTS_PARTIAL,
                                               remarks={"classes": training_class_tables(cfg)},
                                               trainer=weakref.proxy(self))
        self.predictions = predictions or predictions_of(cfg)
        self.cfg, self.start_iter, self.max_iter = cfg, 0, cfg.SOLVER.MAX_ITER
        self.register_hooks(self.build_hooks())

    build_optimizer = staticmethod(build_optimizer)
    build_lr_scheduler = staticmethod(build_lr_scheduler)
    build_train_loader = staticmethod(build_train_loader)
    build_test_loader = staticmethod(build_test_loader)

    @classmethod
    def build_model(cls, cfg):
        """Detectron2's; its own detectors are held against the data sets first, as ours do themselves."""
        check_detector_classes(cfg)
        return super().build_model(cfg)

    def build_hooks(self):
        """Detectron2's; MODEL_EMA.ENABLED has averaged weights evaluated, TEST.AUG.ENABLED adds a pass at the end."""
        hooks, evaluated = super().build_hooks(), self.model
        if self.cfg.MODEL_EMA.ENABLED:
            averaging = WeightAveraging(self.model, decay=self.cfg.MODEL_EMA.DECAY, output_dir=self.cfg.OUTPUT_DIR)
            evaluated = averaging.model
            hooks.insert(0, averaging)      # before the checkpointer and the evaluation

        def test():
            self._last_eval_results = self.test(self.cfg, evaluated, predictions=self.predictions)
            return self._last_eval_results

        def test_with_augmentation():
            return self.test_with_augmentation(self.cfg, evaluated, self.predictions)

        if self.cfg.TEST.PRECISE_BN.ENABLED and not get_bn_modules(self.model):
            logger.warning("TEST.PRECISE_BN.ENABLED has no effect: the model has no batch normalisation that learns")
        position = next(i for i, hook in enumerate(hooks) if isinstance(hook, EvalHook))
        hooks[position] = EvalHook(self.cfg.TEST.EVAL_PERIOD, test)
        if self.cfg.TEST.AUG.ENABLED:
            hooks.insert(position + 1, EvalHook(0, test_with_augmentation))
        return hooks

    @classmethod
    def test(cls, cfg, model, evaluators=None, *, predictions=None, folder=FOLDER):
        """Evaluate on every set of DATASETS.TEST; the results also go to OUTPUT_DIR/<folder>/results.json."""
        folder = os.path.join(cfg.OUTPUT_DIR, folder)
        if evaluators is None:
            predictions = predictions or predictions_of(cfg)
            evaluators = build_evaluators(cfg.DATASETS.TEST, tasks=predictions.tasks, masks=predictions.masks,
                                          max_detections=cfg.TEST.DETECTIONS_PER_IMAGE, output_dir=folder)
        results = super().test(cfg, model, evaluators)
        if comm.is_main_process() and results:
            single = len(cfg.DATASETS.TEST) == 1
            path = write_results({cfg.DATASETS.TEST[0]: results} if single else results, folder)
            logger.info("Evaluation results written to %s", path)
        return results

    @classmethod
    def test_with_augmentation(cls, cfg, model, predictions=None):
        """``test`` of the model under TEST.AUG.*, with its files in inference_TTA and names that end in _TTA."""
        results = cls.test(cfg, augmented_model(cfg, model), predictions=predictions, folder=f"{FOLDER}_TTA")
        return OrderedDict((f"{name}_TTA", value) for name, value in results.items())


def augmented_model(cfg, model):
    """The model with the test-time augmentation of TEST.AUG.*; Detectron2's own for its own detectors."""
    if cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN":
        return GeneralizedRCNNWithTTA(cfg, model)
    options = cfg.TEST.AUG
    return TestTimeAugmentation(model, min_sizes=options.MIN_SIZES, max_size=options.MAX_SIZE, flip=options.FLIP,
                                max_instances=cfg.TEST.DETECTIONS_PER_IMAGE)


def evaluate(cfg: CfgNode, *, resume: bool, predictions: Predictions | None = None) -> OrderedDict:
    """Evaluate MODEL.WEIGHTS, or with ``resume`` the last checkpoint of OUTPUT_DIR; either must fit entirely.

    With MODEL_EMA.ENABLED the average that the checkpoint keeps, as at the end of training.
    """
    model = Trainer.build_model(cfg)
    checkpointer = StrictCheckpointer(model, cfg.OUTPUT_DIR, whole_model=True)
    if not cfg.MODEL.WEIGHTS and not (resume and checkpointer.has_checkpoint()):
        raise ConfigError("--eval-only needs weights: set MODEL.WEIGHTS to a checkpoint, as in MODEL.WEIGHTS "
                          f"{os.path.join(cfg.OUTPUT_DIR, 'model_final.pth')}")
    checkpoint = checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    if cfg.MODEL_EMA.ENABLED:
        average = averaged_weights(checkpoint)
        if average is None:
            logger.info("MODEL_EMA.ENABLED: the checkpoint keeps no average, its weights are evaluated")
        else:
            model.load_state_dict(average)
            logger.info("MODEL_EMA.ENABLED: the average that the checkpoint keeps is evaluated")
    results = Trainer.test(cfg, model, predictions=predictions)
    if cfg.TEST.AUG.ENABLED:
        results.update(Trainer.test_with_augmentation(cfg, model, predictions))
    if comm.is_main_process():
        verify_results(cfg, results)
    return results

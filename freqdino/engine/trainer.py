#!/usr/bin/env python
"""Trains and evaluates every model of FreqDINO, and Detectron2's own, with Detectron2's command line.

    train_net.py --config-file FILE [--num-gpus N] [--resume] [KEY VALUE ...]          trains, evaluates at the end
    train_net.py --config-file FILE --eval-only MODEL.WEIGHTS CHECKPOINT               evaluates

OUTPUT_DIR then has config.yaml, log.txt, metrics.json, TensorBoard events, checkpoints with model_final.pth, and the
last evaluation in inference/results.json. With MODEL_EMA.ENABLED True an average of the weights over training is what
is evaluated, and lies in model_final_ema.pth; with TEST.AUG.ENABLED True the last evaluation is done again with
several sizes and mirror images, in inference_TTA. Without CUDA it runs on the CPU; ``--num-gpus`` counts processes
there. Errors in what the user gives end in a message on stderr and exit status 1; their traceback is in log.txt.
"""
import json
import logging
import math
import os
import re
import sys
import weakref
from collections import OrderedDict

import torch
from detectron2.data import MetadataCatalog
from detectron2.engine import (AMPTrainer, DefaultTrainer, SimpleTrainer, TrainerBase, create_ddp_model,
                               default_argument_parser, default_setup, launch)
from detectron2.engine.hooks import EvalHook
from detectron2.evaluation import verify_results
from detectron2.modeling import GeneralizedRCNNWithTTA
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch.multiprocessing import ProcessExitedException

from freqdino.checkpoint import StrictCheckpointer
from freqdino.config import ConfigError, load_config, lookup
from freqdino.data import build_test_loader, build_train_loader, register_custom_datasets
from freqdino.evaluation.build import build_evaluator
from freqdino.evaluation.test_time_augmentation import TestTimeAugmentation
from freqdino.registration.class_tables import check_detector_classes
from freqdino.solver import build_lr_scheduler, build_optimizer
from freqdino.weight_averaging import WeightAveraging, averaged_weights

# What a wrong configuration, data set or checkpoint raises. Registries raise KeyError for an unknown name.
USER_ERRORS = (ValueError, OSError, KeyError, ImportError, FloatingPointError)
FAMILY_SECTIONS = {"MaskFormer": "MODEL.MASK_FORMER", "MaskDINO": "MODEL.MaskDINO",
                   "MaskFormerFreqAware": "MODEL.MASK_FORMER"}
# What Detectron2's own models predict, where it is not instances alone.
DETECTRON2_TASKS = {"PanopticFPN": ("semantic", "instance", "panoptic"), "SemanticSegmentor": ("semantic",)}
CLASS_TABLES = ("thing_classes", "stuff_classes", "thing_dataset_id_to_contiguous_id",
                "stuff_dataset_id_to_contiguous_id")
logger = logging.getLogger("freqdino.train_net")


def predicted_tasks(cfg):
    """What the model predicts, some of semantic, instance, panoptic."""
    section = FAMILY_SECTIONS.get(cfg.MODEL.META_ARCHITECTURE)
    if section is None:
        return DETECTRON2_TASKS.get(cfg.MODEL.META_ARCHITECTURE, ("instance",))
    test = lookup(cfg, f"{section}.TEST")
    return tuple(task for task in ("semantic", "instance", "panoptic") if test[f"{task.upper()}_ON"])


def class_tables(cfg):
    """What a checkpoint says about its classes: the tables of the first training set's metadata, names and ids."""
    return {key: value for name in cfg.DATASETS.TRAIN[:1]
            for key, value in MetadataCatalog.get(name).as_dict().items() if key in CLASS_TABLES}


def predicts_masks(cfg):
    """Whether instances have masks: of Detectron2's own models with MODEL.MASK_ON, of ours always."""
    return cfg.MODEL.META_ARCHITECTURE in FAMILY_SECTIONS or cfg.MODEL.MASK_ON


class Trainer(DefaultTrainer):
    """Detectron2's trainer with this project's optimiser, checkpoints, data and evaluation; also works on the CPU."""

    def __init__(self, cfg):
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
                                               remarks={"classes": class_tables(cfg)}, trainer=weakref.proxy(self))
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
        position = next(i for i, hook in enumerate(hooks) if isinstance(hook, EvalHook))
        if self.cfg.MODEL_EMA.ENABLED:
            averaging = WeightAveraging(self.model, decay=self.cfg.MODEL_EMA.DECAY, output_dir=self.cfg.OUTPUT_DIR)
            evaluated = averaging.model

            def test_average():
                self._last_eval_results = self.test(self.cfg, evaluated)
                return self._last_eval_results

            hooks[position] = EvalHook(self.cfg.TEST.EVAL_PERIOD, test_average)
            hooks.insert(0, averaging)      # before the checkpointer and the evaluation
            position += 1
        if self.cfg.TEST.AUG.ENABLED:
            hooks.insert(position + 1, EvalHook(0, lambda: self.test_with_augmentation(self.cfg, evaluated)))
        return hooks

    @classmethod
    def test(cls, cfg, model, evaluators=None, *, folder="inference"):
        """Evaluate on every set of DATASETS.TEST; the results also go to OUTPUT_DIR/<folder>/results.json."""
        folder = os.path.join(cfg.OUTPUT_DIR, folder)
        evaluators = evaluators or [build_evaluator(dataset, tasks=predicted_tasks(cfg), masks=predicts_masks(cfg),
                                                    output_dir=folder) for dataset in cfg.DATASETS.TEST]
        results = super().test(cfg, model, evaluators)
        if comm.is_main_process() and results:
            single = len(cfg.DATASETS.TEST) == 1
            write_results({cfg.DATASETS.TEST[0]: results} if single else results, folder)
        return results

    @classmethod
    def test_with_augmentation(cls, cfg, model):
        """``test`` of the model under TEST.AUG.*, with its files in inference_TTA and names that end in _TTA."""
        results = cls.test(cfg, augmented_model(cfg, model), folder="inference_TTA")
        return OrderedDict((f"{name}_TTA", value) for name, value in results.items())


def augmented_model(cfg, model):
    """The model with the test-time augmentation of TEST.AUG.*; Detectron2's own for its own detectors."""
    if cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN":
        return GeneralizedRCNNWithTTA(cfg, model)
    options = cfg.TEST.AUG
    return TestTimeAugmentation(model, min_sizes=options.MIN_SIZES, max_size=options.MAX_SIZE, flip=options.FLIP,
                                max_instances=cfg.TEST.DETECTIONS_PER_IMAGE)


def write_results(results, folder):
    """Data set → task → metric → number as JSON into ``folder``; null where a metric is undefined."""
    def plain(value):
        if isinstance(value, dict):
            return {str(key): plain(item) for key, item in value.items()}
        return float(value) if math.isfinite(value) else None

    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "results.json")
    with open(path, "w") as file:
        json.dump(plain(results), file, indent=2)
    logger.info("Evaluation results written to %s", path)


def load_checked_config(args):
    """The configuration of a command line, held against the machine. Raises ConfigError."""
    cfg = load_config(args.config_file, args.opts)
    processes = args.num_gpus * args.num_machines
    if args.num_gpus < 1 or not 0 <= args.machine_rank < args.num_machines:
        raise ConfigError(f"--num-gpus {args.num_gpus} --num-machines {args.num_machines} --machine-rank "
                          f"{args.machine_rank}: each machine needs a process or more (the CPU too) and a rank")
    if torch.cuda.is_available() and args.num_gpus > torch.cuda.device_count():
        raise ConfigError(f"--num-gpus {args.num_gpus}, but this machine has {torch.cuda.device_count()}")
    if torch.cuda.is_available() and processes > 1 and not cfg.MODEL.DEVICE.startswith("cuda"):
        raise ConfigError(f"MODEL.DEVICE {cfg.MODEL.DEVICE} with {processes} processes: hide the GPUs with "
                          "CUDA_VISIBLE_DEVICES='', since Detectron2 connects processes through NCCL where it sees one")
    if not args.eval_only and not cfg.SOLVER.REFERENCE_WORLD_SIZE and cfg.SOLVER.IMS_PER_BATCH % processes:
        raise ConfigError(f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} cannot be shared equally by {processes} "
                          "processes")
    if args.eval_only and not cfg.DATASETS.TEST:
        raise ConfigError("--eval-only, but DATASETS.TEST is empty")
    if not args.eval_only and not cfg.DATASETS.TRAIN:
        raise ConfigError("DATASETS.TRAIN is empty: name a data set, or your own as datasets/README.md describes")
    if cfg.TEST.AUG.ENABLED and "panoptic" in predicted_tasks(cfg):
        raise ConfigError("TEST.AUG.ENABLED: augmented predictions merge to instances and semantic maps, not to "
                          "panoptic ones; set PANOPTIC_ON of the model's TEST section to False")
    if not 0 <= cfg.MODEL_EMA.DECAY < 1:
        raise ConfigError(f"MODEL_EMA.DECAY must be at least 0 and below 1, got {cfg.MODEL_EMA.DECAY}")
    cfg.freeze()
    return cfg


def set_up(cfg, args):
    """Loggers (tracebacks go to the file only), OUTPUT_DIR and seeds of this process; own data sets by their names."""
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, comm.get_rank(), name="freqdino", configure_stdout=comm.get_world_size() > 1)
    for name in ("detectron2", "fvcore", "freqdino"):
        for handler in logging.getLogger(name).handlers:
            if handler.stream is sys.stdout:
                handler.addFilter(lambda record: not record.exc_info)
    if cfg.MODEL.DEVICE == "cpu" and args.num_gpus > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, os.cpu_count() // args.num_gpus))
    logger.info("Running on %s in %d process(es)", cfg.MODEL.DEVICE, comm.get_world_size())
    register_custom_datasets((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))


def evaluate(cfg, *, resume):
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
    results = Trainer.test(cfg, model)
    if cfg.TEST.AUG.ENABLED:
        results.update(Trainer.test_with_augmentation(cfg, model))
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


def main(cfg, args):
    """The work of one process."""
    try:
        set_up(cfg, args)
        if args.eval_only:
            return evaluate(cfg, resume=args.resume)
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        return trainer.train()
    except USER_ERRORS as error:
        logger.exception("Stopped by an error")
        exit_with(error)


def exit_with(error):
    """End this process with status 1 and the error's message, without traceback, on stderr."""
    message = str(error.args[0]) if type(error) is KeyError and error.args else str(error)
    if "Original Traceback" in message:     # a worker of a data loader passes its traceback on as the message
        message = re.sub(r"(?s).*\n\S*(?:Error|Exception): ", "", message).rstrip()
    process = f" in process {comm.get_rank()}" if comm.get_world_size() > 1 else ""
    print(f"error{process}: {message or type(error).__name__}", file=sys.stderr, flush=True)
    sys.exit(1)


def run(arguments=None):
    """The command line, by default sys.argv's words. Exits with status 1 on an error in what the user gave."""
    args = default_argument_parser().parse_args(arguments)
    setup_logger(name="freqdino")
    try:
        cfg = load_checked_config(args)
    except USER_ERRORS as error:
        exit_with(error)
    try:
        launch(main, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, args=(cfg, args))
    except ProcessExitedException as error:
        if error.exit_code != 1:            # with 1 a process ended itself and said why
            raise
        sys.exit(1)


if __name__ == "__main__":
    run()

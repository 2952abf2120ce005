"""From a command line to running processes: the configuration held against the machine, then a job in each process."""
import argparse
import errno
import logging
import os
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from freqdino.checkpoint import DataConfig, StrictCheckpointer
from freqdino.checkpoint.files import write_whole
from freqdino.config import load_config, lookup
from freqdino.config.bounds import check_run, remarks_on
from freqdino.config.checks import check_names
from freqdino.config.epochs import in_epochs, set_key
from freqdino.config.loading import find_config_file
from freqdino.data import register_custom_datasets
from freqdino.data.checks.before_training import check_datasets
from freqdino.data.splitting import part_names
from freqdino.engine.early_remarks import remembered, repeat_in_file
from freqdino.engine.evaluating import check_evaluation
from freqdino.engine.resuming import METRICS
from freqdino.engine.stopping import StopRequests
from freqdino.engine.trainer import Trainer
from freqdino.engine.weight_averaging import averaged_weights, check_decay
from freqdino.engine.writers import check_writers
from freqdino.errors import ConfigError, keep_tracebacks_off_stdout
from freqdino.evaluation.tta import check_sizes
from freqdino.registration.binding import errors_about
from freqdino.registration.class_tables import with_counted_classes
from freqdino.registration.inference import sliding_window
from freqdino.registration.predictions import Predictions, predictions_of

logger = logging.getLogger(__name__)


def load_checked_config(args: argparse.Namespace) -> tuple[CfgNode, Predictions]:
    """The configuration of a command line, held against the machine, and what its models predict.

    ``args.config_file`` becomes the file that was found, which Detectron2 writes into the log, ``args.remarks`` what
    was said on the way, for `set_up`. Raises ConfigError.
    """
    args.config_file = find_config_file(args.config_file)
    with remembered() as args.remarks:
        cfg = load_config(args.config_file, args.opts)
        settle_data_sets(cfg, training=not args.eval_only)
        for remark in () if args.eval_only else remarks_on(cfg):
            logger.warning(remark)
    check_names(cfg)
    check_run(cfg, training=not args.eval_only)
    if not args.eval_only:
        check_writers(cfg)
    predictions = predictions_of(cfg)
    processes = args.num_gpus * args.num_machines
    if args.num_gpus < 1 or not 0 <= args.machine_rank < args.num_machines:
        raise ConfigError(f"--num-gpus {args.num_gpus} --num-machines {args.num_machines} --machine-rank "
                          f"{args.machine_rank}: each machine needs a process or more (the CPU too) and a rank")
    if args.num_machines > 1 and any(word in args.dist_url for word in ("127.0.0.1", "localhost", "auto")):
        raise ConfigError(f"--num-machines {args.num_machines} with --dist-url {args.dist_url}: the machines would "
                          "wait for each other in vain; name an address of machine 0, as in tcp://10.0.0.1:29500")
    if torch.cuda.is_available() and args.num_gpus > torch.cuda.device_count():
        raise ConfigError(f"--num-gpus {args.num_gpus}, but this machine has {torch.cuda.device_count()}")
    if torch.cuda.is_available() and processes > 1 and not cfg.MODEL.DEVICE.startswith("cuda"):
        raise ConfigError(f"MODEL.DEVICE {cfg.MODEL.DEVICE} with {processes} processes: hide the GPUs with "
                          "CUDA_VISIBLE_DEVICES='', since Detectron2 connects processes through NCCL where it sees one")
    if not args.eval_only and not cfg.SOLVER.REFERENCE_WORLD_SIZE and cfg.SOLVER.IMS_PER_BATCH % processes:
        raise ConfigError(f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} cannot be shared equally by {processes} "
                          "processes")
    parts = processes * cfg.SOLVER.ACCUMULATE
    if not args.eval_only and not cfg.SOLVER.REFERENCE_WORLD_SIZE and cfg.SOLVER.IMS_PER_BATCH % parts:
        raise ConfigError(f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} cannot be shared equally by {processes} "
                          f"processes in SOLVER.ACCUMULATE {cfg.SOLVER.ACCUMULATE} parts each; set a multiple of "
                          f"{parts}")
    if args.eval_only and not cfg.DATASETS.TEST:
        raise ConfigError("--eval-only, but DATASETS.TEST is empty")
    if not args.eval_only and not cfg.DATASETS.TRAIN:
        raise ConfigError("DATASETS.TRAIN is empty: name a data set, or your own as datasets/README.md describes")
    if cfg.TEST.AUG.ENABLED and "panoptic" in predictions.tasks:
        raise ConfigError("TEST.AUG.ENABLED: augmented predictions merge to instances and semantic maps, not to "
                          "panoptic ones; set PANOPTIC_ON of the model's TEST section to False")
    if cfg.TEST.AUG.ENABLED:
        with errors_about("TEST.AUG", min_sizes="MIN_SIZES"):
            check_sizes(cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.MAX_SIZE)
    sliding_window(cfg)     # also where another project's model would not read it
    with errors_about("MODEL_EMA", decay="DECAY"):
        check_decay(cfg.MODEL_EMA.DECAY)
    cfg.freeze()
    return cfg, predictions


def settle_data_sets(cfg: CfgNode, *, training: bool) -> None:
    """Put the parts of DATASETS.SPLIT in the place of the whole sets, in ``cfg``.

    What needs a test set is switched off where there is none, and said.
    """
    if cfg.DATASETS.SPLIT:
        parts = [part_names(name, cfg.DATASETS.SPLIT) for name in cfg.DATASETS.TRAIN]
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (tuple(names) for names in zip(*parts)) if parts else ((), ())
        cfg.DATASETS.SPLIT = 0.0
    asked = [key for key in ("TEST.EVAL_PERIOD", "TEST.EVAL_EPOCHS", "TEST.KEEP_BEST", "TEST.VALIDATION_LOSS",
                            "SOLVER.EARLY_STOP_PATIENCE")
             if lookup(cfg, key)]
    if training and asked and not cfg.DATASETS.TEST:
        logger.warning("DATASETS.TEST is empty, so nothing is evaluated: %s %s off. Name a test set, or keep some of "
                       "the training pictures for it: DATASETS.SPLIT 0.8", ", ".join(asked),
                       "are" if len(asked) > 1 else "is")
        for key in asked:
            set_key(cfg, key, type(lookup(cfg, key))())


def check_output_folder(cfg: CfgNode, *, resume: bool, eval_only: bool) -> None:
    """Make OUTPUT_DIR. Raises ConfigError where nothing can be written there, or a training would mix with another."""
    folder = Path(cfg.OUTPUT_DIR)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"OUTPUT_DIR {folder} cannot be written to: {error.strerror}") from error
    if resume or eval_only:
        return
    used = sorted(path.name for pattern in ("model_*.pth", METRICS) for path in folder.glob(pattern)
                  if path.stat().st_size)
    if used:
        raise ConfigError(f"OUTPUT_DIR {folder} has another training ({', '.join(used[:3])}): go on with it by "
                          "--resume, delete the folder, or name another one")


def set_up(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Loggers (tracebacks go to the file only), OUTPUT_DIR and seeds of this process; own data sets by their names."""
    remarks = vars(args).pop("remarks")     # Detectron2 writes the others into the log, as the command line
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, comm.get_rank(), name="freqdino",
                 configure_stdout=not logging.getLogger("freqdino").handlers)
    keep_tracebacks_off_stdout("detectron2", "fvcore", "freqdino")
    repeat_in_file(remarks, os.path.join(cfg.OUTPUT_DIR, "log.txt"))
    if cfg.MODEL.DEVICE == "cpu" and args.num_gpus > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, os.cpu_count() // args.num_gpus))
    logger.info("Running on %s in %d process(es)", cfg.MODEL.DEVICE, comm.get_world_size())
    register_custom_datasets((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))


def write_config(cfg: CfgNode) -> None:
    """Write OUTPUT_DIR/config.yaml again, with what the data have settled."""
    if comm.is_main_process():
        path = Path(cfg.OUTPUT_DIR, "config.yaml")
        write_whole(str(path), lambda file: file.write(cfg.dump().encode()))


@contextmanager
def _full_disk_named(folder: str) -> Iterator[None]:
    """What is written through open files does not know their names when the disk is full: name the folder."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) and error.filename is None:
            raise OSError(error.errno, error.strerror, folder) from error
        raise


def evaluate(cfg: CfgNode, *, resume: bool, predictions: Predictions | None = None) -> OrderedDict:
    """Evaluate MODEL.WEIGHTS, or with ``resume`` the last checkpoint of OUTPUT_DIR; either must fit entirely.

    With MODEL_EMA.ENABLED the average that a checkpoint of a run keeps beside its weights.
    """
    model = Trainer.build_model(cfg)
    checkpointer = StrictCheckpointer(model, cfg.OUTPUT_DIR, whole_model=True, data_config=DataConfig.of(cfg))
    found = checkpointer.read_last() if resume else None
    if not found and not cfg.MODEL.WEIGHTS:
        raise ConfigError("--eval-only needs weights: set MODEL.WEIGHTS to a checkpoint, as in MODEL.WEIGHTS "
                          f"{os.path.join(cfg.OUTPUT_DIR, 'model_final.pth')}")
    checkpoint = checkpointer.restore(*found) if found else checkpointer.load(cfg.MODEL.WEIGHTS)
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


def run_job(cfg: CfgNode, predictions: Predictions, args: argparse.Namespace, stop: StopRequests
            ) -> dict | None:
    """Train, or with ``args.eval_only`` evaluate, in this process; returns the last evaluation's results or None.

    Raises Stopped where ``stop`` is asked to.
    """
    with _full_disk_named(cfg.OUTPUT_DIR):
        set_up(cfg, args)
        given, cfg = cfg, with_counted_classes(cfg)
        if cfg is not given:
            logger.info("MODEL.SEM_SEG_HEAD.NUM_CLASSES is the data's: %d", cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)
            write_config(cfg)
        check_datasets(cfg, tasks=predictions.tasks, masks=predictions.masks)
        check_evaluation(cfg, predictions, training=not args.eval_only)
        if args.eval_only:
            return evaluate(cfg, resume=args.resume, predictions=predictions)
        trainer = Trainer(cfg, predictions, stop)
        if in_epochs(cfg):
            write_config(trainer.cfg)
        trainer.resume_or_load(resume=args.resume)
        return trainer.train()

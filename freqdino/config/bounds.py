"""What the values of keys must be, beyond their type: a table of conditions in words, each with its keys.

What our own modules ask of their arguments is theirs to say, see `freqdino.registration.binding.errors_about`.
"""
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from detectron2.config import CfgNode

from freqdino.config.keys import FAMILY_SECTIONS, lookup
from freqdino.errors import ConfigError
from freqdino.ops.backends import OPERATORS

KNOWN = "known are "
# Detectron2's samplers; older versions lack the keys of the last three.
SAMPLERS = ("TrainingSampler", "RepeatFactorTrainingSampler", "RandomSubsetTrainingSampler", "WeightedTrainingSampler",
            "WeightedCategoryTrainingSampler")
WRITERS = ("console", "json", "tensorboard", "mlflow")


def _at_least(least: float) -> Callable[[float], bool]:
    return lambda value: value >= least


def _share(value: float) -> bool:
    return 0 <= value <= 1


def _one_of(*names: str) -> tuple[str, Callable[[str], bool]]:
    return f"{KNOWN}{', '.join(names)}", names.__contains__


def _is_device(name: str) -> bool:
    try:
        torch.device(name)
    except RuntimeError:
        return False
    return True


def _in_families(*names: str) -> tuple[str, ...]:
    return tuple(f"{section}.{name}" for section in sorted({*FAMILY_SECTIONS.values()}) for name in names)


def _is_expectation(row: Any) -> bool:
    return (isinstance(row, (list, tuple)) and len(row) == 4 and all(isinstance(word, str) for word in row[:2])
            and all(isinstance(number, (int, float)) and not isinstance(number, bool) for number in row[2:]))


# Condition in words, the condition, the keys that must meet it. NaN meets none.
BOUNDS = (
    ("at least 1", _at_least(1), (
        "SOLVER.MAX_ITER", "SOLVER.IMS_PER_BATCH", "SOLVER.ACCUMULATE", "SOLVER.CHECKPOINT_PERIOD",
        "SOLVER.NUM_DECAYS", "INPUT.MAX_SIZE_TRAIN", "INPUT.MAX_SIZE_TEST", "TEST.DETECTIONS_PER_IMAGE",
        "TEST.PRECISE_BN.NUM_ITER", "MODEL.SEM_SEG_HEAD.MASK_DIM", "MODEL.SEM_SEG_HEAD.CONVS_DIM",
        "MODEL.SEM_SEG_HEAD.COMMON_STRIDE", "MODEL.SEM_SEG_HEAD.DIM_FEEDFORWARD",
        "MODEL.ROI_HEADS.NUM_CLASSES", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "MODEL.RPN.BATCH_SIZE_PER_IMAGE",
        "MODEL.RETINANET.NUM_CLASSES", "MODEL.FPN.OUT_CHANNELS", "MODEL.RESNETS.NUM_GROUPS",
        "MODEL.RESNETS.WIDTH_PER_GROUP", "MODEL.RESNETS.STEM_OUT_CHANNELS", "MODEL.RESNETS.RES2_OUT_CHANNELS",
        "MODEL.SWIN.EMBED_DIM", "MODEL.SWIN.WINDOW_SIZE", "MODEL.SWIN.PATCH_SIZE", "MODEL.SWIN.PRETRAIN_IMG_SIZE",
        "MODEL.MASK_FORMER.DEC_LAYERS",
        *_in_families("NHEADS", "HIDDEN_DIM", "DIM_FEEDFORWARD", "NUM_OBJECT_QUERIES"))),
    ("at least 0", _at_least(0), (
        "SOLVER.BASE_LR", "SOLVER.BASE_LR_END", "SOLVER.WARMUP_ITERS", "SOLVER.REFERENCE_WORLD_SIZE",
        "SOLVER.CHECKPOINT_KEEP", "SOLVER.EARLY_STOP_PATIENCE", "SOLVER.EPOCHS", "SOLVER.CHECKPOINT_EPOCHS",
        "TEST.EVAL_EPOCHS", "MODEL.BACKBONE.DYNAMIC_CONV.NUM",
        "SOLVER.WEIGHT_DECAY", "SOLVER.WEIGHT_DECAY_NORM", "SOLVER.WEIGHT_DECAY_BIAS", "SOLVER.WEIGHT_DECAY_EMBED",
        "SOLVER.BIAS_LR_FACTOR",
        "SOLVER.BACKBONE_MULTIPLIER", "SOLVER.FREQ_SCALE_MULTIPLIER", "SOLVER.FDCONV_MULTIPLIER",
        "SOLVER.POLY_LR_POWER", "SOLVER.POLY_LR_CONSTANT_ENDING", "DATALOADER.NUM_WORKERS",
        "DATALOADER.REPEAT_THRESHOLD", "INPUT.MIN_SIZE_TEST", "TEST.EVAL_PERIOD", "VIS_PERIOD",
        "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS",
        *_in_families("CLASS_WEIGHT", "DICE_WEIGHT", "MASK_WEIGHT", "NO_OBJECT_WEIGHT"),
        *(f"MODEL.MaskDINO.{name}_WEIGHT" for name in (
            "BOX", "GIOU", "COST_CLASS", "COST_DICE", "COST_MASK", "COST_BOX", "COST_GIOU")))),
    ("above 0", lambda value: value > 0, (
        "SOLVER.GAMMA", "SOLVER.CLIP_GRADIENTS.NORM_TYPE", "MODEL.SWIN.MLP_RATIO",
        "MODEL.MaskDINO.TEST.PANO_TEMPERATURE")),
    ("from 0 to 1", _share, (
        "MODEL.BACKBONE.DYNAMIC_CONV.ANNEAL",
        "SOLVER.WARMUP_FACTOR", "MODEL.RPN.NMS_THRESH", "MODEL.RPN.POSITIVE_FRACTION",
        "MODEL.ROI_HEADS.POSITIVE_FRACTION", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "MODEL.ROI_HEADS.NMS_THRESH_TEST",
        "MODEL.RETINANET.SCORE_THRESH_TEST", "MODEL.RETINANET.NMS_THRESH_TEST",
        "MODEL.PANOPTIC_FPN.COMBINE.OVERLAP_THRESH", "MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH",
        *_in_families("TEST.OBJECT_MASK_THRESHOLD", "TEST.OVERLAP_THRESHOLD"))),
    ("at least 0 and below 1", lambda value: 0 <= value < 1, (
        "SOLVER.MOMENTUM", "MODEL.SWIN.DROP_RATE", "MODEL.SWIN.ATTN_DROP_RATE", "MODEL.SWIN.DROP_PATH_RATE",
        "MODEL.TIMM.DROP_PATH_RATE", "DATASETS.SPLIT", "MODEL.SEM_SEG_HEAD.ASPP_DROPOUT", *_in_families("DROPOUT"))),
    ("above 0 and at most 1", lambda value: 0 < value <= 1, ("INPUT.CROP.SINGLE_CATEGORY_MAX_AREA",)),
    ("from 0, which freezes nothing, to 5, the stem and all four stages", lambda value: -1 <= value <= 5,
     ("MODEL.BACKBONE.FREEZE_AT",)),
    ("below 2 to the power of 32; negative: a seed by chance", lambda value: value < 2 ** 32 - 2 ** 16, ("SEED",)),
    ("numbers above 0", lambda values: all(value > 0 for value in values), ("MODEL.PIXEL_STD",)),
    ("one number or more; 0 leaves a picture's size", lambda values: len(values) > 0 and min(values) >= 0,
     ("INPUT.MIN_SIZE_TRAIN",)),
    ("iterations in ascending order, each at least 1", lambda values: all(
        earlier < later for earlier, later in pairwise((0, *values))), ("SOLVER.STEPS",)),
    ("rows of task, metric, value and tolerance, as [['segm', 'AP', 38.5, 0.2]]", lambda rows: all(
        map(_is_expectation, rows)), ("TEST.EXPECTED_RESULTS",)),
    (*_one_of("choice", "range"), ("INPUT.MIN_SIZE_TRAIN_SAMPLING",)),
    (*_one_of("RGB", "BGR"), ("INPUT.FORMAT",)),
    (*_one_of(*OPERATORS), ("MODEL.OPERATORS",)),
    (*_one_of("linear", "constant"), ("SOLVER.WARMUP_METHOD",)),
    (*_one_of("published", "equal"), ("SOLVER.FDCONV_RATE",)),
    (*_one_of(*SAMPLERS), ("DATALOADER.SAMPLER_TRAIN",)),
    (f"{KNOWN}{', '.join(WRITERS)}, each once", lambda names: len({*names}) == len(names) and {*names} <= {*WRITERS},
     ("OUTPUT_WRITERS",)),
    ("18, 34, 50, 101 or 152", (18, 34, 50, 101, 152).__contains__, ("MODEL.RESNETS.DEPTH",)),
    ("a device of PyTorch, such as cuda, cuda:1 or cpu", _is_device, ("MODEL.DEVICE",)),
    ("a folder", lambda path: bool(path.strip()), ("OUTPUT_DIR",)),
)
# Models whose MODEL.SEM_SEG_HEAD.NUM_CLASSES can be 0: as many as the data have.
COUNTS_CLASSES = (*FAMILY_SECTIONS, "SemanticSegmentor")
# float("inf") is a norm: the largest gradient.
MAY_BE_INFINITE = ("SOLVER.CLIP_GRADIENTS.NORM_TYPE",)


def check_bounds(cfg: CfgNode) -> None:
    """Raise ConfigError, with key, value and condition, for a value that no run can work with."""
    for words, condition, keys in BOUNDS:
        for key in keys:
            value = lookup(cfg, key)
            if value is not None and not condition(value):
                raise ConfigError(f"{key} is {value!r}; {'' if words.startswith(KNOWN) else 'it must be '}{words}")
    _check_finite(cfg)
    for holds, message in _together(cfg):
        if not holds:
            raise ConfigError(message)


def _check_finite(node, prefix=""):
    for name, value in node.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            _check_finite(value, f"{key}.")
        elif key not in MAY_BE_INFINITE:
            for number in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(number, float) and not math.isfinite(number):
                    raise ConfigError(f"{key} is {value!r}; it must be finite")


def _together(cfg):
    """(whether it holds, message) of what keys must meet together."""
    solver, sizes = cfg.SOLVER, cfg.INPUT
    yield (solver.LR_SCHEDULER_NAME != "WarmupCosineLR" or solver.BASE_LR_END <= solver.BASE_LR,
           f"SOLVER.BASE_LR_END is {solver.BASE_LR_END}; it must be at most SOLVER.BASE_LR, {solver.BASE_LR}")
    yield (not solver.REFERENCE_WORLD_SIZE or solver.IMS_PER_BATCH % solver.REFERENCE_WORLD_SIZE == 0,
           f"SOLVER.IMS_PER_BATCH is {solver.IMS_PER_BATCH}; it must be a multiple of SOLVER.REFERENCE_WORLD_SIZE, "
           f"{solver.REFERENCE_WORLD_SIZE}")
    yield (not solver.EARLY_STOP_PATIENCE or bool(cfg.TEST.KEEP_BEST),
           f"SOLVER.EARLY_STOP_PATIENCE is {solver.EARLY_STOP_PATIENCE}, but TEST.KEEP_BEST names no metric to wait "
           "for; set it, as in TEST.KEEP_BEST segm/AP")
    yield (not cfg.VIS_PERIOD or "tensorboard" in cfg.OUTPUT_WRITERS,
           f"VIS_PERIOD is {cfg.VIS_PERIOD}, but OUTPUT_WRITERS {cfg.OUTPUT_WRITERS!r} lacks tensorboard, where the "
           "pictures go; add it, or set VIS_PERIOD to 0")
    share = solver.IMS_PER_BATCH // max(solver.REFERENCE_WORLD_SIZE, 1)
    yield (share % solver.ACCUMULATE == 0,
           f"SOLVER.ACCUMULATE is {solver.ACCUMULATE}; it must divide SOLVER.IMS_PER_BATCH, {solver.IMS_PER_BATCH}"
           + (f", of each of SOLVER.REFERENCE_WORLD_SIZE {solver.REFERENCE_WORLD_SIZE} processes: {share}"
              if share < solver.IMS_PER_BATCH else ""))
    yield (sizes.MIN_SIZE_TRAIN_SAMPLING != "range" or len(sizes.MIN_SIZE_TRAIN) == 2
           and sizes.MIN_SIZE_TRAIN[0] <= sizes.MIN_SIZE_TRAIN[1],
           f"INPUT.MIN_SIZE_TRAIN is {sizes.MIN_SIZE_TRAIN!r}; with INPUT.MIN_SIZE_TRAIN_SAMPLING range it must be two "
           "numbers, the smaller one first")
    yield (len(cfg.MODEL.PIXEL_MEAN) == len(cfg.MODEL.PIXEL_STD),
           f"MODEL.PIXEL_MEAN has {len(cfg.MODEL.PIXEL_MEAN)} numbers and MODEL.PIXEL_STD {len(cfg.MODEL.PIXEL_STD)}; "
           "each has one for a channel")
    least = 0 if cfg.MODEL.META_ARCHITECTURE in COUNTS_CLASSES else 1
    yield (cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES >= least,
           f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES}; it must be at least {least}")
    yield (not cfg.DATASETS.SPLIT or not cfg.DATASETS.TEST,
           f"DATASETS.SPLIT is {cfg.DATASETS.SPLIT}, but DATASETS.TEST names what is evaluated; set one of the "
           "two, the other to 0 or ()")
    yield (cfg.MODEL.RESNETS.DEPTH > 34 or "resnet" not in cfg.MODEL.BACKBONE.NAME
           or cfg.MODEL.RESNETS.RES2_OUT_CHANNELS == 64,
           f"MODEL.RESNETS.RES2_OUT_CHANNELS is {cfg.MODEL.RESNETS.RES2_OUT_CHANNELS}; a ResNet of DEPTH "
           f"{cfg.MODEL.RESNETS.DEPTH} has 64")


def check_run(cfg: CfgNode, *, training: bool) -> None:
    """Raise ConfigError for what a model may have, but no data set here can be read for, and for training in vain."""
    if training and cfg.SOLVER.BASE_LR == 0:
        raise ConfigError("SOLVER.BASE_LR is 0.0; it must be above 0: nothing would be learnt")
    for key, what in (("MODEL.KEYPOINT_ON", "keypoints"), ("MODEL.LOAD_PROPOSALS", "proposals from files")):
        if lookup(cfg, key):
            raise ConfigError(f"{key} is True, but the mappers read no {what}; set it to False")
    if len(cfg.MODEL.PIXEL_MEAN) != 3:
        raise ConfigError(f"MODEL.PIXEL_MEAN is {cfg.MODEL.PIXEL_MEAN!r}; it must be three numbers: pictures are read "
                          "with three channels, grey ones too")


def remarks_on(cfg: CfgNode) -> list[str]:
    """Sentences on settings of training and evaluation that run, though hardly as they were meant."""
    solver, remarks = cfg.SOLVER, []
    if not solver.EPOCHS and solver.WARMUP_ITERS >= solver.MAX_ITER and solver.WARMUP_FACTOR < 1:
        remarks.append(f"SOLVER.WARMUP_ITERS {solver.WARMUP_ITERS} is not below SOLVER.MAX_ITER {solver.MAX_ITER}: the "
                       f"learning rate never reaches SOLVER.BASE_LR {solver.BASE_LR}")
    if cfg.DATALOADER.SAMPLER_TRAIN == "RepeatFactorTrainingSampler" and not cfg.DATALOADER.REPEAT_THRESHOLD:
        remarks.append("DATALOADER.SAMPLER_TRAIN RepeatFactorTrainingSampler repeats nothing with DATALOADER."
                       "REPEAT_THRESHOLD 0")
    if cfg.TEST.EVAL_PERIOD > solver.MAX_ITER and not solver.EPOCHS and not cfg.TEST.EVAL_EPOCHS:
        remarks.append(f"TEST.EVAL_PERIOD {cfg.TEST.EVAL_PERIOD} is beyond SOLVER.MAX_ITER {solver.MAX_ITER}: the "
                       "evaluation comes once, at the end")
    section = FAMILY_SECTIONS.get(cfg.MODEL.META_ARCHITECTURE)
    queries = section and lookup(cfg, f"{section}.NUM_OBJECT_QUERIES")
    most = queries * cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES if section else 0
    if most and lookup(cfg, f"{section}.TEST.INSTANCE_ON") and cfg.TEST.DETECTIONS_PER_IMAGE > max(most, 100):
        remarks.append(f"TEST.DETECTIONS_PER_IMAGE is {cfg.TEST.DETECTIONS_PER_IMAGE}, but {queries} queries of "
                       f"{cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES} classes give {most} predictions at most: set {section}."
                       "NUM_OBJECT_QUERIES higher")
    return remarks

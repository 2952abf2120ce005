"""Configuration: every key of the two model families, and a loader that is safe and says what is wrong.

The keys, their names and their defaults are those of the published Mask2Former (arXiv 2112.01527) and Mask DINO
(arXiv 2206.02777) projects, so that their YAML files load unmodified. The two differ in two defaults only
(``PIXEL_DECODER_NAME`` and ``DATASET_MAPPER_NAME``); one set serves both, since each family sets its own in YAML.
"""
import difflib
import logging
import os
from collections.abc import Callable

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.projects.deeplab import add_deeplab_config
from detectron2.utils.file_io import PathManager

from .config_keys import (
    IGNORED_KEYS,
    fdconv_keys,
    fpn_keys,
    freqfusion_keys,
    mask_dino_keys,
    mask_former_keys,
    mit_keys,
    swin_keys,
    timm_keys,
    vit_keys,
)

# Called by `load_config` with what it has merged; each raises ConfigError for what cannot be meant. Filled by the
# binding between configurations and models, which knows who reads which key.
CHECKS: list[Callable[[CfgNode], None]] = []


class ConfigError(ValueError):
    """A configuration file or option cannot be used; the message names the file and the key."""


class UnknownKeyError(ConfigError, KeyError):
    """A key that no part of the project reads; the message names the nearest keys."""

    __str__ = ValueError.__str__


def add_freqdino_config(cfg):
    """Add every key of Mask2Former, Mask DINO, DeepLab and FreqDINO to a Detectron2 configuration, in place."""
    add_deeplab_config(cfg)
    cfg.MODEL.WEIGHTS_PARTIAL = False       # True: load what fits of a checkpoint, list the rest, go on
    cfg.INPUT.update(CfgNode({
        "DATASET_MAPPER_NAME": "mask_former_semantic",
        "COLOR_AUG_SSD": False,
        "SIZE_DIVISIBILITY": -1,
        "IMAGE_SIZE": 1024,                 # large-scale jitter: side of the square crop
        "MIN_SCALE": 0.1,
        "MAX_SCALE": 2.0,
    }))
    cfg.SOLVER.update(CfgNode({
        "OPTIMIZER": "ADAMW",
        "BACKBONE_MULTIPLIER": 0.1,
        "WEIGHT_DECAY_EMBED": 0.0,
        "FREQ_SCALE_MULTIPLIER": 1.0,       # learning rate of FDAM's frequency scaling, on top of other factors
        "LAYER_DECAY": 1.0,                 # factor from each block of a ViT to the one below it
    }))
    cfg.MODEL_EMA = CfgNode({"ENABLED": False, "DECAY": 0.9997})    # the average of the weights over training
    cfg.SOLVER.AMP.DTYPE = "float16"        # float16 | bfloat16
    cfg.MODEL.SEM_SEG_HEAD.update(CfgNode({
        "MASK_DIM": 256,
        "PIXEL_DECODER_NAME": "MaskDINOEncoder",
        "TRANSFORMER_ENC_LAYERS": 0,
        "DIM_FEEDFORWARD": 1024,
        "FEATURE_ORDER": "high2low",        # high2low | low2high
        "NUM_FEATURE_LEVELS": 3,
        "TOTAL_NUM_FEATURE_LEVELS": 4,
        "DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES": ["res3", "res4", "res5"],
        "DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS": 4,
        "DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS": 8,
        "FREQFUSION": freqfusion_keys(),
        "FDAM": {"ENABLED": False},
    }))
    cfg.MODEL.BACKBONE.update(CfgNode({"FDCONV": fdconv_keys(), "FDAM": {"ENABLED": False}}))
    cfg.MODEL.FPN.update(CfgNode(fpn_keys()))
    cfg.MODEL.MASK_FORMER = CfgNode(mask_former_keys())
    cfg.MODEL.MaskDINO = CfgNode(mask_dino_keys())
    cfg.MODEL.SWIN = CfgNode(swin_keys())
    cfg.MODEL.VIT = CfgNode(vit_keys())
    cfg.MODEL.MIT = CfgNode(mit_keys())
    cfg.MODEL.TIMM = CfgNode(timm_keys())
    cfg.Default_loading = True


class _PlainYamlLoader(yaml.SafeLoader):
    """SafeLoader that keeps the last of duplicate keys, as published files rely on, and remembers the others."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                self.duplicates.append(f"{key} (line {key_node.start_mark.line + 1})")
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def read_yaml(path):
    """The mapping in a YAML file. Raises ConfigError for a missing file, broken YAML or a tag that would run code."""
    if not PathManager.isfile(path):
        raise ConfigError(f"{path}: no such configuration file")
    with PathManager.open(path, "r") as file:
        loader = _PlainYamlLoader(file.read())
    loader.name, loader.duplicates = path, []
    try:
        values = loader.get_single_data()
    except yaml.constructor.ConstructorError as error:
        raise ConfigError(f"{path}: {error.problem} (line {error.problem_mark.line + 1}). Configuration files hold "
                          "plain values; tags that construct objects or run code are refused.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    finally:
        loader.dispose()
    if loader.duplicates:
        logging.getLogger(__name__).warning("%s: duplicate keys, the last value wins: %s", path,
                                            ", ".join(loader.duplicates))
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: the top level is a {type(values).__name__}, not a mapping of keys")
    return values


def _layers(path, visiting=()):
    """(file, values) pairs in the order of merging: the files of ``_BASE_`` first, later ones win, then the file."""
    if path in visiting:
        raise ConfigError(f"{path}: _BASE_ leads back to the file itself: {' -> '.join((*visiting, path))}")
    values = read_yaml(path)
    bases = values.pop("_BASE_", [])
    for base in [bases] if isinstance(bases, str) else bases:
        base = os.path.expanduser(base)
        if "://" not in base:
            base = os.path.normpath(os.path.join(os.path.dirname(path), base))
        yield from _layers(base, (*visiting, path))
    yield path, values


def _flat_keys(node, prefix=""):
    for key, value in node.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from _flat_keys(value, f"{prefix}{key}.")


def _unknown_key(cfg, key, origin):
    known = list(_flat_keys(cfg))
    leaf = key.rpartition(".")[2]
    near = [k for k in known if k.endswith("." + leaf)][:3] or difflib.get_close_matches(key, known, n=3, cutoff=0.75)
    hint = f" Nearest: {', '.join(near)}." if near else ""
    return UnknownKeyError(f"{origin}: unknown configuration key {key}.{hint}")


def _check_keys(cfg, values, origin, node=None, prefix=""):
    """Every key of the nested ``values`` exists in ``cfg``, and a section stands where a section belongs."""
    node = cfg if node is None else node
    for key, value in values.items():
        if key not in node:
            raise _unknown_key(cfg, f"{prefix}{key}", origin)
        if isinstance(node[key], dict) != isinstance(value, dict):
            kind = "a section of keys" if isinstance(node[key], dict) else f"a value such as {node[key]!r}"
            raise ConfigError(f"{origin}: {prefix}{key} must be {kind}, got {value!r}")
        if isinstance(value, dict):
            _check_keys(cfg, value, origin, node[key], f"{prefix}{key}.")


def _merge_values(cfg, values, origin):
    """Merge nested ``values``; what yacs says about a wrong type becomes a ConfigError that names ``origin``."""
    _check_keys(cfg, values, origin)
    try:
        cfg.merge_from_other_cfg(type(cfg)(values))
    except ValueError as error:
        raise ConfigError(f"{origin}: {error}") from error


def _merge_options(cfg, opts):
    """Merge key, value, ... of a command line."""
    opts = list(opts)
    if len(opts) % 2:
        raise ConfigError(f"command line: options come in pairs of key and value, got {len(opts)} words: {opts}")
    known = set(_flat_keys(cfg))
    for key, value in zip(opts[::2], opts[1::2]):
        if key not in known:
            raise _unknown_key(cfg, key, "command line")
        try:
            cfg.merge_from_list([key, value])
        except ValueError as error:
            raise ConfigError(f"command line: {error}") from error


def merge_config_file(cfg, path):
    """Merge a YAML file with its ``_BASE_`` files (one or a list, later wins) into ``cfg``; plain values only.

    Raises ConfigError (UnknownKeyError for a key) that names the very file among the bases.
    """
    for origin, values in _layers(os.path.expanduser(path)):
        if values.get("VERSION", cfg.VERSION) != cfg.VERSION:
            raise ConfigError(f"{origin}: VERSION {values['VERSION']}; only version {cfg.VERSION} files can be read")
        _merge_values(cfg, values, origin)


def load_config(config_file="", opts=()):
    """A Detectron2 configuration with all keys, ``config_file`` and the trailing ``opts`` (key, value, ...) merged.

    Ends with the device settled: without CUDA, MODEL.DEVICE becomes cpu and mixed precision is off, each said once.
    Raises ConfigError or UnknownKeyError for what cannot be merged, and ConfigError where one of `CHECKS` does.
    """
    cfg = get_cfg()
    add_freqdino_config(cfg)
    defaults = cfg.clone()
    if config_file:
        merge_config_file(cfg, config_file)
    _merge_options(cfg, opts)
    for check in CHECKS:
        check(cfg)
    _say_ignored_keys(cfg, defaults)
    settle_device(cfg)
    return cfg


def lookup(cfg, key):
    """The value under a dotted key."""
    for name in key.split("."):
        cfg = cfg[name]
    return cfg


def _say_ignored_keys(cfg, defaults):
    changed = [f"{key} ({why})" for key, why in IGNORED_KEYS.items() if lookup(cfg, key) != lookup(defaults, key)]
    if changed:
        logging.getLogger(__name__).warning("ignored, as in the published code: %s", "; ".join(changed))


def settle_device(cfg):
    """Fall back to the CPU where CUDA is asked for and absent; switch mixed precision off on the CPU. Logs both."""
    logger = logging.getLogger(__name__)
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logger.warning("MODEL.DEVICE is %s but CUDA is not available: running on the CPU", cfg.MODEL.DEVICE)
        cfg.MODEL.DEVICE = "cpu"
    if cfg.SOLVER.AMP.DTYPE not in ("float16", "bfloat16"):
        raise ConfigError(f"SOLVER.AMP.DTYPE is {cfg.SOLVER.AMP.DTYPE!r}; float16 or bfloat16 are possible")
    if cfg.SOLVER.AMP.ENABLED and cfg.MODEL.DEVICE == "cpu":
        logger.warning("SOLVER.AMP.ENABLED is switched off: mixed-precision training needs CUDA")
        cfg.SOLVER.AMP.ENABLED = False

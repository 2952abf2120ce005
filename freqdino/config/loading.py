"""Reading configurations: YAML that is safe, merging that says what is wrong and where, and the device settled."""
import difflib
import logging
import os
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager

from freqdino.config.checks import CHECKS
from freqdino.config.effects import OTHER_BACKBONES, flat_keys, keys_without_effect
from freqdino.config.epochs import let_iterations_win
from freqdino.config.keys import IGNORED_KEYS, default_config, lookup
from freqdino.config.values import converted
from freqdino.errors import ConfigError, UnknownKeyError


class _Section(dict):
    """A mapping of a YAML file; ``written``: key -> the text that its value is written as."""

    written: dict[str, str]


class _PlainYamlLoader(yaml.SafeLoader):
    """SafeLoader that keeps the last of duplicate keys, as published files rely on, and remembers the others."""

    def construct_yaml_map(self, node: yaml.MappingNode) -> Iterator[_Section]:
        section = _Section()
        yield section
        section.update(self.construct_mapping(node))
        section.written = {key_node.value: value_node.value for key_node, value_node in node.value
                           if isinstance(value_node, yaml.ScalarNode)}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge" or not isinstance(key_node, yaml.ScalarNode):
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                self.duplicates.append(f"{key} (line {key_node.start_mark.line + 1})")
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


_PlainYamlLoader.add_constructor("tag:yaml.org,2002:map", _PlainYamlLoader.construct_yaml_map)


def read_yaml(path: str) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ConfigError for a missing file, broken YAML or a tag that would run code."""
    if not PathManager.isfile(path):
        raise ConfigError(f"{path}: no such configuration file")
    with PathManager.open(path, "rb") as file:      # bytes: YAML itself tells UTF-8 from UTF-16
        content = file.read()
    try:
        loader = _PlainYamlLoader(content)
        loader.name, loader.duplicates = path, []
        values = loader.get_single_data()
        loader.dispose()
    except yaml.constructor.ConstructorError as error:
        raise ConfigError(f"{path}: {error.problem} (line {error.problem_mark.line + 1}). Configuration files hold "
                          "plain values; tags that construct objects or run code are refused.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
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
    bases = values.pop("_BASE_", None) or []
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{path}: _BASE_ is {bases!r}; expected a file or a list of files")
    for base in bases:
        base = os.path.expanduser(base)
        if "://" not in base:
            base = os.path.normpath(os.path.join(os.path.dirname(path), base))
        yield from _layers(base, (*visiting, path))
    yield path, values


def _unknown_key(cfg, key, origin):
    if key.startswith("-"):
        return UnknownKeyError(f"{origin}: unknown configuration key {key}. Options of the command stand before the "
                               "first key and value; keys have no dashes")
    known = list(dict.fromkeys(part for known in flat_keys(cfg)         # sections and keys
                               for part in accumulate(known.split("."), "{}.{}".format)))
    leaf = key.rpartition(".")[2].lower()
    near = ([k for k in known if k.lower().endswith("." + leaf)][:3]
            or difflib.get_close_matches(key, known, n=3, cutoff=0.75)
            or difflib.get_close_matches(key.upper(), known, n=3, cutoff=0.75))
    hint = f" Nearest: {', '.join(near)}." if near else ""
    return UnknownKeyError(f"{origin}: unknown configuration key {key}.{hint}")


def _merge_values(cfg, values, origin, prefix="", root=None):
    """Merge nested ``values``, each as the type of its key; else ConfigError that names ``origin`` and the key.

    Returns {key: ``origin``} of the keys that were merged.
    """
    root = cfg if root is None else root
    origins = {}
    for key, value in values.items():
        name, written = f"{prefix}{key}", getattr(values, "written", {}).get(key)
        section, dot, rest = str(key).partition(".")
        if dot and section in cfg:          # SOLVER.BASE_LR: 0.1, as on a command line
            inner = _Section({rest: value})
            inner.written = {} if written is None else {rest: written}
            origins.update(_merge_values(cfg, {section: inner}, origin, prefix, root))
            continue
        if key not in cfg:
            raise _unknown_key(root, name, origin)
        if isinstance(cfg[key], dict) != isinstance(value, dict):
            kind = "a section of keys" if isinstance(cfg[key], dict) else f"a value such as {cfg[key]!r}"
            raise ConfigError(f"{origin}: {name} must be {kind}, got {value!r}")
        if isinstance(value, dict):
            origins.update(_merge_values(cfg[key], value, origin, f"{name}.", root))
            continue
        try:
            cfg[key] = converted(name, value, cfg[key], written)
        except ValueError as error:
            raise ConfigError(f"{origin}: {error}") from error
        origins[name] = origin
    return origins


def _pairs(opts):
    """(key, value) of a command line's ``KEY VALUE`` and ``KEY=VALUE``."""
    words, pairs, end = iter(opts), [], object()
    for word in words:
        key, sign, text = str(word).partition("=")
        value = text if sign else next(words, end)
        if value is end:
            raise ConfigError(f"command line: options come in pairs of key and value, got {len(opts)} words: {opts}")
        pairs.append((key, value))
    return pairs


def _merge_options(cfg, opts):
    """Merge key, value, ... of a command line. Returns as `_merge_values`."""
    origins = {}
    for key, value in _pairs(list(opts)):
        merged = _merge_values(cfg, {key: value}, "command line")
        let_iterations_win(cfg, merged, "command line")
        origins.update(merged)
    return origins


def merge_config_file(cfg: CfgNode, path: str) -> dict[str, str]:
    """Merge a YAML file with its ``_BASE_`` files (one or a list, later wins) into ``cfg``; plain values only.

    Returns the keys that were set -> the file that set them last. Raises ConfigError (UnknownKeyError for a key) that
    names the very file among the bases.
    """
    origins: dict[str, str] = {}
    for origin, values in _layers(os.path.expanduser(path)):
        if values.get("VERSION", cfg.VERSION) not in (cfg.VERSION, str(cfg.VERSION)):
            raise ConfigError(f"{origin}: VERSION {values['VERSION']}; only version {cfg.VERSION} files can be read")
        merged = _merge_values(cfg, values, origin)
        let_iterations_win(cfg, merged, origin)
        origins.update(merged)
    return origins


def configs_folder() -> Path:
    """The configurations that come with the project: in the package where it was installed, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def find_config_file(path: str | os.PathLike) -> str:
    """``path`` where there is such a file or it is a URL; else the file of that name in or beside `configs_folder`.

    So ``coco/instance/mask2former_r50.yaml`` and ``configs/coco/instance/mask2former_r50.yaml`` are found from any
    working directory; which file is taken is logged. A path that leads nowhere comes back as it is.
    """
    name = os.fspath(path)
    if not name or "://" in name or os.path.exists(os.path.expanduser(name)) or os.path.isabs(name):
        return name
    for folder in (configs_folder(), configs_folder().parent):
        if (folder / name).is_file():
            logging.getLogger(__name__).info("%s is not here: reading %s", name, folder / name)
            return str(folder / name)
    return name


def load_config(config_file: str | os.PathLike = "", opts: Sequence = ()) -> CfgNode:
    """A Detectron2 configuration with all keys, ``config_file`` and the trailing ``opts`` (key, value, ...) merged.

    Ends with the device settled: without CUDA, MODEL.DEVICE becomes cpu and mixed precision is off, each said once.
    MODEL.BACKBONE.FREEZE_AT that nobody sets is 0 unless the backbone is a ResNet: Detectron2's default of 2 is that
    of its ResNets, and the published models' other backbones learn in all stages.
    A relative ``config_file`` that is not there is looked for in `configs_folder`. Raises ConfigError or
    UnknownKeyError for what cannot be merged, and ConfigError where one of `freqdino.config.checks` does.
    """
    cfg = default_config()
    defaults, origins = cfg.clone(), {}
    file = find_config_file(config_file) if config_file else ""
    if file:
        origins.update(merge_config_file(cfg, file))
    origins.update(_merge_options(cfg, opts))
    if "MODEL.BACKBONE.FREEZE_AT" not in origins and cfg.MODEL.BACKBONE.NAME in OTHER_BACKBONES:
        cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS = map(os.path.expanduser, (cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS))
    for check in CHECKS:
        check(cfg)
    _say_ignored_keys(cfg, defaults)
    _say_keys_without_effect(cfg, defaults, origins, os.path.expanduser(file))
    settle_device(cfg)
    return cfg


def _say_ignored_keys(cfg, defaults):
    changed = [f"{key} ({why})" for key, why in IGNORED_KEYS.items() if lookup(cfg, key) != lookup(defaults, key)]
    if changed:
        logging.getLogger(__name__).warning("ignored, as in the published code: %s", "; ".join(changed))


def _say_keys_without_effect(cfg, defaults, origins, file):
    """One warning for the keys that somebody changed and nobody reads. ``file``: the one that leads to the others.

    What a base file says of models and for switches that are off does not count: it may be the base of several models
    and backbones and have settings ready, as the published ones are.
    """
    if len(origins) > 0.75 * sum(1 for _ in flat_keys(defaults)):     # the config.yaml of a run says everything
        origins = {key: origin for key, origin in origins.items() if origin == "command line"}

    def counts(key, origin):
        section = key.rpartition(".")[0]
        shared = key.startswith("MODEL.") or section and "ENABLED" in lookup(cfg, section)
        return origin in (file, "command line") or not shared

    changed = [key for key, origin in origins.items() if lookup(cfg, key) != lookup(defaults, key)
               and key not in IGNORED_KEYS and counts(key, origin)]
    reasons: dict[str, list[str]] = {}
    for key, why in keys_without_effect(cfg, changed).items():
        reasons.setdefault(why, []).append(key)
    if reasons:
        logging.getLogger(__name__).warning("without effect in this configuration: %s", "; ".join(
            f"{', '.join(keys)} ({why})" for why, keys in reasons.items()))


def _check_device(device):
    """Raise ConfigError for a device that this machine has not."""
    if device.type == "cuda" and device.index is not None and device.index >= torch.cuda.device_count():
        raise ConfigError(f"MODEL.DEVICE is {device}; this machine has {torch.cuda.device_count()} CUDA devices, "
                          "counted from cuda:0")
    if device.type not in ("cpu", "cuda", "meta"):
        try:
            torch.zeros(1, device=device).cpu()
        except (RuntimeError, AssertionError, ImportError) as error:     # NotImplementedError is a RuntimeError
            raise ConfigError(f"MODEL.DEVICE is {device}, which PyTorch cannot use here: "
                              f"{str(error).splitlines()[0]}") from error


def settle_device(cfg: CfgNode) -> None:
    """Fall back to the CPU where CUDA is asked for and absent; switch mixed precision off on the CPU. Logs both."""
    logger = logging.getLogger(__name__)
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logger.warning("MODEL.DEVICE is %s but CUDA is not available: running on the CPU", cfg.MODEL.DEVICE)
        cfg.MODEL.DEVICE = "cpu"
    _check_device(torch.device(cfg.MODEL.DEVICE))
    if cfg.SOLVER.AMP.DTYPE not in ("float16", "bfloat16"):
        raise ConfigError(f"SOLVER.AMP.DTYPE is {cfg.SOLVER.AMP.DTYPE!r}; float16 or bfloat16 are possible")
    if cfg.SOLVER.AMP.ENABLED and cfg.MODEL.DEVICE == "cpu":
        logger.warning("SOLVER.AMP.ENABLED is switched off: mixed-precision training needs CUDA")
        cfg.SOLVER.AMP.ENABLED = False

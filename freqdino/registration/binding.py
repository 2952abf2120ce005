"""What every factory here is bound with: its published name, the maps it reads, errors in the configuration's terms."""
import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from fvcore.common.registry import Registry
from torch import nn

from freqdino.config import lookup
from freqdino.errors import ArgumentError, ConfigError
from freqdino.layers.linear import swap_linear
from freqdino.ops.backends import HasOperators, unavailable

logger = logging.getLogger(__name__)
Model = TypeVar("Model", bound=nn.Module)


def register(registry: Registry, name: str) -> Callable[[Callable], Callable]:
    """Decorator: the factory stands in ``registry`` under the published ``name`` and keeps its own here."""
    def add(factory: Callable) -> Callable:
        @functools.wraps(factory)
        def published(*args, **kwargs):
            return factory(*args, **kwargs)

        published.__name__ = name           # by which the registry files it
        registry.register(published)
        return factory
    return add


@contextmanager
def errors_about(subject: str | None, **keys: str) -> Iterator[None]:
    """Inside the block a ValueError becomes a ConfigError that opens with ``subject``, a section or what is built.

    ``keys``: argument -> the key that its value comes from, in the section unless it has a dot. An ArgumentError about
    one of them opens with the key. A ConfigError passes, and without a subject whatever is about none of the keys.
    """
    try:
        yield
    except ConfigError:
        raise
    except ValueError as error:
        if isinstance(error, ArgumentError) and error.argument in keys:
            where = f" (in {'.'.join(error.parts)})" if error.parts else ""
            raise ConfigError(f"{whole_key(subject, keys[error.argument])} {error.problem}{where}") from error
        if subject is None:
            raise
        raise ConfigError(f"{subject}: {error}") from error


def whole_key(section: str | None, key: str) -> str:
    """The key of the section; one that has a dot is whole already."""
    return key if "." in key else f"{section}.{key}"


def upper(*arguments: str) -> dict[str, str]:
    """Argument -> key, for those whose key is their name in capitals."""
    return {argument: argument.upper() for argument in arguments}


def build(make: Callable, cfg: CfgNode, section: str, keys: Mapping[str, str], names: Mapping[str, str] = {},
          **arguments: Any) -> Any:
    """``make`` called with the values of ``keys`` (argument -> key, see `errors_about`) and ``arguments``, which win.

    ``names``: what errors are to call other arguments: of its parts, or made of several keys.
    """
    values = {argument: lookup(cfg, whole_key(section, key)) for argument, key in keys.items()}
    with errors_about(section, **keys, **names):
        return make(**{**values, **arguments})


def switched_on(cfg: CfgNode, section: str) -> CfgNode:
    """A copy of the configuration with ``section``.ENABLED True: what a name such as build_fdam_vit_backbone means."""
    cfg = cfg.clone()
    cfg.defrost()
    lookup(cfg, section).ENABLED = True
    cfg.freeze()
    return cfg


def head_inputs(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, ShapeSpec]:
    """The maps of IN_FEATURES, in its order. Raises ConfigError for one that the backbone does not give."""
    names = cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES
    absent = [name for name in names if name not in input_shape]
    if absent:
        raise ConfigError(f"MODEL.SEM_SEG_HEAD.IN_FEATURES names {absent}, but {cfg.MODEL.BACKBONE.NAME} gives "
                          f"{list(input_shape)}; set IN_FEATURES or the backbone's OUT_FEATURES")
    return {name: input_shape[name] for name in names}


def on_its_device(cfg: CfgNode, model: Model) -> Model:
    """The finished model with what suits MODEL.DEVICE, in whoever's modules, and MODEL.OPERATORS.

    On a CPU with oneDNN torch's linear layers are ours, which are faster. The log says which operators compute. Raises
    ConfigError for MODEL.OPERATORS fused where a kernel that the model needs cannot run.
    """
    device, operators = torch.device(cfg.MODEL.DEVICE), cfg.MODEL.OPERATORS
    if device.type == "cpu" and torch.backends.mkldnn.is_available():
        swap_linear(model)
    kernels = set()
    for module in model.modules():
        if isinstance(module, HasOperators):
            module.operators = operators
            kernels.add(module.kernel)
    for kernel in sorted(kernels, key=lambda kernel: kernel.name):
        reason = "MODEL.OPERATORS is torch" if operators == "torch" else unavailable(kernel.needs, device)
        if reason and operators == "fused":
            raise ConfigError(f"MODEL.OPERATORS is fused, but {kernel.name} cannot run: {reason}")
        logger.info("%s: %s", kernel.name, f"not used, PyTorch's operators are ({reason})" if reason else "used")
    return model

"""What every factory here is bound with: its published name, the maps it reads, errors in the configuration's terms."""
import functools
import re
from collections.abc import Callable
from contextlib import contextmanager

import torch
from detectron2.layers import ShapeSpec
from fvcore.common.registry import Registry
from torch import nn

from freqdino.errors import ConfigError
from freqdino.layers.linear import swap_linear


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
def errors_about(subject: str, **keys: str):
    """Inside the block a ValueError becomes a ConfigError that opens with ``subject``, a key or section.

    ``keys``: argument -> the key that it comes from, which takes its place in the message. A ConfigError passes.
    """
    try:
        yield
    except ConfigError:
        raise
    except ValueError as error:
        message = re.sub(r"\w+", lambda word: keys.get(word[0], word[0]), str(error))
        raise ConfigError(f"{subject}: {message}") from error


def head_inputs(cfg, input_shape: dict[str, ShapeSpec]) -> dict[str, ShapeSpec]:
    """The maps of IN_FEATURES, in its order. Raises ConfigError for one that the backbone does not give."""
    names = cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES
    absent = [name for name in names if name not in input_shape]
    if absent:
        raise ConfigError(f"MODEL.SEM_SEG_HEAD.IN_FEATURES names {absent}, but {cfg.MODEL.BACKBONE.NAME} gives "
                          f"{list(input_shape)}; set IN_FEATURES or the backbone's OUT_FEATURES")
    return {name: input_shape[name] for name in names}


def with_fast_linear(cfg, model: nn.Module) -> nn.Module:
    """The finished model; torch's linear layers in it, whoever wrote them, are ours where these are faster: on the CPU
    with oneDNN."""
    if torch.device(cfg.MODEL.DEVICE).type == "cpu" and torch.backends.mkldnn.is_available():
        swap_linear(model)
    return model

"""MODEL.COMPILE: the parts of a finished model that do its arithmetic, by torch.compile where that works.

A part is compiled in place (`nn.Module.compile`), so that modules, their names and the state dict stay what they are. A
copy (copy.deepcopy, pickle) is not compiled. What cannot be compiled runs as it is, after one warning.
"""
import logging
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from freqdino.errors import ending
from freqdino.modeling.backbones.swin import D2SwinTransformer
from freqdino.modeling.pixel_decoder import MultiScaleDeformablePixelDecoder
from freqdino.ops.backends import fault_of, unavailable

logger = logging.getLogger(__name__)

# What computes the same whatever is learnt from the predictions or made of them.
PARTS = ("backbone", "sem_seg_head.pixel_decoder", "sem_seg_head.predictor")
# Compiled for each size by itself: with open sizes the padding to windows takes torch.compile many minutes to follow.
OF_ONE_SIZE = (D2SwinTransformer,)
# What torch.compile takes: a name, or a function of a graph and its example inputs.
Backend = str | Callable[..., Callable]


def uncompiled(cfg: CfgNode) -> CfgNode:
    """A copy of the configuration with MODEL.COMPILE False, for who looks into the modules while they run."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.COMPILE = False
    cfg.freeze()
    return cfg


def compile_parts(model: nn.Module, device: torch.device, backend: Backend = "inductor") -> None:
    """Compile `PARTS` of the model, which is to run on ``device``, in place; each when it is first called.

    A warning says why where nothing can be compiled there, where a part is called by another name than ``forward``,
    and later where one turns out to be beyond the compiler.
    """
    reason = reason_against(device, backend)
    if reason:
        logger.warning("MODEL.COMPILE is True, but nothing is compiled: %s", reason)
        return
    parts = {name: part for name, part in model.named_modules() if name in PARTS}
    for name, part in parts.items():
        if hasattr(part, "forward_features") and not isinstance(part, MultiScaleDeformablePixelDecoder):
            logger.warning("MODEL.COMPILE: %s runs uncompiled: it is a %s, of which forward_features is called and not "
                           "the module itself", name, type(part).__name__)
            continue
        part.compile(backend=backend, dynamic=False if isinstance(part, OF_ONE_SIZE) else None)
        # Where torch keeps what a call of the module runs, and what it leaves out of copies.
        part._compiled_call_impl = partial(_run, part, name, part._compiled_call_impl)
        logger.info("MODEL.COMPILE: %s is compiled when it first runs, which may take minutes", name)


def _run(part: nn.Module, name: str, compiled: Callable, *inputs: Any, **named: Any) -> Any:
    """What the compiled part gives; where the compiler fails, what the part itself does, from then on."""
    try:
        return compiled(*inputs, **named)
    except torch._dynamo.exc.TorchDynamoException as error:
        part._compiled_call_impl = None
        logger.warning("MODEL.COMPILE: %s runs uncompiled, its compilation %s", name, ending(_cause(error)))
    return part(*inputs, **named)


@lru_cache
def reason_against(device: torch.device, backend: Backend) -> str | None:
    """Why torch.compile does not work on a device, found by compiling a function; None where it does."""
    lacking = unavailable(("triton",), device) if device.type == "cuda" else None
    return lacking or fault_of(partial(_trial, backend), device, torch.float32)


def _trial(backend: Backend, device: torch.device, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """Value and gradient of a small function, compiled and as it is."""
    def function(x):
        return x.sin() * x.exp()

    x = torch.linspace(-1, 1, 64, dtype=dtype, device=device, requires_grad=True)
    results = []
    try:
        for computed in (torch.compile(function, backend=backend), function):
            output = computed(x)
            results.append((output, *torch.autograd.grad(output.sum(), x)))
    except torch._dynamo.exc.TorchDynamoException as error:
        raise _cause(error) from error
    return list(zip(*results))


def _cause(error: Exception) -> Exception:
    """What the compiler raised, without torch.compile's words round it."""
    return getattr(error, "inner_exception", error)

"""Which implementation of a sparse operator runs: PyTorch's own operators, or one fused kernel on CUDA.

``auto`` takes the fused kernel where it can run, ``torch`` never, ``fused`` is an error where it cannot. A fused kernel
proves itself before its first use in a process, for each device and type: on a small input its value and gradients are
held against the operator's definition. Where it does not run or differs, one warning says so and PyTorch's operators
serve; nobody meets wrong numbers on hardware that has not been seen.
"""
import importlib.util
import logging
import os
import shutil
import sysconfig
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from freqdino.errors import ending

logger = logging.getLogger(__name__)

OPERATORS = ("auto", "torch", "fused")
# Largest difference from the definition, relative to the largest value: roundings of sums and of the result.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2, torch.float64: 1e-9}

# A trial of a kernel: on tensors of a device and a type, its results and the definition's.
Trial = Callable[[torch.device, torch.dtype], list[tuple[Tensor, Tensor]]]


class FusedKernel:
    """A kernel for CUDA beside PyTorch's operators.

    ``needs``: packages that it is made of. ``repeats``: whether its results repeat bit for bit; one that does not is
    left out under ``torch.use_deterministic_algorithms(True)``.
    """

    def __init__(self, name: str, *, needs: tuple[str, ...], repeats: bool, trial: Trial):
        self.name, self.needs, self.repeats, self._trial = name, needs, repeats, trial
        self._faults: dict[tuple[torch.device, torch.dtype], str | None] = {}

    def serves(self, tensor: Tensor, operators: str) -> bool:
        """Whether the kernel computes with the tensor. Raises RuntimeError where ``fused`` is asked for and it cannot.
        """
        if operators == "torch" or operators == "auto" and tensor.device.type != "cuda":
            return False
        reason = self.reason_against(tensor.device, tensor.dtype)
        if reason and operators == "fused":
            raise RuntimeError(f"operators='fused', but {self.name} cannot run: {reason}")
        return reason is None

    def reason_against(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """Why the kernel does not run there; None where it does."""
        reason = unavailable(self.needs, device)
        if reason is None and torch.are_deterministic_algorithms_enabled() and not self.repeats:
            reason = "its sums have no fixed order, and torch.use_deterministic_algorithms(True) is set"
        if reason is None and dtype not in TOLERANCE:
            reason = f"it has no {dtype}"
        return reason or self._fault(device, dtype)

    def _fault(self, device, dtype):
        """The trial's outcome, told once."""
        if (device, dtype) not in self._faults:
            self._faults[device, dtype] = fault = fault_of(self._trial, device, dtype)
            if fault:
                logger.warning("%s is not used for %s on %s, PyTorch's operators are: %s", self.name, dtype, device,
                               fault)
        return self._faults[device, dtype]


def fault_of(trial: Trial, device: torch.device, dtype: torch.dtype) -> str | None:
    """How a trial ends or how far its results are from the definition's; None where all is well."""
    try:
        with torch.enable_grad(), torch.inference_mode(False), torch.autocast(device.type, enabled=False):
            results = trial(device, dtype)
    except Exception as error:      # whatever a compiler, a driver or another package says
        return f"it {ending(error)}"
    for actual, expected in results:
        difference = (actual.double() - expected.double()).abs().max()
        if not difference <= TOLERANCE[dtype] * expected.double().abs().max():
            return f"it differs from the definition by {float(difference):.2g}"
    return None


class HasOperators:
    """Base of the modules that call a sparse operator. ``operators``: which implementation; who builds them may set it.
    ``kernel``: the fused one.
    """

    operators = "auto"
    kernel: FusedKernel


def c_compiler() -> str | None:
    """The one that Triton takes."""
    return os.environ.get("CC") or shutil.which("clang") or shutil.which("gcc")


@lru_cache
def unavailable(needs: tuple[str, ...], device: torch.device) -> str | None:
    """What a kernel lacks on a device: the device itself, packages, a C compiler for Triton's launchers."""
    if device.type != "cuda":
        return f"{device.type} is not CUDA"
    missing = [package for package in needs if importlib.util.find_spec(package) is None]
    if missing:
        return f"{' and '.join(missing)} not installed"
    capability = torch.cuda.get_device_capability(device)
    if capability < (7, 0):
        return f"{torch.cuda.get_device_name(device)} has compute capability {capability[0]}.{capability[1]}, below 7.0"
    if not c_compiler():
        return "Triton needs a C compiler"
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        return "Triton needs Python's headers"
    return None

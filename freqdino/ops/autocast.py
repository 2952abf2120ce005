"""Autocast as the operators and modules ask for it, on every device."""
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def autocast_type(tensor: Tensor) -> torch.dtype | None:
    """The type that autocast computes in on the tensor's device; None where it is off, or the device has none."""
    device = tensor.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def product_type(x: Tensor) -> torch.dtype:
    """The type in which matrix products with x are computed: autocast's where that is on."""
    return autocast_type(x) or x.dtype


def without_autocast(tensor: Tensor) -> AbstractContextManager:
    """A context in which what is computed on the tensor's device keeps the types it is given."""
    return nullcontext() if autocast_type(tensor) is None else torch.autocast(tensor.device.type, enabled=False)

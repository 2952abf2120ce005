"""Small tensors of numbers that follow from sizes, copied to a device once.

Each copy of a list to CUDA waits until all that is queued there is done.
"""
from functools import lru_cache

import torch
from torch import Tensor

from freqdino.ops.modules import is_exported

Numbers = tuple[float, ...] | tuple[tuple[float, ...], ...]


def constant(numbers: Numbers, dtype: torch.dtype, device: torch.device) -> Tensor:
    """``torch.tensor`` of the numbers; on CUDA the same tensor every time, which nobody may write to.

    To torch.export sizes may be symbols, of which none can be kept.
    """
    if device.type == "cuda" and not is_exported():
        return _kept(numbers, dtype, device)
    return torch.tensor(numbers, dtype=dtype).to(device)


@lru_cache(maxsize=1024)
def _kept(numbers, dtype, device):
    with torch.inference_mode(False):       # whose tensors could not serve a later training
        return torch.tensor(numbers, dtype=dtype).to(device)

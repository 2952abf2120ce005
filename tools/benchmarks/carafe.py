"""Content-aware reassembly (CARAFE): fast path against unfold.

Source of the sizes: FreqFusion's last unit on an 800 × 1344 image halved, 256 channels.
"""
from collections.abc import Iterator

import torch

from freqdino.ops.carafe import carafe, carafe_reference
from tools.benchmarks.measure import Case


def cases(device: torch.device) -> Iterator[Case]:
    for batch, kernel_size, up in ((1, 5, 2), (2, 5, 2), (1, 3, 1)):
        x = torch.randn(batch, 256, 100 // up, 168 // up, device=device)
        mask = torch.rand(batch, kernel_size**2, 100, 168, device=device).softmax(1)
        size = f"batch {batch}, 256 × 100 × 168 out, k {kernel_size}, up {up}"
        arguments = (x, mask, kernel_size, 1, up)

        yield Case(f"forward, {size}", {"unfold": lambda: carafe_reference(*arguments),
                                        "carafe": lambda: carafe(*arguments)}, "unfold", "≥ 5 × faster")

"""Content-aware reassembly (CARAFE): fast path against unfold.

Sizes: FreqFusion's low-pass (k 5, up 2) and high-pass (k 3) at stride 8 of an 800 × 1344 image, and one small map.
"""
from collections.abc import Iterator
from functools import partial

import torch

from freqdino.analysis.benchmarks.measure import Case, with_gradient, without_gradient
from freqdino.ops.carafe import carafe, carafe_reference

CHANNELS = 256


def cases(device: torch.device) -> Iterator[Case]:
    for batch, height, width, kernel_size, up in ((1, 100, 168, 5, 2), (2, 100, 168, 5, 2), (1, 100, 168, 3, 1),
                                                  (4, 16, 16, 5, 2)):
        x = torch.randn(batch, CHANNELS, height // up, width // up, device=device, requires_grad=True)
        mask = torch.rand(batch, kernel_size**2, height, width, device=device).softmax(1).requires_grad_()
        grad_output = torch.randn(batch, CHANNELS, height, width, device=device)
        runs = {name: partial(operator, x, mask, kernel_size, 1, up)
                for name, operator in (("unfold", carafe_reference), ("carafe", carafe))}
        output_map = f"{grad_output.numel() * grad_output.element_size() / 2**20:.1f} MiB"
        title = f"batch {batch}, {CHANNELS} × {height} × {width} out ({output_map}), k {kernel_size}, up {up}"
        target = "≥ 5 × faster, peak ≤ 3 output maps"
        yield Case(f"forward, {title}", {name: without_gradient(run) for name, run in runs.items()}, "unfold", target)
        yield Case(f"forward and backward, {title}",
                   {name: with_gradient(run, (x, mask), grad_output) for name, run in runs.items()}, "unfold", target)

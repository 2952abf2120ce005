"""Content-aware reassembly (CARAFE): fast path against unfold.

Sizes: FreqFusion's low-pass (k 5, up 2) and high-pass (k 3) at stride 8 of an 800 × 1344 image, and one small map.
"""
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from freqdino.analysis.benchmarks.measure import Case
from freqdino.ops.carafe import carafe, carafe_reference

CHANNELS = 256


def cases(device: torch.device) -> Iterator[Case]:
    for batch, height, width, kernel_size, up in ((1, 100, 168, 5, 2), (2, 100, 168, 5, 2), (1, 100, 168, 3, 1),
                                                  (4, 16, 16, 5, 2)):
        x = torch.randn(batch, CHANNELS, height // up, width // up, device=device)
        mask = torch.rand(batch, kernel_size**2, height, width, device=device).softmax(1)
        grad_output = torch.randn(batch, CHANNELS, height, width, device=device)
        geometry = (kernel_size, 1, up)
        output_map = f"{grad_output.numel() * grad_output.element_size() / 2**20:.1f} MiB"
        title = f"batch {batch}, {CHANNELS} × {height} × {width} out ({output_map}), k {kernel_size}, up {up}"
        target = "≥ 5 × faster, peak ≤ 3 output maps"
        yield Case(f"forward, {title}", {"unfold": lambda: forward(carafe_reference, x, mask, geometry),
                                         "carafe": lambda: forward(carafe, x, mask, geometry)}, "unfold", target)
        yield Case(f"forward and backward, {title}",
                   {"unfold": lambda: backward(carafe_reference, x, mask, geometry, grad_output),
                    "carafe": lambda: backward(carafe, x, mask, geometry, grad_output)}, "unfold", target)


@torch.no_grad()
def forward(operator: Callable[..., Tensor], x: Tensor, mask: Tensor, geometry: tuple[int, int, int]) -> Tensor:
    return operator(x, mask, *geometry)


def backward(operator: Callable[..., Tensor], x: Tensor, mask: Tensor, geometry: tuple[int, int, int],
             grad_output: Tensor) -> tuple[Tensor, ...]:
    x, mask = x.detach().requires_grad_(), mask.detach().requires_grad_()
    return torch.autograd.grad(operator(x, mask, *geometry), (x, mask), grad_output)

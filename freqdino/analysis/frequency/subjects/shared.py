"""What the subjects share: numbers as JSON has them, means over images, the choice of a layer.

Curves and single numbers are means over the images, maps are the first image's; a number that is undefined is None.
"""
import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn


class Source(Protocol):
    """What subjects ask of a model with its images; ``sources`` has them."""

    name: str
    model: nn.Module
    records: list[dict]     # of the images, at least one

    def run(self, record: dict) -> None:
        """Send an image through the model."""


def plain(numbers: Tensor | list | float) -> list | float | None:
    """Numbers as JSON has them: six significant digits, None for NaN and infinity."""
    if isinstance(numbers, Tensor):
        return plain(numbers.tolist())
    if isinstance(numbers, list):
        return [plain(part) for part in numbers]
    return float(f"{numbers:.6g}") if math.isfinite(numbers) else None


def mean_over_images(values: Sequence[Tensor | float]) -> list | float | None:
    """Mean of what is defined."""
    return plain(torch.stack([torch.as_tensor(value, dtype=torch.float64) for value in values]).nanmean(0))


def chosen(items: list, index: int | None, default: int, kind: str):
    """The item that --layer names. ValueError, with the number of items, for one that is not there."""
    if index is None:
        return items[default]
    if not 0 <= index < len(items):
        raise ValueError(f"--layer {index}: the model has {len(items)} {kind}, numbered from 0 to {len(items) - 1}")
    return items[index]

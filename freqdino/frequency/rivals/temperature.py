"""Temperatures that anneal while a network trains, as several dynamic convolutions want it for their attention."""
import torch
from torch import Tensor, nn


class Annealed(nn.Module):
    """Base of an attention with the buffer ``temperature``, which goes from the first of `TEMPERATURES` to the second.

    The buffer is part of the state dict: a trained network computes with the temperature that its training ended with.
    """

    TEMPERATURES: tuple[float, float]
    temperature: Tensor

    def make_temperature(self) -> None:
        self.register_buffer("temperature", torch.tensor(self.TEMPERATURES[0]))

    def anneal(self, progress: float) -> None:
        """Set what is due after a share of the annealing, from 0 (its start) to 1: linear in between."""
        start, end = self.TEMPERATURES
        self.temperature.fill_(start + (end - start) * progress)


def anneal(module: nn.Module, progress: float) -> None:
    """`Annealed.anneal` of everything inside ``module``."""
    for part in module.modules():
        if isinstance(part, Annealed):
            part.anneal(progress)

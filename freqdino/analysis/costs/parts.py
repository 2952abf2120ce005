"""A model's parts: which modules they are, which of them runs, and for how long."""
import time
from collections.abc import Callable, Mapping

import torch
from torch import nn

REST = "rest"
# A pixel decoder is called by the second name, past the module's own __call__.
METHODS = ("forward", "forward_features")


def split_into_parts(model: nn.Module) -> dict[str, nn.Module]:
    """The model's children by name; a head with a pixel decoder is split into its own children."""
    parts = {}
    for name, child in model.named_children():
        if hasattr(child, "pixel_decoder"):
            parts |= {f"{name}.{inner}": module for inner, module in child.named_children()}
        else:
            parts[name] = child
    return parts


class PartClock:
    """Inside ``with``: follows the calls of the parts. ``seconds`` then holds each part's time, REST what is left.

    Parts that call each other share the time out: every moment belongs to the innermost one.
    """

    def __init__(self, parts: Mapping[str, nn.Module], device: torch.device):
        self.parts, self.device = parts, device
        self.seconds = dict.fromkeys((*parts, REST), 0.0)
        self.running = [REST]

    def current_part(self) -> str:
        return self.running[-1]

    def __enter__(self):
        for name, module in self.parts.items():
            for method in METHODS:
                if hasattr(module, method):
                    setattr(module, method, self._followed(name, getattr(module, method)))
        self.since = self._now()
        return self

    def __exit__(self, *_):
        self._charge()
        for module in self.parts.values():
            for method in METHODS:
                vars(module).pop(method, None)

    def _followed(self, name: str, run: Callable) -> Callable:
        def followed(*arguments, **options):
            self._charge()
            self.running.append(name)
            try:
                return run(*arguments, **options)
            finally:
                self._charge()
                self.running.pop()
        return followed

    def _charge(self):
        """Put the time since the last change down to the part that was running."""
        now = self._now()
        self.seconds[self.current_part()] += now - self.since
        self.since = now

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

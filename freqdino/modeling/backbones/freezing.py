"""Freezing the first stages of a backbone that is no ResNet, as Detectron2 freezes those of a ResNet, and its layers.

Sources: Detectron2's ``ResNet.freeze``: parameters that learn nothing and normalisations that keep their statistics;
BEiT (arXiv 2106.08254), whose layers learn the more slowly the lower they are.
"""
from collections.abc import Sequence

from detectron2.modeling import Backbone

STAGE_NAMES = ("stem", "res2", "res3", "res4", "res5")


class FreezableBackbone(Backbone):
    """A backbone that says in `stage_parts` what its stages are made of, and a plain transformer in `layer_parts` what
    its layers are; put before other bases."""

    frozen_modules: frozenset[str] = frozenset()

    def stage_parts(self) -> Sequence[Sequence[str]]:
        """Names of the modules and parameters of the stem and of the four stages, in this order."""
        raise NotImplementedError

    def layer_parts(self) -> Sequence[Sequence[str]]:
        """Names of the modules and parameters before the blocks, then of each block; nothing where there are stages of
        several resolutions."""
        return []

    def freeze(self, freeze_at: int) -> None:
        """Freeze the first ``freeze_at`` of `STAGE_NAMES`, in place: their parameters require no gradient, their
        normalisations, dropout and stochastic depth run as in evaluation whatever ``train`` is told.

        What is put into them later, such as frequency modules, learns.
        """
        parts = {part for stage in self.stage_parts()[:max(freeze_at, 0)] for part in stage}

        def inside(name: str) -> bool:
            words = name.split(".")
            return any(".".join(words[:count]) in parts for count in range(1, len(words) + 1))

        for name, parameter in self.named_parameters():
            if inside(name):
                parameter.requires_grad = False
        leaves = [name for name, module in self.named_modules() if not any(True for _ in module.children())]
        outside = [f"{leaf}." for leaf in leaves if not inside(leaf)]
        self.frozen_modules = frozenset(
            name for name, _ in self.named_modules()
            if parts and name and not any(leaf.startswith(f"{name}.") for leaf in outside))
        self.train(self.training)

    def train(self, mode: bool = True):
        super().train(mode)
        for name, module in self.named_modules():
            if name in self.frozen_modules:
                module.training = False
        return self

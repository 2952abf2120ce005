"""How a family of published checkpoints is written down: its names and what they are called here, as tables."""
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

# In a rule's name: the model's backbone network, which a feature pyramid holds as a part of its own.
NETWORK = "<network>"


@dataclass(frozen=True)
class Rule:
    """Entries whose whole names match ``pattern``, and what the model calls them.

    name: a template with the groups of the match (as of re.sub) and NETWORK, or a function of the match that may give
    None, too.
    change: what makes the model's tensor of the source's, where they differ.
    """

    pattern: str
    name: str | Callable[[re.Match], str | None]
    change: Callable[[Tensor], Tensor] | None = None

    def target(self, name: str) -> str | None:
        """The model's name of an entry; None for one that the rule is not about."""
        match = re.fullmatch(self.pattern, name)
        if match is None:
            return None
        return self.name(match) if callable(self.name) else match.expand(self.name)


@dataclass(frozen=True)
class Requirement:
    """A value of the configuration that weights were trained with and that no shape shows.

    where: it holds for checkpoints with an entry whose name starts like this regular expression; backbone: for
    models with the backbone of that name alone (MODEL.BACKBONE.NAME), "" for any.
    """

    option: str
    value: object
    where: str = ""
    backbone: str = ""


@dataclass(frozen=True)
class Family:
    """Checkpoints of one origin.

    title: who publishes what. markers: regular expressions, each the start of some entry's name in every checkpoint of
    the family. rules: the first that matches an entry names it. left: start of a name (regular expression) -> why such
    entries are of no use here. requirements: what the configuration must say. hints: part of a name (regular
    expression) -> what to look at if that does not fit. foreign_recipes: what the text of a training configuration in
    the file must not say (regular expression) -> why. whole_model: the checkpoint has to fill the whole model; False:
    the backbone, its names without ``backbone.``; None: what it holds of the model. note: what the report adds.
    """

    title: str
    markers: Sequence[str]
    rules: Sequence[Rule]
    left: Mapping[str, str] = field(default_factory=dict)
    requirements: Sequence[Requirement] = ()
    hints: Mapping[str, str] = field(default_factory=dict)
    foreign_recipes: Mapping[str, str] = field(default_factory=dict)
    whole_model: bool | None = True
    note: str = ""

    def is_origin_of(self, names: Sequence[str]) -> bool:
        return all(any(re.match(marker, name) for name in names) for marker in self.markers)

    def place(self, name: str) -> tuple[str, Rule] | None:
        """The model's name of an entry and the rule that says so."""
        for rule in self.rules:
            target = rule.target(name)
            if target is not None:
                return target, rule
        return None

    def reason_to_leave(self, name: str) -> str | None:
        return next((reason for pattern, reason in self.left.items() if re.match(pattern, name)), None)


# ImageNet's statistics of RGB images, which torchvision, timm and OpenMMLab's "pytorch" style normalise with.
RGB_INPUT = (
    Requirement("INPUT.FORMAT", "RGB"),
    Requirement("MODEL.PIXEL_MEAN", [123.675, 116.28, 103.53]),
    Requirement("MODEL.PIXEL_STD", [58.395, 57.12, 57.375]),
)

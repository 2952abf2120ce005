"""What no name and no shape shows: whether the configuration computes with weights as it was when they were trained."""
import re
from collections.abc import Mapping, Sequence

from detectron2.config import CfgNode

from freqdino.config.loading import lookup
from freqdino.conversion.rules import Family, Requirement


def unmet_requirements(family: Family, names: Sequence[str], cfg: CfgNode) -> list[tuple[str, object, object]]:
    """(option, what the weights need, what the configuration says) for each that disagrees."""
    return [(requirement.option, requirement.value, lookup(cfg, requirement.option))
            for requirement in applicable_requirements(family, names, cfg)
            if _plain(lookup(cfg, requirement.option)) != _plain(requirement.value)]


def applicable_requirements(family: Family, names: Sequence[str], cfg: CfgNode) -> list[Requirement]:
    """Those that hold for a checkpoint with entries of these names in a model of this configuration."""
    return [requirement for requirement in family.requirements
            if requirement.backbone in ("", cfg.MODEL.BACKBONE.NAME)
            and any(re.match(requirement.where, name) for name in names)]


def _plain(value: object) -> object:
    """Tuples as lists, all the way down: configurations have either."""
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def foreign_recipe(checkpoint: Mapping[str, object], family: Family) -> str | None:
    """Why the training configuration that OpenMMLab keeps in a checkpoint's ``meta`` is none of the family's, if so."""
    meta = checkpoint.get("meta")
    if not isinstance(meta, Mapping):
        return None
    text = " ".join(str(meta[key]) for key in ("config", "cfg") if key in meta)
    return next((why for pattern, why in family.foreign_recipes.items() if re.search(pattern, text)), None)

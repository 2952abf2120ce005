"""Frequency switches in Detectron2's own models, which read few of them: an error where one would change nothing."""
from detectron2.modeling import META_ARCH_REGISTRY

from ..config import CHECKS, ConfigError
from .backbones.switches import check_switches

# Switch of our models' pixel decoder -> what Detectron2's models have in its place.
HEAD_SWITCHES = {
    "FREQFUSION": "MODEL.BACKBONE.NAME build_resnet_freqfusion_fpn_backbone has FreqFusion in a feature pyramid",
    "FDAM": "MODEL.BACKBONE.NAME build_fdam_resnet_backbone has FDAM in the backbone",
}


def check_detectron2_model(cfg) -> None:
    """Raise ConfigError for a frequency switch that is on in a model of Detectron2's that does not read it.

    Other projects' models may build our heads and backbones: what they read is not known here.
    """
    name = cfg.MODEL.META_ARCHITECTURE
    if name not in META_ARCH_REGISTRY or not META_ARCH_REGISTRY.get(name).__module__.startswith("detectron2."):
        return
    for switch, instead in HEAD_SWITCHES.items():
        if cfg.MODEL.SEM_SEG_HEAD[switch].ENABLED:
            raise ConfigError(f"MODEL.SEM_SEG_HEAD.{switch}.ENABLED is True, but the meta-architecture {name} does not "
                              "read it; set it to False, or MODEL.META_ARCHITECTURE to MaskFormer or MaskDINO; "
                              f"{instead}")
    check_switches(cfg, in_our_models=False)


CHECKS.append(check_detectron2_model)

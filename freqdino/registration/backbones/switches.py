"""MODEL.BACKBONE.FDCONV.ENABLED and MODEL.BACKBONE.FDAM.ENABLED: which backbone reads which of the two."""
from ...config import ConfigError

# Switch -> names of the builders that read it, in the order of their registration.
READERS = {"FDCONV": [], "FDAM": []}
# Builders that read their switches where our models build them; Detectron2's models call Detectron2's own function.
READ_IN_OUR_MODELS = set()


def reads(*switches: str, in_our_models_alone: bool = False):
    """Decorator of a registered builder: the configuration's ``switches`` change what it builds."""
    def mark(builder):
        for switch in switches:
            READERS[switch].append(builder.__name__)
        if in_our_models_alone:
            READ_IN_OUR_MODELS.add(builder.__name__)
        return builder
    return mark


def check_switches(cfg, *, in_our_models: bool = True) -> None:
    """Raise ConfigError for a switch that is on and that the backbone does not read."""
    name = cfg.MODEL.BACKBONE.NAME
    for switch, builders in READERS.items():
        readers = [builder for builder in builders if in_our_models or builder not in READ_IN_OUR_MODELS]
        if cfg.MODEL.BACKBONE[switch].ENABLED and name not in readers:
            where = "" if in_our_models else f" in the meta-architecture {cfg.MODEL.META_ARCHITECTURE}"
            raise ConfigError(f"MODEL.BACKBONE.{switch}.ENABLED is True, but the backbone {name} does not read it"
                              f"{where}; set it to False, or MODEL.BACKBONE.NAME to one of {', '.join(readers)}")


def with_switch(cfg, switch: str):
    """A copy of the configuration with the switch on: what an alias such as build_fdconv_resnet_backbone means."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.BACKBONE[switch].ENABLED = True
    cfg.freeze()
    return cfg

"""Which of the backbone's maps a head reads: MODEL.SEM_SEG_HEAD.IN_FEATURES."""
from detectron2.layers import ShapeSpec

from ..config import ConfigError


def head_inputs(cfg, input_shape: dict[str, ShapeSpec]) -> dict[str, ShapeSpec]:
    """The maps of IN_FEATURES, in its order. Raises ConfigError for one that the backbone does not give."""
    names = cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES
    absent = [name for name in names if name not in input_shape]
    if absent:
        raise ConfigError(f"MODEL.SEM_SEG_HEAD.IN_FEATURES names {absent}, but {cfg.MODEL.BACKBONE.NAME} gives "
                          f"{list(input_shape)}; set IN_FEATURES or the backbone's OUT_FEATURES")
    return {name: input_shape[name] for name in names}

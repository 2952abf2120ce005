"""Names of normalisations in the configuration: an unknown one is an error that says which key has it.

Detectron2's `get_norm`, which makes them, raises a bare KeyError in the middle of building the model.
"""
from detectron2.layers import get_norm

from ..config import CHECKS, ConfigError, lookup

KEYS = ("MODEL.SEM_SEG_HEAD.NORM", "MODEL.VIT.NECK_NORM", "MODEL.RESNETS.NORM", "MODEL.FPN.NORM",
        "MODEL.ROI_BOX_HEAD.NORM", "MODEL.ROI_MASK_HEAD.NORM")
CHANNELS = 32                               # for a trial; group normalisation has 32 groups


def check_normalisations(cfg) -> None:
    """Raise ConfigError for a name that Detectron2 does not know."""
    for key in KEYS:
        name = lookup(cfg, key)
        try:
            get_norm(name, CHANNELS)
        except KeyError as error:
            raise ConfigError(f"{key} is {name!r}; Detectron2 knows BN, SyncBN, FrozenBN, GN, LN and \"\", "
                              "none") from error


CHECKS.append(check_normalisations)

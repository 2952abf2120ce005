"""Names of normalisations: the key of an unknown one is named before anything is built."""
import pytest

from freqdino.config.loading import load_config
from freqdino.errors import ConfigError

KEYS = ["MODEL.SEM_SEG_HEAD.NORM", "MODEL.VIT.NECK_NORM", "MODEL.RESNETS.NORM", "MODEL.FPN.NORM",
        "MODEL.ROI_BOX_HEAD.NORM", "MODEL.ROI_MASK_HEAD.NORM"]


@pytest.mark.parametrize("key", KEYS)
def test_unknown_name(key):
    for name in ("BN", "SyncBN", "FrozenBN", "GN", "LN", "nnSyncBN", ""):
        load_config(opts=[key, name])
    with pytest.raises(ConfigError, match=f"{key} is 'InstanceNorm'; Detectron2 knows BN, SyncBN"):
        load_config(opts=[key, "InstanceNorm"])

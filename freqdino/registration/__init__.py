"""The binding between configurations and models: reads ``cfg.MODEL`` and fills Detectron2's registries on import."""
from freqdino.errors import needing_detectron2

with needing_detectron2():
    from freqdino.registration import (  # noqa: F401  (they register)
        backbones,
        detectron2_models,
        mask2former,
        mask_dino,
        pixel_decoders,
        semantic_heads,
    )

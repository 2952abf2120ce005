"""The binding between configurations and models: reads ``cfg.MODEL`` and fills Detectron2's registries on import."""
from . import backbones, detectron2_models, mask2former, mask_dino, normalisations, pixel_decoders, semantic_heads

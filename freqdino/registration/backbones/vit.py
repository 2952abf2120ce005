"""Vision transformers: MODEL.VIT.*."""
from detectron2.modeling import BACKBONE_REGISTRY

from ...config import ConfigError
from ...modeling.backbones.fdam_vit import FDAMViTBackbone
from .switches import reads


@reads("FDAM")
@BACKBONE_REGISTRY.register()
def build_fdam_vit_backbone(cfg, input_shape):
    """MODEL.VIT.* -> `freqdino.modeling.backbones.fdam_vit.FDAMViTBackbone`."""
    options = cfg.MODEL.VIT
    try:
        return FDAMViTBackbone(
            img_size=options.IMG_SIZE,
            embed_dim=options.EMBED_DIM,
            depth=options.DEPTH,
            num_heads=options.NUM_HEADS,
            init_values=options.INIT_VALUES,
            drop_path_rate=options.DROP_PATH_RATE,
            out_indices=options.OUT_INDICES,
            activation_checkpointing=options.USE_CHECKPOINT,
        )
    except ValueError as error:
        raise ConfigError(f"MODEL.VIT: {error}") from error

"""Vision transformers: MODEL.VIT.*, of plain blocks or FDAM's."""
from detectron2.modeling import BACKBONE_REGISTRY

from ...modeling.backbones.vit import FDAMViTBackbone, ViTBackbone, add_fdlinear
from ..config_errors import errors_about
from .switches import reads, with_switch


@reads("FDCONV", "FDAM")
@BACKBONE_REGISTRY.register()
def build_vit_backbone(cfg, input_shape):
    """MODEL.VIT.* -> `freqdino.modeling.backbones.vit.ViTBackbone`.

    MODEL.BACKBONE.FDAM.ENABLED gives it FDAM's blocks, MODEL.BACKBONE.FDCONV.ENABLED FDLinear in its blocks.
    """
    options, fdconv = cfg.MODEL.VIT, cfg.MODEL.BACKBONE.FDCONV
    backbone = FDAMViTBackbone if cfg.MODEL.BACKBONE.FDAM.ENABLED else ViTBackbone
    with errors_about("MODEL.VIT", dim="EMBED_DIM", num_heads="NUM_HEADS", out_indices="OUT_INDICES",
                      neck_norm="NECK_NORM"):
        transformer = backbone(
            img_size=options.IMG_SIZE,
            in_chans=input_shape.channels,
            embed_dim=options.EMBED_DIM,
            depth=options.DEPTH,
            num_heads=options.NUM_HEADS,
            init_values=options.INIT_VALUES,
            drop_path_rate=options.DROP_PATH_RATE,
            out_indices=options.OUT_INDICES,
            neck_norm=options.NECK_NORM,
            activation_checkpointing=options.USE_CHECKPOINT,
        )
    if fdconv.ENABLED:
        with errors_about(f"MODEL.BACKBONE.FDCONV.KERNEL_NUM is {fdconv.KERNEL_NUM}"):
            add_fdlinear(transformer, kernel_num=fdconv.KERNEL_NUM)
    return transformer


@reads("FDCONV", "FDAM")
@BACKBONE_REGISTRY.register()
def build_fdam_vit_backbone(cfg, input_shape):
    """build_vit_backbone with MODEL.BACKBONE.FDAM.ENABLED."""
    return build_vit_backbone(with_switch(cfg, "FDAM"), input_shape)

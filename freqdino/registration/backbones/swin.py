"""Detectron2's Swin Transformer by its published name: MODEL.SWIN.*, with frequency modules by switch."""
from detectron2.modeling import BACKBONE_REGISTRY

from ...modeling.backbones import swin
from ..config_errors import errors_about
from .switches import reads
from .token_blocks import add_frequency_modules


@reads("FDCONV", "FDAM")
@BACKBONE_REGISTRY.register()
def D2SwinTransformer(cfg, input_shape):
    """MODEL.SWIN.* -> `freqdino.modeling.backbones.swin.D2SwinTransformer`.

    MODEL.BACKBONE.FDAM.ENABLED: attention inversion in each window and frequency scaling of both branches;
    MODEL.BACKBONE.FDCONV.ENABLED: FDLinear in attention and MLP.
    """
    options = cfg.MODEL.SWIN
    with errors_about("MODEL.SWIN"):
        network = swin.D2SwinTransformer(
            in_chans=input_shape.channels,
            out_features=options.OUT_FEATURES,
            pretrain_img_size=options.PRETRAIN_IMG_SIZE,
            patch_size=options.PATCH_SIZE,
            embed_dim=options.EMBED_DIM,
            depths=options.DEPTHS,
            num_heads=options.NUM_HEADS,
            window_size=options.WINDOW_SIZE,
            mlp_ratio=options.MLP_RATIO,
            qkv_bias=options.QKV_BIAS,
            qk_scale=options.QK_SCALE,
            drop_rate=options.DROP_RATE,
            attn_drop_rate=options.ATTN_DROP_RATE,
            drop_path_rate=options.DROP_PATH_RATE,
            ape=options.APE,
            patch_norm=options.PATCH_NORM,
            use_checkpoint=options.USE_CHECKPOINT,
        )
    if cfg.MODEL.BACKBONE.FDCONV.ENABLED or cfg.MODEL.BACKBONE.FDAM.ENABLED:
        swin.use_frequency_blocks(network)
        add_frequency_modules(cfg, network, "MODEL.SWIN")
    return network

"""Backbones by their registry names, with FDConv and FDAM where the configuration switches them on."""
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, build_resnet_backbone
from detectron2.modeling import build_backbone as build_registered_backbone

from ..config import ConfigError
from ..modeling.backbones import fdam_vit, resnet, swin

# Which backbones read MODEL.BACKBONE.<key>.ENABLED. A ResNet has no attention: its FDAM is frequency scaling alone.
RESNETS = ("build_resnet_backbone", "build_fdconv_resnet_backbone", "build_fdam_resnet_backbone")
READERS = {"FDCONV": RESNETS, "FDAM": (*RESNETS, "build_fdam_vit_backbone")}


def build_backbone(cfg):
    """The backbone named by MODEL.BACKBONE.NAME; Detectron2's ResNet with the frequency modules that are switched on.

    Raises ConfigError for a frequency module that the backbone has no place for.
    """
    name = cfg.MODEL.BACKBONE.NAME
    for key, readers in READERS.items():
        if cfg.MODEL.BACKBONE[key].ENABLED and name not in readers:
            raise ConfigError(f"MODEL.BACKBONE.{key}.ENABLED is True, but the backbone {name} does not read it; set it "
                              f"to False, or MODEL.BACKBONE.NAME to one of {', '.join(readers)}")
    if name == "build_resnet_backbone":
        return _resnet(cfg, ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN)), fdconv=False, fdam=False)
    return build_registered_backbone(cfg)


def _resnet(cfg, input_shape, *, fdconv: bool, fdam: bool):
    """Detectron2's ResNet with what the name (``fdconv``, ``fdam``) or a key switches on."""
    options = cfg.MODEL.BACKBONE.FDCONV
    fdconv = fdconv or options.ENABLED
    if fdconv and any(cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE):
        raise ConfigError("FDConv (MODEL.BACKBONE.FDCONV.ENABLED) cannot replace deformable convolutions; set "
                          "MODEL.RESNETS.DEFORM_ON_PER_STAGE to [False, False, False, False]")
    network = build_resnet_backbone(cfg, input_shape)
    # After the first stages were frozen: the frequency modules stay trainable there.
    if fdconv:
        try:
            resnet.add_fdconv(network, kernel_num=options.KERNEL_NUM)
        except ValueError as error:
            raise ConfigError(f"MODEL.BACKBONE.FDCONV.KERNEL_NUM is {options.KERNEL_NUM}: {error}") from error
    if fdam or cfg.MODEL.BACKBONE.FDAM.ENABLED:
        resnet.add_frequency_scale(network)
    return network


@BACKBONE_REGISTRY.register()
def build_fdconv_resnet_backbone(cfg, input_shape):
    """build_resnet_backbone with MODEL.BACKBONE.FDCONV.ENABLED, for any of Detectron2's models."""
    return _resnet(cfg, input_shape, fdconv=True, fdam=False)


@BACKBONE_REGISTRY.register()
def build_fdam_resnet_backbone(cfg, input_shape):
    """build_resnet_backbone with MODEL.BACKBONE.FDAM.ENABLED, for any of Detectron2's models."""
    return _resnet(cfg, input_shape, fdconv=False, fdam=True)


@BACKBONE_REGISTRY.register()
def build_fdam_vit_backbone(cfg, input_shape):
    """MODEL.VIT.* -> `freqdino.modeling.backbones.fdam_vit.FDAMViTBackbone`."""
    options = cfg.MODEL.VIT
    try:
        return fdam_vit.FDAMViTBackbone(
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


@BACKBONE_REGISTRY.register()
def D2SwinTransformer(cfg, input_shape):
    """MODEL.SWIN.* -> `freqdino.modeling.backbones.swin.D2SwinTransformer`."""
    options = cfg.MODEL.SWIN
    return swin.D2SwinTransformer(
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

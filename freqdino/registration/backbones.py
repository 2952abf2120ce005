"""Backbones by their registry names, with FDConv and FDAM where MODEL.BACKBONE.{FDCONV,FDAM}.ENABLED switch them on,
and in ResNets the dynamic convolution of MODEL.BACKBONE.DYNAMIC_CONV.NAME; its fdconv is another name of the switch.

ResNets have no attention: their FDAM is frequency scaling alone. Sources of the feature pyramids: FreqFusion's Faster
R-CNN, Mask R-CNN and Panoptic FPN (arXiv 2408.12879) and FDConv's Faster and Mask R-CNN (arXiv 2503.18783).
"""
import logging

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_resnet_backbone
from detectron2.modeling import build_backbone as build_registered_backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import nn

from freqdino.config.checks import check_dynamic_conv, check_switches
from freqdino.config.effects import FDCONV, dynamic_conv
from freqdino.frequency import FDAMBlock
from freqdino.frequency.fdam.transformer_block import TransformerBlock
from freqdino.modeling.activation_checkpointing import checkpoint_blocks
from freqdino.modeling.backbones import mscan, resnet, token_block
from freqdino.modeling.backbones.fpn import FusionFPN
from freqdino.modeling.backbones.freezing import STAGE_NAMES, FreezableBackbone
from freqdino.modeling.backbones.mit import MixTransformer
from freqdino.modeling.backbones.swin import D2SwinTransformer, use_frequency_blocks
from freqdino.modeling.backbones.vit import ViTBackbone, add_fdlinear
from freqdino.registration.binding import build, errors_about, register, switched_on, upper
from freqdino.registration.upsamplers import fusion_maker

logger = logging.getLogger(__name__)


def build_backbone(cfg: CfgNode) -> Backbone:
    """The backbone named by MODEL.BACKBONE.NAME; Detectron2's ResNet with the frequency modules that are switched on.

    Raises ConfigError for a frequency module that the backbone has no place for.
    """
    check_dynamic_conv(cfg)
    check_switches(cfg)
    if cfg.MODEL.BACKBONE.NAME == "build_resnet_backbone":
        return resnet_backbone(cfg, ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN)))
    return build_registered_backbone(cfg)


def freeze(cfg: CfgNode, network: FreezableBackbone) -> None:
    """Freeze what MODEL.BACKBONE.FREEZE_AT says, in place, before frequency modules come in: these learn everywhere."""
    freeze_at = cfg.MODEL.BACKBONE.FREEZE_AT
    with errors_about(f"MODEL.BACKBONE.FREEZE_AT is {freeze_at}"):
        if freeze_at > 0:
            network.freeze(freeze_at)
    say_frozen(cfg, network)


def say_frozen(cfg: CfgNode, network: nn.Module) -> None:
    """One log line that names what is frozen, and the key."""
    frozen = sum(parameter.numel() for parameter in network.parameters() if not parameter.requires_grad)
    freeze_at = cfg.MODEL.BACKBONE.FREEZE_AT
    if freeze_at > 0:
        logger.info("MODEL.BACKBONE.FREEZE_AT is %d: %s of %s are frozen (%s parameters); 0 freezes nothing",
                    freeze_at, ", ".join(STAGE_NAMES[:freeze_at]), cfg.MODEL.BACKBONE.NAME, f"{frozen:,}")


def resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Detectron2's ResNet with what MODEL.BACKBONE.{FDCONV.ENABLED,DYNAMIC_CONV.NAME,FDAM.ENABLED} switch on."""
    check_dynamic_conv(cfg)
    network = build_resnet_backbone(cfg, input_shape)
    say_frozen(cfg, network)
    # After the first stages were frozen: the frequency modules stay trainable there.
    name, options = dynamic_conv(cfg), cfg.MODEL.BACKBONE.DYNAMIC_CONV
    if name == FDCONV:
        with errors_about("MODEL.BACKBONE.FDCONV", kernel_num="KERNEL_NUM"):
            resnet.add_fdconv(network, kernel_num=cfg.MODEL.BACKBONE.FDCONV.KERNEL_NUM)
    elif name:
        with errors_about(f"MODEL.BACKBONE.DYNAMIC_CONV.NAME {name}", num="MODEL.BACKBONE.DYNAMIC_CONV.NUM"):
            resnet.add_rival(network, name, num=options.NUM or None, annealed=options.ANNEAL > 0)
    if cfg.MODEL.BACKBONE.FDAM.ENABLED:
        resnet.add_frequency_scale(network)
    return network


@BACKBONE_REGISTRY.register()
def build_fdconv_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """build_resnet_backbone with MODEL.BACKBONE.FDCONV.ENABLED, for any of Detectron2's models."""
    return resnet_backbone(switched_on(cfg, "MODEL.BACKBONE.FDCONV"), input_shape)


@BACKBONE_REGISTRY.register()
def build_fdam_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """build_resnet_backbone with MODEL.BACKBONE.FDAM.ENABLED, for any of Detectron2's models."""
    return resnet_backbone(switched_on(cfg, "MODEL.BACKBONE.FDAM"), input_shape)


@BACKBONE_REGISTRY.register()
def build_resnet_freqfusion_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Detectron2's build_resnet_fpn_backbone with MODEL.FPN.UPSAMPLER in its top-down path.

    Reads Detectron2's keys of ResNet and FPN, and MODEL.BACKBONE.{FDCONV,FDAM}.ENABLED for the ResNet. With "nearest"
    and without these it is Detectron2's own.
    """
    make_fusion = fusion_maker(cfg, "MODEL.FPN.UPSAMPLER", channels=cfg.MODEL.FPN.OUT_CHANNELS)
    bottom_up = resnet_backbone(cfg, input_shape)
    keys = upper("in_features", "out_channels", "norm", "fuse_type")
    return build(FusionFPN, cfg, "MODEL.FPN", keys, dict.fromkeys(("hr_channels", "lr_channels"), "OUT_CHANNELS"),
                 bottom_up=bottom_up, top_block=LastLevelMaxPool(), make_fusion=make_fusion)


def add_frequency_modules(cfg: CfgNode, network: nn.Module, section: str) -> None:
    """Put what is switched on into all blocks of ``network``, in place.

    Raises ConfigError for a number of groups that does not fit, and for channels that do not, which ``section`` sets.
    """
    fdconv = cfg.MODEL.BACKBONE.FDCONV
    if dynamic_conv(cfg) == FDCONV:
        with errors_about("MODEL.BACKBONE.FDCONV", kernel_num="KERNEL_NUM"):
            token_block.add_fdconv(network, kernel_num=fdconv.KERNEL_NUM)
    if cfg.MODEL.BACKBONE.FDAM.ENABLED:
        with errors_about(f"{section}, with MODEL.BACKBONE.FDAM.ENABLED"):
            token_block.add_fdam(network)


@register(BACKBONE_REGISTRY, "D2SwinTransformer")
def build_swin_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """MODEL.SWIN.* -> `freqdino.modeling.backbones.swin.D2SwinTransformer`.

    MODEL.BACKBONE.FDAM.ENABLED: attention inversion in each window and frequency scaling of both branches;
    MODEL.BACKBONE.FDCONV.ENABLED: FDLinear in attention and MLP.
    """
    keys = upper("out_features", "pretrain_img_size", "patch_size", "embed_dim", "depths", "num_heads", "window_size",
                 "mlp_ratio", "qkv_bias", "qk_scale", "drop_rate", "attn_drop_rate", "drop_path_rate", "ape",
                 "patch_norm", "use_checkpoint")
    network = build(D2SwinTransformer, cfg, "MODEL.SWIN", keys, in_chans=input_shape.channels)
    if dynamic_conv(cfg) or cfg.MODEL.BACKBONE.FDAM.ENABLED:
        use_frequency_blocks(network)       # copies parameters, so before some of them are frozen
    freeze(cfg, network)
    add_frequency_modules(cfg, network, "MODEL.SWIN")
    return network


@BACKBONE_REGISTRY.register()
def build_mit_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """MODEL.MIT.* -> `freqdino.modeling.backbones.mit.MixTransformer`.

    MODEL.BACKBONE.FDAM.ENABLED: inverted attention and frequency scaling of both branches;
    MODEL.BACKBONE.FDCONV.ENABLED: FDLinear in attention and MLP, FDConv for the MLP's convolution.
    """
    keys = {**upper("embed_dims", "depths", "drop_path_rate"), "activation_checkpointing": "USE_CHECKPOINT"}
    network = build(MixTransformer, cfg, "MODEL.MIT", keys, {"drop_path": "DROP_PATH_RATE"},
                    in_chans=input_shape.channels)
    freeze(cfg, network)
    add_frequency_modules(cfg, network, "MODEL.MIT")
    return network


@BACKBONE_REGISTRY.register()
def build_mscan_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """MODEL.MSCAN.* -> `freqdino.modeling.backbones.mscan.MSCAN`.

    MODEL.BACKBONE.FDCONV.ENABLED: FDConv for the convolutions that it serves; MODEL.BACKBONE.FDAM.ENABLED: frequency
    scaling of both branches.
    """
    keys = upper("size", "embed_dims", "depths", "drop_path_rate", "norm")
    network = build(mscan.MSCAN, cfg, "MODEL.MSCAN", keys, {"drop_path": "DROP_PATH_RATE"},
                    in_chans=input_shape.channels)
    freeze(cfg, network)
    fdconv = cfg.MODEL.BACKBONE.FDCONV
    if dynamic_conv(cfg) == FDCONV:
        with errors_about("MODEL.BACKBONE.FDCONV", kernel_num="KERNEL_NUM"):
            mscan.add_fdconv(network, kernel_num=fdconv.KERNEL_NUM)
    if cfg.MODEL.BACKBONE.FDAM.ENABLED:
        with errors_about("MODEL.MSCAN, with MODEL.BACKBONE.FDAM.ENABLED"):
            mscan.add_frequency_scale(network)
    if cfg.MODEL.MSCAN.USE_CHECKPOINT:
        checkpoint_blocks(network)
    return network


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """MODEL.TIMM.* -> `freqdino.modeling.backbones.timm_backbone.timm_backbone`.

    MODEL.WEIGHTS may be a checkpoint of timm's. MODEL.BACKBONE.FDCONV.ENABLED: FDConv for the convolutions that it
    serves, FDLinear in plain vision transformers; MODEL.BACKBONE.FDAM.ENABLED: FDAM in plain vision transformers,
    frequency scaling in ResNets and ConvNeXts.
    """
    from freqdino.modeling.backbones import timm_backbone  # here, because it takes seconds

    options, fdconv = cfg.MODEL.TIMM, cfg.MODEL.BACKBONE.FDCONV
    keys = {**upper("name", "drop_path_rate"), "activation_checkpointing": "USE_CHECKPOINT"}
    network = build(timm_backbone.timm_backbone, cfg, "MODEL.TIMM", keys, in_chans=input_shape.channels)
    freeze(cfg, network)
    if dynamic_conv(cfg) == FDCONV:
        with errors_about(f"MODEL.BACKBONE.FDCONV with timm's {options.NAME}",
                          kernel_num="MODEL.BACKBONE.FDCONV.KERNEL_NUM"):
            timm_backbone.add_fdconv(network, kernel_num=fdconv.KERNEL_NUM)
    if cfg.MODEL.BACKBONE.FDAM.ENABLED:
        with errors_about(f"MODEL.BACKBONE.FDAM with timm's {options.NAME}"):
            timm_backbone.add_fdam(network)
    return network


@BACKBONE_REGISTRY.register()
def build_vit_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """MODEL.VIT.* -> `freqdino.modeling.backbones.vit.ViTBackbone`.

    MODEL.BACKBONE.FDAM.ENABLED gives it FDAM's blocks, MODEL.BACKBONE.FDCONV.ENABLED FDLinear in its blocks.
    """
    fdconv = cfg.MODEL.BACKBONE.FDCONV
    keys = {**upper("img_size", "embed_dim", "depth", "num_heads", "init_values", "drop_path_rate", "out_indices",
                    "neck_norm"), "activation_checkpointing": "USE_CHECKPOINT"}
    transformer = build(ViTBackbone, cfg, "MODEL.VIT", keys, {"dim": "EMBED_DIM", "drop_path": "DROP_PATH_RATE"},
                        in_chans=input_shape.channels,
                        block=FDAMBlock if cfg.MODEL.BACKBONE.FDAM.ENABLED else TransformerBlock)
    freeze(cfg, transformer)
    if dynamic_conv(cfg) == FDCONV:
        with errors_about("MODEL.BACKBONE.FDCONV", kernel_num="KERNEL_NUM"):
            add_fdlinear(transformer, kernel_num=fdconv.KERNEL_NUM)
    return transformer


@BACKBONE_REGISTRY.register()
def build_fdam_vit_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """build_vit_backbone with MODEL.BACKBONE.FDAM.ENABLED."""
    return build_vit_backbone(switched_on(cfg, "MODEL.BACKBONE.FDAM"), input_shape)

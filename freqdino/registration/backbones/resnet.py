"""Detectron2's ResNet with FDConv and frequency scaling. It has no attention: its FDAM is frequency scaling alone."""
from detectron2.modeling import BACKBONE_REGISTRY, build_resnet_backbone

from ...config import ConfigError
from ...modeling.backbones.resnet import add_fdconv, add_frequency_scale
from ..config_errors import errors_about
from .switches import reads, with_switch

# Detectron2's own builder: it reads them in our models, where `resnet_backbone` stands for it.
reads("FDCONV", "FDAM", in_our_models_alone=True)(build_resnet_backbone)


def resnet_backbone(cfg, input_shape):
    """Detectron2's ResNet with what MODEL.BACKBONE.FDCONV.ENABLED and MODEL.BACKBONE.FDAM.ENABLED switch on."""
    options = cfg.MODEL.BACKBONE.FDCONV
    if options.ENABLED and any(cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE):
        raise ConfigError("FDConv (MODEL.BACKBONE.FDCONV.ENABLED) cannot replace deformable convolutions; set "
                          "MODEL.RESNETS.DEFORM_ON_PER_STAGE to [False, False, False, False]")
    network = build_resnet_backbone(cfg, input_shape)
    # After the first stages were frozen: the frequency modules stay trainable there.
    if options.ENABLED:
        with errors_about(f"MODEL.BACKBONE.FDCONV.KERNEL_NUM is {options.KERNEL_NUM}"):
            add_fdconv(network, kernel_num=options.KERNEL_NUM)
    if cfg.MODEL.BACKBONE.FDAM.ENABLED:
        add_frequency_scale(network)
    return network


@reads("FDCONV", "FDAM")
@BACKBONE_REGISTRY.register()
def build_fdconv_resnet_backbone(cfg, input_shape):
    """build_resnet_backbone with MODEL.BACKBONE.FDCONV.ENABLED, for any of Detectron2's models."""
    return resnet_backbone(with_switch(cfg, "FDCONV"), input_shape)


@reads("FDCONV", "FDAM")
@BACKBONE_REGISTRY.register()
def build_fdam_resnet_backbone(cfg, input_shape):
    """build_resnet_backbone with MODEL.BACKBONE.FDAM.ENABLED, for any of Detectron2's models."""
    return resnet_backbone(with_switch(cfg, "FDAM"), input_shape)

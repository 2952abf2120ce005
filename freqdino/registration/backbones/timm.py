"""timm's networks: MODEL.TIMM.*, with the frequency modules that are switched on."""
from detectron2.modeling import BACKBONE_REGISTRY

from ...config import ConfigError
from .switches import reads


@reads("FDCONV", "FDAM")
@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg, input_shape):
    """MODEL.TIMM.* -> `freqdino.modeling.backbones.timm.timm_backbone`; MODEL.WEIGHTS may be a checkpoint of timm's.

    MODEL.BACKBONE.FDCONV.ENABLED: FDConv for the convolutions that it serves; MODEL.BACKBONE.FDAM.ENABLED: frequency
    scaling in ResNets and ConvNeXts.
    """
    from ...modeling.backbones import timm      # here, because it takes seconds

    options, fdconv = cfg.MODEL.TIMM, cfg.MODEL.BACKBONE.FDCONV
    try:
        network = timm.timm_backbone(
            options.NAME,
            in_chans=input_shape.channels,
            drop_path_rate=options.DROP_PATH_RATE,
            activation_checkpointing=options.USE_CHECKPOINT,
        )
    except ValueError as error:
        raise ConfigError(f"MODEL.TIMM: {error}") from error
    if fdconv.ENABLED:
        try:
            timm.add_fdconv(network, kernel_num=fdconv.KERNEL_NUM)
        except ValueError as error:
            raise ConfigError(f"MODEL.BACKBONE.FDCONV with timm's {options.NAME} and KERNEL_NUM {fdconv.KERNEL_NUM}: "
                              f"{error}") from error
    if cfg.MODEL.BACKBONE.FDAM.ENABLED:
        try:
            timm.add_frequency_scale(network)
        except ValueError as error:
            raise ConfigError(f"MODEL.BACKBONE.FDAM with timm's {options.NAME}: {error}") from error
    return network

"""timm's networks: MODEL.TIMM.*, with the frequency modules that are switched on."""
from detectron2.modeling import BACKBONE_REGISTRY

from ..config_errors import errors_about
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
    with errors_about("MODEL.TIMM"):
        network = timm.timm_backbone(
            options.NAME,
            in_chans=input_shape.channels,
            drop_path_rate=options.DROP_PATH_RATE,
            activation_checkpointing=options.USE_CHECKPOINT,
        )
    if fdconv.ENABLED:
        with errors_about(f"MODEL.BACKBONE.FDCONV with timm's {options.NAME} and KERNEL_NUM {fdconv.KERNEL_NUM}"):
            timm.add_fdconv(network, kernel_num=fdconv.KERNEL_NUM)
    if cfg.MODEL.BACKBONE.FDAM.ENABLED:
        with errors_about(f"MODEL.BACKBONE.FDAM with timm's {options.NAME}"):
            timm.add_frequency_scale(network)
    return network

"""SegFormer's encoder: MODEL.MIT.*, with the frequency modules that are switched on."""
from detectron2.modeling import BACKBONE_REGISTRY

from ...modeling.backbones.mit import MixTransformer
from ..config_errors import errors_about
from .switches import reads
from .token_blocks import add_frequency_modules


@reads("FDCONV", "FDAM")
@BACKBONE_REGISTRY.register()
def build_mit_backbone(cfg, input_shape):
    """MODEL.MIT.* -> `freqdino.modeling.backbones.mit.MixTransformer`.

    MODEL.BACKBONE.FDAM.ENABLED: inverted attention and frequency scaling of both branches;
    MODEL.BACKBONE.FDCONV.ENABLED: FDLinear in attention and MLP, FDConv for the MLP's convolution.
    """
    options = cfg.MODEL.MIT
    with errors_about("MODEL.MIT"):
        network = MixTransformer(
            in_chans=input_shape.channels,
            embed_dims=options.EMBED_DIMS,
            depths=options.DEPTHS,
            drop_path_rate=options.DROP_PATH_RATE,
            activation_checkpointing=options.USE_CHECKPOINT,
        )
    add_frequency_modules(cfg, network, "MODEL.MIT")
    return network

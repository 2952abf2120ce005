"""Heads of Detectron2's SemanticSegmentor by their registry names, with OpenMMLab's sizes where no key sets one."""
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY

from freqdino.config import lookup
from freqdino.errors import ConfigError
from freqdino.modeling.segformer_head import SegFormerHead
from freqdino.modeling.upernet_head import UPerNetHead
from freqdino.registration.binding import build, head_inputs, register, upper
from freqdino.registration.class_tables import check_num_classes, training_metadata
from freqdino.registration.upsamplers import upsampler_maker


@register(SEM_SEG_HEADS_REGISTRY, "UPerNetHead")
def build_upernet_head(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> UPerNetHead:
    """MODEL.SEM_SEG_HEAD.* -> `freqdino.modeling.upernet_head.UPerNetHead`."""
    return _build(UPerNetHead, cfg, input_shape, pool_scales=(1, 2, 3, 6), auxiliary_channels=256,
                  auxiliary_weight=0.4)


@register(SEM_SEG_HEADS_REGISTRY, "SegFormerHead")
def build_segformer_head(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> SegFormerHead:
    """MODEL.SEM_SEG_HEAD.* -> `freqdino.modeling.segformer_head.SegFormerHead`."""
    key, channels = "MODEL.SEM_SEG_HEAD.UPSAMPLER", cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM
    plain = lookup(cfg, key) == "bilinear"      # each level resized once, which needs no modules
    make_upsampler = None if plain else upsampler_maker(cfg, key, channels=channels)
    return _build(SegFormerHead, cfg, input_shape, make_upsampler=make_upsampler)


def _build(head, cfg, input_shape, **sizes):
    if cfg.MODEL.META_ARCHITECTURE == "SemanticSegmentor":      # other models count and number their classes otherwise
        check_num_classes(cfg)
        _check_ignore_value(cfg)
    keys = upper("num_classes", "common_stride", "norm", "ignore_value", "loss_weight") | {"channels": "CONVS_DIM"}
    names = {"input_shape": "IN_FEATURES", "hr_channels": "CONVS_DIM", "lr_channels": "CONVS_DIM"}
    return build(head, cfg, "MODEL.SEM_SEG_HEAD", keys, names, dropout=0.1,
                 input_shape=head_inputs(cfg, input_shape), **sizes)


def _check_ignore_value(cfg):
    """Raise ConfigError where the training set marks the pixels that do not count by another label than the head."""
    metadata, configured = training_metadata(cfg), cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
    label = configured if metadata is None else metadata.get("ignore_label", 255)   # the mapper's default too
    if label != configured:
        raise ConfigError(f"the data set {cfg.DATASETS.TRAIN[0]} has ignore_label {label}, but MODEL.SEM_SEG_HEAD."
                          f"IGNORE_VALUE is {configured}; set MODEL.SEM_SEG_HEAD.IGNORE_VALUE {label}")

"""Heads of Detectron2's SemanticSegmentor by their registry names, with OpenMMLab's sizes where no key sets one.

Source of FreqFusion's settings in SegNeXt's head: its authors' SegNeXt (arXiv 2408.12879).
"""
from collections.abc import Callable

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY

from freqdino.config import lookup
from freqdino.errors import ConfigError
from freqdino.frequency.freqfusion.in_heads import FreqFusionConcat
from freqdino.modeling.light_ham_head import LightHamHead
from freqdino.modeling.segformer_head import SegFormerHead
from freqdino.modeling.upernet_head import UPerNetHead
from freqdino.registration.binding import build, head_inputs, register, upper
from freqdino.registration.class_tables import check_num_classes, training_metadata
from freqdino.registration.pixel_decoders import FREQFUSION, FREQFUSION_KEYS
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


@register(SEM_SEG_HEADS_REGISTRY, "LightHamHead")
def build_light_ham_head(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> LightHamHead:
    """MODEL.SEM_SEG_HEAD.* -> `freqdino.modeling.light_ham_head.LightHamHead`, with FREQFUSION.ENABLED FreqFusion."""
    keys = {argument: f"MODEL.SEM_SEG_HEAD.HAM.{argument.upper()}" for argument in ("bases", "fixed_bases")}
    return _build(LightHamHead, cfg, input_shape, keys, train_steps=6, eval_steps=7,
                  make_fusion=concatenation_maker(cfg) if cfg.MODEL.SEM_SEG_HEAD.FREQFUSION.ENABLED else None)


def concatenation_maker(cfg: CfgNode) -> Callable[[int, int], FreqFusionConcat]:
    """What makes FreqFusion for a finer and a coarser map of so many channels, as its authors' SegNeXt has it.

    Raises ConfigError, as what it returns does, for options that make no FreqFusion.
    """
    options = cfg.MODEL.SEM_SEG_HEAD.FREQFUSION

    def make(hr_channels: int, lr_channels: int) -> FreqFusionConcat:
        seen = {"direction_feat": "sim"} if options.FEATURE_RESAMPLE else {}
        width = (hr_channels + lr_channels) // 4
        narrow = {"compressed_channels": width} if options.COMPRESSED_CHANNELS is None else {}
        names = {"feature_resample_group": "FEATURE_RESAMPLE", "norm": "COMPRESSED_CHANNELS"}
        return build(FreqFusionConcat, cfg, FREQFUSION, FREQFUSION_KEYS, names, hr_channels=hr_channels,
                     lr_channels=lr_channels, hamming_window=False, **seen, **narrow)

    return make


def _build(head, cfg, input_shape, more_keys={}, **sizes):
    if cfg.MODEL.META_ARCHITECTURE == "SemanticSegmentor":      # other models count and number their classes otherwise
        check_num_classes(cfg)
        _check_ignore_value(cfg)
    keys = upper("num_classes", "common_stride", "norm", "ignore_value", "loss_weight") | {"channels": "CONVS_DIM",
                                                                                         **more_keys}
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

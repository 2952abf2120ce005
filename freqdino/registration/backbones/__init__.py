"""Backbones by their registry names, with FDConv and FDAM where the configuration switches them on."""
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone as build_registered_backbone

from . import fpn, mit, swin, timm, vit
from .resnet import resnet_backbone
from .switches import check_switches


def build_backbone(cfg):
    """The backbone named by MODEL.BACKBONE.NAME; Detectron2's ResNet with the frequency modules that are switched on.

    Raises ConfigError for a frequency module that the backbone has no place for.
    """
    check_switches(cfg)
    if cfg.MODEL.BACKBONE.NAME == "build_resnet_backbone":
        return resnet_backbone(cfg, ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN)))
    return build_registered_backbone(cfg)

"""Backbones: Detectron2's, timm's and our own, with places for the frequency modules."""
from freqdino.modeling.backbones.mscan import MSCAN

__all__ = ["MSCAN"]

"""Checkpoints under the names that the model has or its loading understands: they pass through.

Published Mask2Former, Mask DINO and FreqFusion's Mask2Former in both key styles, Detectron2's own models, Microsoft's
Swin, SegFormer's MiT, and where the backbone is one of timm's or a plain transformer, timm's checkpoints.
"""
from freqdino.conversion.rules import Family, Rule

FAMILY = Family(
    title="names that the model loads as they are",
    markers=(r"(?!)",),                     # recognised by loading, not by names
    rules=(Rule(r"(.+)", r"\1"),),
    whole_model=None,
)

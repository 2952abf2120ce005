"""What the frequency modules of a model cost in parameters, and what their papers say that they cost.

Counted at the modules themselves, so that no plain twin of the model is needed. Published: FreqFusion's three units in
Mask2Former and its feature pyramid (TPAMI 2024, arXiv 2408.12879), FDConv in R50 (CVPR 2025, arXiv 2503.18783), FDAM in
Mask DINO's encoder and in DeiT-S (ICCV 2025, arXiv 2507.12006).
"""
from collections import Counter

from detectron2.config import CfgNode
from torch import nn

from freqdino.frequency import FreqFusion, FrequencyScale, InversionGates
from freqdino.frequency.attention_inversion import GATE_NAMES
from freqdino.frequency.dynamic_weight import MODULATION, DynamicWeight

ENCODER = "sem_seg_head.pixel_decoder"
DEIT_S_WIDTH = 384


def frequency_parameters(model: nn.Module) -> dict[str, int]:
    """(kind, place) -> parameters that a model without frequency modules would not have; place: backbone, or the head."""
    added = Counter()
    for name, module in model.named_modules():
        place = "backbone" if name.startswith("backbone") else "head"
        entries = dict(module.named_parameters())
        if isinstance(module, FreqFusion):
            added["FreqFusion", place] += sum(entry.numel() for entry in entries.values())
        elif isinstance(module, FrequencyScale):
            added["FreqScale", place] += sum(entry.numel() for entry in entries.values())
        elif isinstance(module, InversionGates):
            added["AttInv", place] += sum(entry.numel() for key, entry in entries.items() if key.startswith(GATE_NAMES))
        elif isinstance(module, DynamicWeight) and hasattr(module, "plain_shape"):
            added["FDConv", place] -= module.plain_shape.numel()
            added["FDConv", place] += sum(entry.numel() for key, entry in entries.items()
                                          if key.startswith((*MODULATION, "dft_weight", "weight")))
    return dict(added)


def published_cost(kind: str, place: str, cfg: CfgNode) -> str | None:
    """The paper's figure for such a model; None where there is none."""
    backbone = cfg.MODEL.BACKBONE.NAME
    if kind == "FreqFusion":
        if place == "backbone":
            return "0.3 M"
        return "313,302" if cfg.MODEL.META_ARCHITECTURE.startswith("MaskFormer") else None
    if kind == "FDConv":
        return "3.647 M" if "resnet" in backbone and cfg.MODEL.RESNETS.DEPTH == 50 else None
    if place == "head":
        return "0.175 M together" 
    if "vit" in backbone and cfg.MODEL.VIT.EMBED_DIM == DEIT_S_WIDTH:
        return {"AttInv": "0.1 M", "FreqScale": "0.5 M"}[kind]
    return None


def describe_costs(model: nn.Module, cfg: CfgNode) -> str:
    """E.g. "FreqFusion +313,302 (published +313,302)"; empty for a plain model."""
    def describe(kind, place, count):
        published = published_cost(kind, place, cfg)
        return f"{kind} +{count:,}" + (f" (published +{published})" if published else "")

    return ", ".join(describe(kind, place, count) for (kind, place), count in frequency_parameters(model).items())

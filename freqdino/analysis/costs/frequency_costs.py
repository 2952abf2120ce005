"""What the frequency modules of a model cost in parameters, and what their authors say that they cost.

Counted at the modules themselves, so that no plain twin of the model is needed. Published: FreqFusion in a feature
pyramid (TPAMI 2024, arXiv 2408.12879, table of Panoptic FPN) and its three units in its authors' Mask2Former; FDConv in
R50 (CVPR 2025, arXiv 2503.18783); FDAM in DeiT-S (ICCV 2025, arXiv 2507.12006). FDAM's authors give no cost of it in
Mask DINO.
"""
from collections import Counter
from collections.abc import Collection

from detectron2.config import CfgNode
from torch import nn

from freqdino.frequency import FDLinear, FreqFusion, FrequencyScale, InversionGates
from freqdino.frequency.fdam.attention_inversion import GATE_NAMES
from freqdino.frequency.fdconv.dynamic_weight import MODULATION, DynamicWeight
from freqdino.frequency.rivals.kernel_warehouse import KernelWarehouse, Warehouse
from freqdino.frequency.rivals.mixtures import KernelMixture

ENCODER_FDAM, PYRAMID_FREQFUSION = "FDAM in the encoder", "FreqFusion in the pyramid"
DEIT_S_WIDTH = 384
FUSED_WIDTH = 256               # of the published models with FreqFusion


def frequency_parameters(model: nn.Module) -> dict[str, int]:
    """Kind of module -> parameters that the model would not have without it; kinds without any are left out."""
    added = Counter()
    for name, module in model.named_modules():
        in_backbone = name.startswith("backbone.")
        if isinstance(module, FreqFusion):
            added[PYRAMID_FREQFUSION if in_backbone else "FreqFusion"] += parameters_of(module)
        elif isinstance(module, FrequencyScale):
            added["FreqScale" if in_backbone else ENCODER_FDAM] += parameters_of(module)
        elif isinstance(module, InversionGates):
            added["AttInv" if in_backbone else ENCODER_FDAM] += parameters_of(module, GATE_NAMES)
        elif isinstance(module, DynamicWeight) and hasattr(module, "plain_shape"):
            dynamic = parameters_of(module, (*MODULATION, "dft_weight", "weight"))
            added["FDLinear" if isinstance(module, FDLinear) else "FDConv"] += dynamic - module.plain_shape.numel()
        elif isinstance(module, (KernelMixture, KernelWarehouse)):
            dynamic = parameters_of(module, ("kernels", "attention", "bank"))
            added[type(module).__name__] += dynamic - module.plain_shape.numel()
        elif isinstance(module, Warehouse) and not name.endswith(".bank"):
            added[KernelWarehouse.__name__] += parameters_of(module)
    return {kind: count for kind, count in added.items() if count}


def parameters_of(module: nn.Module, starts: Collection[str] = ("",)) -> int:
    """Of the parameters whose names start so."""
    return sum(parameter.numel() for name, parameter in module.named_parameters() if name.startswith(tuple(starts)))


def published_costs(cfg: CfgNode) -> dict[str, str]:
    """Kind of module -> the authors' figure for such a model, where they have one."""
    costs = {}
    if cfg.MODEL.FPN.OUT_CHANNELS == FUSED_WIDTH:
        costs[PYRAMID_FREQFUSION] = "0.3 M"
    if cfg.MODEL.META_ARCHITECTURE.startswith("MaskFormer") and cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM == FUSED_WIDTH:
        costs["FreqFusion"] = "313,302"
    if "resnet" in cfg.MODEL.BACKBONE.NAME and cfg.MODEL.RESNETS.DEPTH == 50:
        costs["FDConv"] = "3.6 M"
    if "vit" in cfg.MODEL.BACKBONE.NAME and cfg.MODEL.VIT.EMBED_DIM == DEIT_S_WIDTH:
        costs |= {"AttInv": "0.1 M", "FreqScale": "0.5 M"}
    return costs


def describe_costs(model: nn.Module, cfg: CfgNode) -> str:
    """E.g. "FreqFusion +313,302 (published +313,302)"; empty for a plain model."""
    published = published_costs(cfg)
    return ", ".join(f"{kind} +{count:,}" + (f" (published +{published[kind]})" if kind in published else "")
                     for kind, count in frequency_parameters(model).items())

"""All families by the names that ``--format`` knows, and which of them a checkpoint is of."""
from torch import nn

from freqdino.checkpoint.checkpointer import fit_checkpoint
from freqdino.conversion import mmdetection, mmsegmentation, resnet, swin
from freqdino.conversion.rules import Family, Rule

# Published Mask2Former, Mask DINO and FreqFusion's Mask2Former in both key styles, Detectron2's own models, Microsoft's
# Swin, SegFormer's MiT, SegNeXt's MSCAN, and where the backbone is one of timm's or a plain transformer, timm's
# checkpoints.
NATIVE = Family(
    title="names that the model loads as they are",
    markers=(r"(?!)",),                     # recognised by loading, not by names
    rules=(Rule(r"(.+)", r"\1"),),
    whole_model=None,
)
FAMILIES = {
    "native": NATIVE,
    "resnet": resnet.FAMILY,
    "timm-swin": swin.TIMM,
    "torchvision-swin": swin.TORCHVISION,
    "mmdetection-freqfusion": mmdetection.FREQFUSION,
    "mmdetection": mmdetection.DETECTORS,
    "mmsegmentation": mmsegmentation.SEGMENTORS,
}


def recognise(checkpoint: dict, model: nn.Module) -> str:
    """The name of a checkpoint's family: native where it loads as it is, or else the first with all its markers.

    One that is of no family counts as native, so that what differs from the model's names gets listed.
    """
    if fit_checkpoint(model, checkpoint).problems():
        names = list(checkpoint["model"])
        for format_name, family in FAMILIES.items():
            if family.is_origin_of(names):
                return format_name
    return "native"

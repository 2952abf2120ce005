"""A small Mask2Former on one strided convolution a map, built from a configuration as users do, and inputs for it."""
import torch
from detectron2.modeling import build_model
from detectron2.structures import Instances
from torch import nn

import freqdino.registration  # noqa: F401  fills the registries
from freqdino.config import load_config
from freqdino.registration.backbones import build_backbone
from helpers import golden_models  # noqa: F401  registers PatchBackbone

OPTIONS = {
    "MODEL.META_ARCHITECTURE": "MaskFormer",
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.BACKBONE.NAME": "PatchBackbone",
    "MODEL.SEM_SEG_HEAD.NAME": "MaskFormerHead",
    "MODEL.SEM_SEG_HEAD.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 3,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 64,
    "MODEL.SEM_SEG_HEAD.MASK_DIM": 16,
    "MODEL.SEM_SEG_HEAD.NORM": "GN",
    "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": 4,
    "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": "MSDeformAttnPixelDecoder",
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": 1,
    "MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE": "multi_scale_pixel_decoder",
    "MODEL.MASK_FORMER.HIDDEN_DIM": 64,
    "MODEL.MASK_FORMER.NHEADS": 4,
    "MODEL.MASK_FORMER.DIM_FEEDFORWARD": 64,
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 6,
    "MODEL.MASK_FORMER.DEC_LAYERS": 4,
    "MODEL.MASK_FORMER.DROPOUT": 0.0,
    "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": 64,
    "MODEL.MASK_FORMER.TEST.INSTANCE_ON": True,
    "MODEL.MASK_FORMER.TEST.PANOPTIC_ON": True,
    "TEST.DETECTIONS_PER_IMAGE": 10,
}
RESNET18 = {
    "MODEL.BACKBONE.NAME": "build_resnet_backbone",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.DEPTH": 18,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
}


def small_config(options=None):
    """The configuration, with ``options`` (key -> value) changed."""
    return load_config(opts=[word for item in {**OPTIONS, **(options or {})}.items() for word in item])


def small_model(options=None):
    """The model with random weights."""
    return build_model(small_config(options))


class BackboneModel(nn.Module):
    """A backbone where models have it, without a head."""

    def __init__(self, options):
        super().__init__()
        self.backbone = build_backbone(small_config(options))


def example(height, width, labels=None, /, *, masks=None, **entries):
    """One input with a random image; with ``labels`` also instances, whose masks are random rectangles unless given."""
    result = {"image": torch.randint(0, 256, (3, height, width), dtype=torch.uint8), **entries}
    if labels is not None:
        instances = Instances((height, width))
        instances.gt_classes = torch.tensor(labels, dtype=torch.int64)
        instances.gt_masks = rectangles(len(labels), height, width) if masks is None else masks
        result["instances"] = instances
    return result


def rectangles(count, height, width):
    """Bool masks (count, height, width), each a rectangle of at least one pixel."""
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    for mask in masks:
        y, x = (torch.randint(size, (2,)).sort().values.tolist() for size in (height, width))
        mask[y[0]:y[1] + 1, x[0]:x[1] + 1] = True
    return masks

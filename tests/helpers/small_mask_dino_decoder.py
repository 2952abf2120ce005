"""A small Mask DINO decoder, with random maps and ground truth for it."""
import torch

from freqdino.modeling.mask_dino_decoder import MaskDINODecoder
from helpers.targets import image_targets

SIZES = [(2, 3), (4, 6), (8, 12)]          # encoder order; the decoder reads them finest first
DIM = 32
KEYS = ("pred_logits", "pred_masks", "pred_boxes")


def decoder(**options):
    defaults = {"in_channels": DIM, "num_classes": 3, "num_class_logits": 3, "hidden_dim": DIM, "num_queries": 5,
                "dim_feedforward": 16, "num_layers": 3, "mask_dim": 8, "num_levels": 3, "two_stage": True,
                "learn_content": False, "box_initialisation": "no", "initial_prediction": True, "num_denoising": 6,
                "noise_scale": 0.4}
    return MaskDINODecoder(**{**defaults, **options})


def inputs(batch=2, channels=DIM, sizes=SIZES):
    return [torch.randn(batch, channels, *size) for size in sizes], torch.randn(batch, 8, 16, 24)


def targets(*label_lists):
    return [image_targets(labels, boxes=[[0.5, 0.5, 0.2, 0.4]] * len(labels)) for labels in label_lists]


OPTIONS = [{}, {"box_initialisation": "bitmask"}, {"box_initialisation": "mask2box"}, {"learn_content": True},
           {"learn_content": True, "box_initialisation": "bitmask"}, {"two_stage": False}]

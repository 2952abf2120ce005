"""Any combination by configuration: 40 of those that the tables below span, drawn with a seed, learn and give results.

A backbone is a row of `BACKBONES`; which switches it reads is what its builder says.
"""
import itertools
import random

import pytest
import torch

from freqdino.config.checks import FREQUENCY_BACKBONES
from freqdino.frequency import FDConv, FDLinear, FrequencyScale, InversionGates
from freqdino.frequency.freqfusion.fusion import FreqFusionSum
from helpers.small_mask_dino import OPTIONS as MASK_DINO
from helpers.small_mask_dino import SEMANTIC
from helpers.small_models import RESNET18, example, small_config
from helpers.training_step import assert_a_step_reaches_every_parameter

SAMPLES, SEED = 40, 0
BACKBONES = {
    # Narrow, which ResNet-18 cannot be made; normalisation is not frozen, as the weights are random.
    "ResNet-50": {**RESNET18, "MODEL.RESNETS.DEPTH": 50, "MODEL.RESNETS.NORM": "BN",
                  "MODEL.RESNETS.STEM_OUT_CHANNELS": 32, "MODEL.RESNETS.RES2_OUT_CHANNELS": 32,
                  "MODEL.RESNETS.WIDTH_PER_GROUP": 32},
    "Swin": {"MODEL.BACKBONE.NAME": "D2SwinTransformer", "MODEL.SWIN.EMBED_DIM": 32,
             "MODEL.SWIN.DEPTHS": [2, 2, 2, 2], "MODEL.SWIN.NUM_HEADS": [1, 2, 2, 4], "MODEL.SWIN.DROP_PATH_RATE": 0.0},
    "DeiT": {"MODEL.BACKBONE.NAME": "build_vit_backbone", "MODEL.VIT.IMG_SIZE": 64, "MODEL.VIT.EMBED_DIM": 32,
             "MODEL.VIT.DEPTH": 4, "MODEL.VIT.NUM_HEADS": 2, "MODEL.VIT.OUT_INDICES": [0, 1, 2, 3]},
    "MiT": {"MODEL.BACKBONE.NAME": "build_mit_backbone", "MODEL.MIT.EMBED_DIMS": [32, 32, 80, 128],
            "MODEL.MIT.DEPTHS": [1, 1, 1, 1], "MODEL.MIT.DROP_PATH_RATE": 0.0},
    "MSCAN": {"MODEL.BACKBONE.NAME": "build_mscan_backbone", "MODEL.MSCAN.EMBED_DIMS": [32, 32, 64, 64],
              "MODEL.MSCAN.DEPTHS": [1, 1, 1, 1], "MODEL.MSCAN.DROP_PATH_RATE": 0.0},
    "ConvNeXt": {"MODEL.BACKBONE.NAME": "build_timm_backbone", "MODEL.TIMM.NAME": "test_convnext2"},
}
IN_BACKBONE = {"plain": (), "FDConv": ("FDCONV",), "FDAM": ("FDAM",), "FDConv, FDAM": ("FDCONV", "FDAM")}
IN_DECODER = {"plain": (), "FreqFusion": ("FREQFUSION",), "FDAM": ("FDAM",), "FreqFusion, FDAM": ("FREQFUSION", "FDAM")}
MODELS = {"Mask2Former": {}, "Mask DINO": MASK_DINO}
SECTIONS = {"Mask2Former": "MODEL.MASK_FORMER", "Mask DINO": "MODEL.MaskDINO"}
# Task -> what TEST switches on, and the keys of a result.
TASKS = {"instance": (("INSTANCE",), {"instances"}), "semantic": (("SEMANTIC",), {"sem_seg"}),
         "panoptic": (("SEMANTIC", "INSTANCE", "PANOPTIC"), {"sem_seg", "instances", "panoptic_seg"})}


def reads_all(backbone, variant):
    return not IN_BACKBONE[variant] or BACKBONES[backbone]["MODEL.BACKBONE.NAME"] in FREQUENCY_BACKBONES


COMBINATIONS = [combination for combination in itertools.product(BACKBONES, IN_BACKBONE, IN_DECODER, MODELS, TASKS)
                if reads_all(*combination[:2])]


DRAWN = random.Random(SEED).sample(COMBINATIONS, SAMPLES)


def options(backbone, in_backbone, in_decoder, model, task):
    results = {f"{SECTIONS[model]}.TEST.{name}_ON": name in TASKS[task][0]
               for name in ("SEMANTIC", "INSTANCE", "PANOPTIC")}
    return {
        **BACKBONES[backbone],
        "MODEL.BACKBONE.FDCONV.KERNEL_NUM": 4,
        **{f"MODEL.BACKBONE.{switch}.ENABLED": True for switch in IN_BACKBONE[in_backbone]},
        **{f"MODEL.SEM_SEG_HEAD.{switch}.ENABLED": True for switch in IN_DECODER[in_decoder]},
        **MODELS[model],
        **(SEMANTIC if (model, task) == ("Mask DINO", "semantic") else {}),
        **results,
    }


def has(module, *kinds):
    return any(isinstance(part, kinds) for part in module.modules())


def test_every_value_of_every_table_is_drawn():
    for table, values in zip((BACKBONES, IN_BACKBONE, IN_DECODER, MODELS, TASKS), zip(*DRAWN)):
        assert set(values) == set(table)


@pytest.mark.parametrize("combination", DRAWN, ids=" | ".join)
def test_learns_and_gives_its_results(combination):
    _, in_backbone, in_decoder, _, task = combination
    model = assert_a_step_reaches_every_parameter(small_config(options(*combination)))
    assert has(model.backbone, FDConv, FDLinear) == ("FDConv" in in_backbone)
    assert has(model.backbone, FrequencyScale) == ("FDAM" in in_backbone)
    decoder = model.sem_seg_head.pixel_decoder
    assert has(decoder, FreqFusionSum) == ("FreqFusion" in in_decoder)
    assert has(decoder, InversionGates) == has(decoder, FrequencyScale) == ("FDAM" in in_decoder)
    with torch.no_grad():
        result, = model.eval()([example(50, 71)])
    assert set(result) == TASKS[task][1]
    if "sem_seg" in result:
        assert result["sem_seg"].shape == (3, 50, 71) and result["sem_seg"].isfinite().all()

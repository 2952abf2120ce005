"""configs/: Detectron2's own detectors against its model zoo.

`test_configs.py` has what holds for every leaf, `test_config_models.py` builds each and counts its parameters.
"""
from pathlib import Path

import pytest
from detectron2 import model_zoo

from freqdino.config import default_config
from helpers.config_leaves import DETECTORS, flatten, resolved

# The model zoo's 1x recipes with R50; with R101 it has only longer ones.
MODEL_ZOO = {"faster_rcnn": "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
             "mask_rcnn": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
             "panoptic_fpn": "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml"}
MAPPERS = {"faster_rcnn": "coco_boxes_detr", "mask_rcnn": "coco_instance_detr",
           "panoptic_fpn": "coco_panoptic_separated"}
# Image statistics, ResNet and picture size are not the model zoo's but those of the published comparison: torchvision's
# layout and weights, one size of picture.
RESNET = {"INPUT.FORMAT": "RGB", "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
          "MODEL.PIXEL_STD": [58.395, 57.12, 57.375], "MODEL.RESNETS.STRIDE_IN_1X1": False,
          "INPUT.MIN_SIZE_TRAIN": [800]}
# Where our keys have a neutral value that is not their default; what only another family's models read.
OURS = {"SOLVER.OPTIMIZER": "SGD", "SOLVER.BACKBONE_MULTIPLIER": 1.0, "MODEL.RESNETS.STEM_TYPE": "basic",
        "MODEL.RESNETS.RES5_MULTI_GRID": [1, 1, 1], "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": 6}
UNREAD = {"MODEL.SEM_SEG_HEAD.IN_FEATURES": ["res2", "res3", "res4", "res5"], "MODEL.SEM_SEG_HEAD.CONVS_DIM": 256}
UNREAD = {"faster_rcnn": {**UNREAD, "MODEL.ROI_MASK_HEAD.NUM_CONV": 0}, "mask_rcnn": UNREAD, "panoptic_fpn": {}}
# The rows of FDConv's table with the option lines of their parameters.
DYNAMIC = {"condconv": {"NAME": "condconv", "NUM": 8}, "dyconv": {"NAME": "dyconv", "NUM": 4},
           "odconv": {"NAME": "odconv", "NUM": 4}, "kernelwarehouse": {"NAME": "kernel_warehouse", "NUM": 1}}


@pytest.mark.parametrize("leaf", DETECTORS)
def test_a_leaf_is_the_model_zoos_but_for_what_is_listed(leaf):
    name = Path(leaf).stem
    kind = next(kind for kind in MODEL_ZOO if name.startswith(kind))
    depth, _, addition = name.removeprefix(f"{kind}_").partition("_")
    expected = {
        **flatten(default_config()), **flatten(model_zoo.get_config(MODEL_ZOO[kind])), **RESNET, **OURS, **UNREAD[kind],
        "MODEL.BACKBONE.NAME": "build_resnet_freqfusion_fpn_backbone",
        "MODEL.FPN.UPSAMPLER": "nearest" if addition in ("", "fdconv", *DYNAMIC) else addition,
        "MODEL.BACKBONE.FDCONV.ENABLED": addition == "fdconv",
        **{f"MODEL.BACKBONE.DYNAMIC_CONV.{key}": value for key, value in DYNAMIC.get(addition, {}).items()},
        "MODEL.RESNETS.DEPTH": int(depth.removeprefix("r")),
        "MODEL.WEIGHTS": {"r50": "detectron2://ImageNetPretrained/torchvision/R-50.pkl", "r101": "R-101.pkl"}[depth],
        "INPUT.DATASET_MAPPER_NAME": MAPPERS[kind],
    }
    assert {key: value for key, value in resolved(leaf).items() if value != expected[key]} == {}

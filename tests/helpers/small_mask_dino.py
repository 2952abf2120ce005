"""A small Mask DINO on one strided convolution a map, built from a configuration as users do."""
from helpers.small_models import small_config, small_model

OPTIONS = {
    "MODEL.META_ARCHITECTURE": "MaskDINO",
    "MODEL.SEM_SEG_HEAD.NAME": "MaskDINOHead",
    "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": "MaskDINOEncoder",
    "MODEL.SEM_SEG_HEAD.DIM_FEEDFORWARD": 64,
    "MODEL.SEM_SEG_HEAD.TOTAL_NUM_FEATURE_LEVELS": 3,
    "MODEL.MaskDINO.HIDDEN_DIM": 64,
    "MODEL.MaskDINO.NHEADS": 4,
    "MODEL.MaskDINO.DIM_FEEDFORWARD": 64,
    "MODEL.MaskDINO.NUM_OBJECT_QUERIES": 6,
    "MODEL.MaskDINO.DEC_LAYERS": 2,
    "MODEL.MaskDINO.DROPOUT": 0.0,
    "MODEL.MaskDINO.TRAIN_NUM_POINTS": 64,
    "MODEL.MaskDINO.DN_NUM": 8,
    "MODEL.MaskDINO.TEST.INSTANCE_ON": True,
    "MODEL.MaskDINO.TEST.PANOPTIC_ON": True,
}
SEMANTIC = {
    "MODEL.MaskDINO.SEMANTIC_CE_LOSS": True,
    "MODEL.MaskDINO.TWO_STAGE": False,
    "MODEL.MaskDINO.TEST.INSTANCE_ON": False,
    "MODEL.MaskDINO.TEST.PANOPTIC_ON": False,
}
BOXES_ONLY = {f"MODEL.MaskDINO.{key}": 0.0 for key in
              ("MASK_WEIGHT", "DICE_WEIGHT", "COST_MASK_WEIGHT", "COST_DICE_WEIGHT")}


def mask_dino_config(options=None):
    """The configuration, with ``options`` (key -> value) changed."""
    return small_config({**OPTIONS, **(options or {})})


def mask_dino_model(options=None):
    """The model with random weights."""
    return small_model({**OPTIONS, **(options or {})})

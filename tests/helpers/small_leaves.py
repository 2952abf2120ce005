"""Options that make a leaf's model narrow and shallow and keep what it is made of: levels, switches, heads, losses."""
from freqdino.config import load_config
from helpers import small_timm_vits  # noqa: F401  registers those of SMALL_TIMM
from helpers.config_leaves import counted
from helpers.paths import CONFIGS

FAMILY = {"HIDDEN_DIM": 64, "NHEADS": 2, "DIM_FEEDFORWARD": 32, "NUM_OBJECT_QUERIES": 5, "TRAIN_NUM_POINTS": 32}
SMALL = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    # FDConv is active above 16 channels, frequency scaling wants a multiple of 16.
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 32,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 32,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 32,
    "MODEL.RESNETS.NORM": "BN",             # SyncBN needs a GPU
    "MODEL.BACKBONE.FDCONV.KERNEL_NUM": 4,
    "MODEL.SWIN.EMBED_DIM": 16,
    "MODEL.SWIN.DEPTHS": [2, 2, 2, 2],
    "MODEL.SWIN.NUM_HEADS": [1, 1, 2, 2],
    "MODEL.SWIN.DROP_PATH_RATE": 0.0,       # a dropped branch has no gradient
    "MODEL.VIT.EMBED_DIM": 32,
    "MODEL.VIT.NUM_HEADS": 2,
    "MODEL.VIT.DEPTH": 4,
    "MODEL.VIT.OUT_INDICES": [0, 1, 2, 3],
    "MODEL.VIT.DROP_PATH_RATE": 0.0,
    "MODEL.VIT.NECK_NORM": "LN",
    "MODEL.MIT.DROP_PATH_RATE": 0.0,
    "MODEL.MSCAN.EMBED_DIMS": [32, 32, 64, 64],
    "MODEL.MSCAN.DEPTHS": [1, 1, 2, 1],
    "MODEL.MSCAN.DROP_PATH_RATE": 0.0,
    "MODEL.TIMM.DROP_PATH_RATE": 0.0,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 64,
    "MODEL.SEM_SEG_HEAD.MASK_DIM": 16,
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": 1,
    "MODEL.SEM_SEG_HEAD.DIM_FEEDFORWARD": 32,
    **{f"MODEL.{family}.{key}": value for family in ("MASK_FORMER", "MaskDINO") for key, value in FAMILY.items()},
    "MODEL.MASK_FORMER.DEC_LAYERS": 4,      # three layers: one for each level
    "MODEL.MaskDINO.DEC_LAYERS": 2,
    "MODEL.MaskDINO.DN_NUM": 4,
    "MODEL.FPN.OUT_CHANNELS": 32,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 16,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 16,
}
SMALL_TIMM = {"dinov2_s": "small_dino_two", "dinov3_s": "small_dino_three"}


def small_leaf(leaf, **options):
    """The leaf's configuration made small; ``options``: last names of keys of MODEL, as in DEVICE="cuda"."""
    # ConvNeXt of 24 to 64 channels; vision transformers of 32.
    network = next((small for name, small in SMALL_TIMM.items() if f"_{name}" in leaf), "test_convnext")
    values = {**SMALL, "MODEL.TIMM.NAME": network, **{f"MODEL.{name}": value for name, value in options.items()}}
    return load_config(str(CONFIGS / leaf), [*counted(leaf), *(word for item in values.items() for word in item)])

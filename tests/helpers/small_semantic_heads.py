"""For the heads of Detectron2's SemanticSegmentor: small inputs, their parts computed the slow way, small models."""
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model

import freqdino.registration  # noqa: F401  fills the registries
from freqdino.config import load_config
from freqdino.modeling.light_ham_head import LightHamHead
from freqdino.modeling.upernet_head import UPerNetHead
from helpers import golden_models  # noqa: F401  registers PatchBackbone

SHAPES = {"res2": ShapeSpec(channels=8, stride=4), "res3": ShapeSpec(channels=12, stride=8),
          "res4": ShapeSpec(channels=16, stride=16), "res5": ShapeSpec(channels=20, stride=32)}

# What a kind of head is made with beside the others' arguments.
SIZES = {UPerNetHead: {"pool_scales": (1, 2, 3), "auxiliary_channels": 10, "auxiliary_weight": 0.4},
         LightHamHead: {"bases": 5, "train_steps": 2, "eval_steps": 3, "fixed_bases": True}}

SMALL_MODEL = {
    "MODEL.META_ARCHITECTURE": "SemanticSegmentor",
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.BACKBONE.NAME": "PatchBackbone",
    "MODEL.SEM_SEG_HEAD.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 3,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 16,
    "MODEL.SEM_SEG_HEAD.NORM": "BN",
    "DATASETS.TRAIN": [],
    "DATASETS.TEST": [],
}
NARROW_R50 = {"MODEL.BACKBONE.FREEZE_AT": 0, "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
              "MODEL.RESNETS.STEM_OUT_CHANNELS": 32, "MODEL.RESNETS.RES2_OUT_CHANNELS": 32,
              "MODEL.RESNETS.WIDTH_PER_GROUP": 32, "MODEL.RESNETS.NORM": "BN",
              "MODEL.BACKBONE.FDCONV.KERNEL_NUM": 4}
TRANSFORMER = {"MODEL.VIT.IMG_SIZE": 64, "MODEL.VIT.EMBED_DIM": 32, "MODEL.VIT.DEPTH": 4, "MODEL.VIT.NUM_HEADS": 2,
               "MODEL.VIT.OUT_INDICES": [0, 1, 2, 3]}
BACKBONES = {
    "R50 with FDConv": {**NARROW_R50, "MODEL.BACKBONE.NAME": "build_fdconv_resnet_backbone"},
    "ViT with FDAM": {**TRANSFORMER, "MODEL.BACKBONE.NAME": "build_fdam_vit_backbone"},
    "MiT with FDAM": {"MODEL.BACKBONE.NAME": "build_mit_backbone", "MODEL.BACKBONE.FDAM.ENABLED": True,
                      "MODEL.MIT.DEPTHS": [1, 1, 1, 1], "MODEL.MIT.DROP_PATH_RATE": 0.0},
    "MSCAN with FDConv and FDAM": {
        "MODEL.BACKBONE.NAME": "build_mscan_backbone", "MODEL.BACKBONE.FDCONV.ENABLED": True,
        "MODEL.BACKBONE.FDCONV.KERNEL_NUM": 4, "MODEL.BACKBONE.FDAM.ENABLED": True,
        "MODEL.MSCAN.EMBED_DIMS": [32, 32, 48, 64], "MODEL.MSCAN.DEPTHS": [1, 1, 1, 1],
        "MODEL.MSCAN.DROP_PATH_RATE": 0.0},
}


def small_head(kind, **options):
    """A head of 16 channels for 3 classes on SHAPES."""
    sizes = SIZES.get(kind, {})
    settings = {"input_shape": SHAPES, "num_classes": 3, "channels": 16, "common_stride": 4, "norm": "BN",
                "dropout": 0.1, "ignore_value": 255, "loss_weight": 1.0, **sizes, **options}
    return kind(**settings)


def features(batch, height, width):
    """Random maps of images of a size, each side rounded up."""
    return {name: torch.randn(batch, shape.channels, -(-height // shape.stride), -(-width // shape.stride))
            for name, shape in SHAPES.items()}


def semantic_segmentor(options):
    return build_model(load_config(opts=[word for item in {**SMALL_MODEL, **options}.items() for word in item]))


def scene(height, width):
    """A random image and label map as the mapper gives them, a few pixels unlabelled."""
    sem_seg = torch.randint(0, 3, (height, width))
    sem_seg[:2] = 255
    return {"image": torch.randint(0, 256, (3, height, width), dtype=torch.uint8), "sem_seg": sem_seg}


def conv_norm_relu(state, name, x):
    """Convolution, batch normalisation by running statistics and ReLU from the tensors of a state dict."""
    weight = state[f"{name}.conv.weight"]
    x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
    mean, variance, scale, shift = (state[f"{name}.bn.{key}"].view(-1, 1, 1)
                                    for key in ("running_mean", "running_var", "weight", "bias"))
    return ((x - mean) / (variance + 1e-5).sqrt() * scale + shift).clamp(min=0)


def bilinear(x, height, width):
    """Resized maps, one output row and column at a time: pixel centres, borders repeated."""
    def weights(old, new):
        matrix = torch.zeros(new, old)
        for i in range(new):
            position = max((i + 0.5) * old / new - 0.5, 0)
            low = min(int(position), old - 1)
            matrix[i, low] += 1 - (position - low)
            matrix[i, min(low + 1, old - 1)] += position - low
        return matrix
    return torch.einsum("ih,bchw,jw->bcij", weights(x.shape[2], height), x, weights(x.shape[3], width))


@torch.no_grad()
def randomised(head):
    """The head with statistics and weights that are no neutral values."""
    for name, tensor in head.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5 if name.endswith(("running_var", "bn.weight"))
                         else torch.randn_like(tensor) * 0.2)
    return head

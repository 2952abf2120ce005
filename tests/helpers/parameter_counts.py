"""Parameters of the model that every leaf of configs/ builds, published or worked out by hand.

``PARAMETERS``: leaf -> number; of the first ones it is the published projects'.
"""
import math
from pathlib import Path

from helpers.config_leaves import DETECTORS, WITH_BACKBONES, WITH_MODULES, WITH_TRANSFORMERS

FOLDERS = {"faster_rcnn": "coco/detection", "mask_rcnn": "coco/instance", "panoptic_fpn": "coco/panoptic"}
# By hand. R50 and R101 without normalisation; the pyramid's 1 × 1 and 3 × 3 convolutions; a 3 × 3 convolution, 3
# anchors' scores and boxes; two layers of 1024 on 7 × 7 × 256, 81 scores and 80 boxes; for masks four 3 × 3
# convolutions, a 2 × 2 deconvolution and 80 masks; for semantics 1, 1, 2 and 3 convolutions without bias, GN's 2 × 128
# each, 54 scores.
BOTTLENECKS = {"r50": 23_454_912, "r101": 23_454_912 + 17 * (2 * 1024 * 256 + 9 * 256 ** 2)}
PYRAMID = 256 * (256 + 512 + 1024 + 2048) + 4 * 256 + 4 * (9 * 256 ** 2 + 256)
PROPOSALS = 9 * 256 ** 2 + 256 + 257 * 3 * 5
BOXES = (49 * 256 + 1) * 1024 + 1025 * 1024 + 1025 * (81 + 320)
MASKS = 4 * (9 * 256 ** 2 + 256) + (4 * 256 ** 2 + 256) + 257 * 80
SEMANTICS = 9 * 128 * (4 * 256 + 3 * 128) + 7 * 256 + 129 * 54
DETECTOR_HEADS = {"faster_rcnn": BOXES, "mask_rcnn": BOXES + MASKS, "panoptic_fpn": BOXES + MASKS + SEMANTICS}
DETECTOR_COSTS = {"": 0, "deconv": 1_770_240, "pixelshuffle": 7_080_960, "carafe": 222_444, "dysample_s": 6_192,
                  "dysample": 49_248, "freqfusion": 313_302, "fdconv": 3_647_120}


def detector_parts(leaf):
    """Detector, depth and what is added to it ("" for the baseline)."""
    name = Path(leaf).stem
    kind = next(kind for kind in FOLDERS if name.startswith(kind))
    depth, _, addition = name.removeprefix(f"{kind}_").partition("_")
    return kind, depth, addition


def detector_parameters(leaf):
    kind, depth, addition = detector_parts(leaf)
    return BOTTLENECKS[depth] + PYRAMID + PROPOSALS + DETECTOR_HEADS[kind] + DETECTOR_COSTS[addition]


def conv(in_channels, out_channels, kernel):
    """A convolution without bias, scale and shift of its normalisation."""
    return in_channels * out_channels * kernel ** 2 + 2 * out_channels


def upernet_parameters(widths, classes=150, channels=512):
    """Pooling at four scales and its fusion, the pyramid and its fusion, scores, the auxiliary head of 256 channels."""
    *finer, coarsest = widths
    pooling = 4 * conv(coarsest, channels, 1) + conv(coarsest + 4 * channels, channels, 3)
    pyramid = sum(conv(width, channels, 1) + conv(channels, channels, 3) for width in finer)
    return (pooling + pyramid + conv(4 * channels, channels, 3) + (channels + 1) * classes
            + conv(finer[-1], 256, 3) + 257 * classes)


def segformer_parameters(widths, classes=150, channels=256):
    """A projection of each map, their fusion, scores."""
    projections = sum(conv(width, channels, 1) for width in widths)
    return projections + conv(4 * channels, channels, 1) + (channels + 1) * classes


def fdam_parameters(width, heads):
    """A block's gates and its two frequency scalings."""
    scale = 4 * (width // 16) * 14 * 8 + (width + 64) * (width // 16) + 2
    return 2 * width + 2 * (width + 1) * heads + 2 + 2 * scale


def mit_parameters(widths, fdam):
    """Four stages of two blocks: overlapping patches, attention with reduced keys, MLP with a 3 × 3 convolution."""
    total, channels = 0, 3
    for width, heads, reduction, kernel in zip(widths, (1, 2, 5, 8), (8, 4, 2, 1), (7, 3, 3, 3)):
        norm, linear = 2 * width, width ** 2 + width
        block = 2 * norm + 4 * linear + 4 * width * (width + 1) + 4 * width * 10 + width * (4 * width + 1)
        if reduction > 1:
            block += width ** 2 * reduction ** 2 + width + norm
        if fdam:
            block += fdam_parameters(width, heads)
        total += channels * width * kernel ** 2 + width + norm + 2 * block + norm
        channels = width
    return total


MIT_WIDTHS = (32, 64, 160, 256)
HEAD_PARAMETERS = {
    **{f"upernet_{deit}": upernet_parameters(4 * (width,))
       for deit, width in {"deit_s": 384, "deit_s_fdam": 384, "deit3_b_fdam": 768}.items()},
    **{f"upernet_{r50}": upernet_parameters((256, 512, 1024, 2048)) for r50 in ("r50", "r50_fdconv")},
    **{f"segformer_{mit}": segformer_parameters(MIT_WIDTHS) for mit in ("mit_b0", "mit_b0_fdam")},
}

PARAMETERS = {
    "ade20k/instance/mask2former_r50.yaml": 43_975_397,
    "ade20k/panoptic/mask2former_r50.yaml": 43_988_247,
    "ade20k/semantic/mask2former_r101.yaml": 63_033_495,
    "ade20k/semantic/mask2former_r50.yaml": 43_988_247,
    "ade20k/semantic/mask2former_r50_freqfusion.yaml": 44_301_549,
    "ade20k/semantic/mask2former_swin_b.yaml": 106_922_191,
    "ade20k/semantic/mask2former_swin_b_freqfusion.yaml": 107_235_493,
    "ade20k/semantic/mask2former_swin_l.yaml": 215_488_779,
    "ade20k/semantic/mask2former_swin_l_freqfusion.yaml": 215_802_081,
    "ade20k/semantic/mask2former_swin_s.yaml": 68_757_537,
    "ade20k/semantic/mask2former_swin_t.yaml": 47_439_633,
    "ade20k/semantic/maskdino_r50.yaml": 43_812_299,
    "cityscapes/instance/mask2former_r50.yaml": 44_004_873,
    "cityscapes/panoptic/mask2former_r50.yaml": 44_007_700,
    "cityscapes/semantic/mask2former_r101_freqfusion.yaml": 63_313_130,
    "cityscapes/semantic/mask2former_r50.yaml": 44_007_700,
    "cityscapes/semantic/mask2former_r50_freqfusion.yaml": 44_321_002,
    "cityscapes/semantic/mask2former_swin_b_freqfusion.yaml": 107_212_002,
    "cityscapes/semantic/mask2former_swin_l_freqfusion.yaml": 215_778_590,
    "cityscapes/semantic/maskdino_r50.yaml": 43_798_216,
    "coco/instance/mask2former_r101.yaml": 62_910_161,
    "coco/instance/mask2former_r50.yaml": 43_970_257,
    "coco/instance/mask2former_swin_b.yaml": 106_904_201,
    "coco/instance/mask2former_swin_l.yaml": 215_521_989,
    "coco/instance/mask2former_swin_s.yaml": 68_739_547,
    "coco/instance/mask2former_swin_t.yaml": 47_421_643,
    "coco/instance/maskdino_r50_12ep.yaml": 43_816_436,
    "coco/instance/maskdino_r50_3s.yaml": 43_816_436,
    "coco/instance/maskdino_r50_3s_down1.yaml": 52_058_004,
    "coco/instance/maskdino_r50_3s_down1_bitmask.yaml": 52_058_004,
    "coco/instance/maskdino_r50_3s_down2.yaml": 49_867_060,
    "coco/instance/maskdino_r50_4s.yaml": 47_404_948,
    "coco/instance/maskdino_swin_l.yaml": 222_799_144,
    "coco/panoptic/mask2former_r101.yaml": 62_923_782,
    "coco/panoptic/mask2former_r101_freqfusion.yaml": 63_237_084,
    "coco/panoptic/mask2former_r50.yaml": 43_983_878,
    "coco/panoptic/mask2former_r50_freqfusion.yaml": 44_297_180,
    "coco/panoptic/mask2former_swin_b.yaml": 106_917_822,
    "coco/panoptic/mask2former_swin_l.yaml": 215_535_610,
    "coco/panoptic/mask2former_swin_l_freqfusion.yaml": 215_848_912,
    "coco/panoptic/mask2former_swin_s.yaml": 68_753_168,
    "coco/panoptic/mask2former_swin_t.yaml": 47_435_264,
    "coco/panoptic/maskdino_r50.yaml": 52_085_193,
    "coco/panoptic/maskdino_r50_12ep.yaml": 52_085_193,
    "coco/panoptic/maskdino_swin_l.yaml": 222_826_333,
}


def fdconv_cost(in_channels, out_channels, kernel, kernel_num=64):
    """Parameters that FDConv has more than a plain convolution: KSM global and local, FBM, padding of the transform."""
    hidden, positions = max(in_channels // 16, 16), kernel ** 2
    heads = in_channels + out_channels + kernel_num + (positions if kernel > 1 else 0)
    ksm_global = in_channels * hidden + 2 * hidden + 2 + (hidden + 1) * heads
    ksm_local = 2 * in_channels + out_channels * positions * (round(math.log2(in_channels) / 2 + 0.5) // 2 * 2 + 1)
    bands = 3 * (9 * in_channels + 1) if kernel == 3 else 0
    rows, columns = out_channels * kernel, in_channels * kernel
    return ksm_global + ksm_local + bands + rows * (2 * (columns // 2 + 1) - columns)


def r50_fdconv_cost():
    """The three convolutions of R50's 16 bottlenecks."""
    total, channels = 0, 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for _ in range(blocks):
            total += (fdconv_cost(channels, width, 1) + fdconv_cost(width, width, 3)
                      + fdconv_cost(width, 4 * width, 1))
            channels = 4 * width
    return total


def transformer_parameters(width, heads, fdam):
    """12 blocks, the position embedding of 32 × 32 patches, the patches' projection, the neck."""
    block = 12 * width ** 2 + 15 * width        # qkv, proj, MLP with biases; two normalisations, two LayerScales
    if fdam:
        block += fdam_parameters(width, heads)
    neck = 3 * (4 * width ** 2 + width) + 2 * width
    return 12 * block + 32 * 32 * width + 16 * 16 * 3 * width + width + neck


def swin_cost(width, depths, cost):
    """``cost(width, heads)`` of each block; heads have 32 channels."""
    return sum(blocks * cost(width << stage, (width << stage) // 32) for stage, blocks in enumerate(depths))


def swin_fdconv_cost(width, heads):
    """qkv, proj and the MLP of a block."""
    return sum(fdconv_cost(*channels, 1) for channels in (
        (width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)))


def convnext_parameters(widths, depths, fdconv):
    """Four stages: patches and their normalisation; blocks of a 7 × 7 convolution by channel, LayerNorm, MLP, scale."""
    total, channels, patch, norm = 0, 3, 4, widths[0]
    for width, blocks in zip(widths, depths):
        block = 50 * width + 2 * width + (8 * width ** 2 + 5 * width) + width
        if fdconv:
            block += fdconv_cost(width, 4 * width, 1) + fdconv_cost(4 * width, width, 1)
        total += channels * width * patch ** 2 + width + 2 * norm + blocks * block
        channels, patch, norm = width, 2, width
    return total


def with_backbone(plain, parameters, widths):
    """Of the model that the R50 leaf ``plain`` becomes with a backbone of these ``parameters`` and map widths."""
    inputs = 256 * sum(width - channels for width, channels in zip(widths, R50_CHANNELS))
    return PARAMETERS[plain] - R50_BACKBONE + inputs + parameters


R50_BACKBONE = 23_454_912                       # its convolutions; frozen normalisations have buffers alone
R50_CHANNELS = (256, 512, 1024, 2048)
FUSION = 104_434
COSTS = {"freqfusion": 3 * FUSION, "fdconv": r50_fdconv_cost(), "fdam": 175_236}
for leaf in WITH_MODULES.keys() - PARAMETERS.keys():
    added = sum(cost for module, cost in COSTS.items() if f"_{module}" in leaf)
    if "panoptic/maskdino" in leaf and "freqfusion" in leaf:
        added += FUSION                         # for the encoder's extra level
    PARAMETERS[leaf] = PARAMETERS[WITH_MODULES[leaf]] + added
for leaf, (plain, deit) in WITH_TRANSFORMERS.items():
    width, heads = {"deit_t": (192, 3), "deit_s": (384, 6), "deit3_b": (768, 12)}[deit.removesuffix("_fdam")]
    parameters = transformer_parameters(width, heads, fdam=deit.endswith("_fdam"))
    PARAMETERS[leaf] = with_backbone(plain, parameters, 4 * (width,))
SWIN_COSTS = {"swin_t_fdam": swin_cost(96, (2, 2, 6, 2), fdam_parameters),
              "swin_b_fdam": swin_cost(128, (2, 2, 18, 2), fdam_parameters),
              "swin_t_fdconv": swin_cost(96, (2, 2, 6, 2), swin_fdconv_cost)}
CONVNEXT_T = {"widths": (96, 192, 384, 768), "depths": (3, 3, 9, 3)}
for leaf, (plain, _) in WITH_BACKBONES.items():
    if "swin" in leaf:
        PARAMETERS[leaf] = PARAMETERS[plain] + SWIN_COSTS[Path(leaf).stem.removeprefix("mask2former_")]
    elif "convnext_t" in leaf:
        parameters = convnext_parameters(**CONVNEXT_T, fdconv="fdconv" in leaf)
        PARAMETERS[leaf] = with_backbone(plain, parameters, CONVNEXT_T["widths"])
    else:
        PARAMETERS[leaf] = with_backbone(plain, mit_parameters(MIT_WIDTHS, fdam="fdam" in leaf), MIT_WIDTHS)

PARAMETERS.update({leaf: detector_parameters(leaf) for leaf in DETECTORS})
R50_NORMS = 53_120                              # scales and shifts, where normalisations are trained
SEMANTIC_BACKBONES = {
    "deit_s": transformer_parameters(384, 6, fdam=False), "deit_s_fdam": transformer_parameters(384, 6, fdam=True),
    "deit3_b_fdam": transformer_parameters(768, 12, fdam=True), "r50": R50_BACKBONE + R50_NORMS,
    "r50_fdconv": R50_BACKBONE + R50_NORMS + COSTS["fdconv"], "mit_b0": mit_parameters(MIT_WIDTHS, fdam=False),
    "mit_b0_fdam": mit_parameters(MIT_WIDTHS, fdam=True),
}
for name, head in HEAD_PARAMETERS.items():
    PARAMETERS[f"ade20k/semantic/{name}.yaml"] = head + SEMANTIC_BACKBONES[name.partition("_")[2]]
# The same model with 19 classes for 150.
PARAMETERS["cityscapes/semantic/segformer_mit_b0.yaml"] = (PARAMETERS["ade20k/semantic/segformer_mit_b0.yaml"]
                                                          - (150 - 19) * (256 + 1))

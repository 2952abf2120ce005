"""What transformers' Mask2FormerForUniversalSegmentation and its image processor are told of a Mask2Former here, and
what of a configuration has no place in them.

Written for transformers 5.24; the library itself is not needed. K: number of classes.
"""
from collections.abc import Iterator, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import ResNet
from detectron2.modeling.backbone.resnet import BottleneckBlock
from torch import nn

from freqdino.checkpoint import DataConfig
from freqdino.config import lookup

SWIN, RESNET = "D2SwinTransformer", "build_resnet_backbone"
STAGES = {"res2": "stage1", "res3": "stage2", "res4": "stage3", "res5": "stage4"}
ENCODED = 3                                 # maps that its pixel decoder's encoder reads
PICTURE = 255.0                             # its image processor brings values to 0 .. 1
BILINEAR = 2                                # as Pillow counts its filters
# Key -> the values that have a place there, and what is to be said of others.
_ARCHITECTURE = {"MODEL.META_ARCHITECTURE": (("MaskFormer",), "no place for another model")}
_MODEL: dict[str, tuple[tuple, str]] = {
    "MODEL.SEM_SEG_HEAD.NAME": (("MaskFormerHead",), "no other head"),
    "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": (("MSDeformAttnPixelDecoder",), "no other pixel decoder"),
    "MODEL.SEM_SEG_HEAD.NORM": (("GN",), "no other normalisation in its pixel decoder"),
    "MODEL.SEM_SEG_HEAD.FREQFUSION.ENABLED": ((False,), "no FreqFusion"),
    "MODEL.SEM_SEG_HEAD.FDAM.ENABLED": ((False,), "no FDAM in its encoder"),
    "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME": (("MultiScaleMaskedTransformerDecoder",),
                                                   "no other transformer decoder"),
    "MODEL.BACKBONE.NAME": ((RESNET, SWIN), "no names here for another backbone"),
    "MODEL.BACKBONE.FDCONV.ENABLED": ((False,), "no FDConv"),
    "MODEL.BACKBONE.DYNAMIC_CONV.NAME": (("",), "no dynamic convolutions"),
    "MODEL.BACKBONE.FDAM.ENABLED": ((False,), "no FDAM in its backbones"),
    "TEST.SLIDING_WINDOW.ENABLED": ((False,), "no sliding window"),
    "TEST.AUG.ENABLED": ((False,), "no augmentation in evaluation"),
}
_BACKBONE: dict[str, dict[str, tuple[tuple, str]]] = {
    SWIN: {
        "MODEL.SWIN.APE": ((False,), "no position embedding that follows the size of a picture"),
        "MODEL.SWIN.PATCH_NORM": ((True,), "no patch embedding without a normalisation"),
        "MODEL.SWIN.QK_SCALE": ((None,), "no other scale of attention"),
    },
    RESNET: {
        "MODEL.RESNETS.NORM": (("FrozenBN", "BN", "SyncBN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N"),
                               "no other normalisation in its ResNet"),
        "MODEL.RESNETS.NUM_GROUPS": ((1,), "no grouped convolutions"),
        "MODEL.RESNETS.RES5_DILATION": ((1,), "no dilated convolutions"),
        "MODEL.RESNETS.DEFORM_ON_PER_STAGE": (([False] * 4,), "no deformable convolutions"),
    },
}


def without_place(cfg: CfgNode) -> list[str]:
    """A sentence for each value of the configuration that transformers' Mask2Former cannot have; empty if it can."""
    problems = list(_unwritable(cfg, _ARCHITECTURE))
    if not problems:
        problems += [*_unwritable(cfg, _MODEL), *_unwritable(cfg, _BACKBONE.get(cfg.MODEL.BACKBONE.NAME, {})),
                     *_unwritable_maps(cfg), *_unwritable_widths(cfg)]
    return problems


def _unwritable(cfg: CfgNode, table: dict[str, tuple[tuple, str]]) -> Iterator[str]:
    for key, (values, lack) in table.items():
        value = lookup(cfg, key)
        if value not in values:
            yield f"{key} is {value!r}: transformers' Mask2Former has {lack}, it takes {' or '.join(map(repr, values))}"


def _unwritable_maps(cfg: CfgNode) -> Iterator[str]:
    head = cfg.MODEL.SEM_SEG_HEAD
    encoded = head.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES
    if not set(head.IN_FEATURES) <= STAGES.keys():
        yield f"MODEL.SEM_SEG_HEAD.IN_FEATURES is {head.IN_FEATURES}: transformers' backbones give {list(STAGES)} alone"
    elif sorted(encoded) != sorted(head.IN_FEATURES)[-ENCODED:] or len(encoded) != ENCODED:
        yield ("MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES is "
               f"{encoded}: transformers' Mask2Former encodes the {ENCODED} coarsest maps of IN_FEATURES, "
               f"{sorted(head.IN_FEATURES)[-ENCODED:]}")


def _unwritable_widths(cfg: CfgNode) -> Iterator[str]:
    options = cfg.MODEL.RESNETS
    if len(cfg.MODEL.PIXEL_MEAN) != 3:
        yield f"MODEL.PIXEL_MEAN has {len(cfg.MODEL.PIXEL_MEAN)} channels: transformers' image processor gives 3"
    bottlenecks = cfg.MODEL.BACKBONE.NAME == RESNET and options.DEPTH >= 50
    if bottlenecks and 4 * options.WIDTH_PER_GROUP != options.RES2_OUT_CHANNELS:
        yield (f"MODEL.RESNETS.WIDTH_PER_GROUP is {options.WIDTH_PER_GROUP}: the bottlenecks of transformers' ResNet "
               f"have a quarter of their output's channels, with RES2_OUT_CHANNELS {options.RES2_OUT_CHANNELS}")


def config_of(cfg: CfgNode, model: nn.Module, class_names: Sequence[str] | None) -> dict[str, Any]:
    """config.json of a Mask2Former that `without_place` has nothing against; ``class_names``: K names, if known."""
    head, family = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.MASK_FORMER
    names = class_names or [f"LABEL_{index}" for index in range(num_classes(model))]
    shapes = model.backbone.output_shape()
    encoder_layers = model.sem_seg_head.pixel_decoder.transformer.encoder.layers
    return {
        "architectures": ["Mask2FormerForUniversalSegmentation"],
        "model_type": "mask2former",
        "dtype": "float32",
        "backbone_config": {
            **(_swin(cfg) if cfg.MODEL.BACKBONE.NAME == SWIN else _resnet(model.backbone)),
            "num_channels": len(cfg.MODEL.PIXEL_MEAN),
            "out_features": [STAGES[name] for name in sorted(head.IN_FEATURES)],
        },
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
        "feature_size": head.CONVS_DIM,
        "mask_feature_size": head.MASK_DIM,
        "hidden_dim": family.HIDDEN_DIM,
        "encoder_feedforward_dim": next((layer.linear1.out_features for layer in encoder_layers), head.DIM_FEEDFORWARD),
        "encoder_layers": head.TRANSFORMER_ENC_LAYERS,
        "decoder_layers": family.DEC_LAYERS,
        "num_attention_heads": family.NHEADS,
        "dropout": family.DROPOUT,
        "dim_feedforward": family.DIM_FEEDFORWARD,
        "pre_norm": family.PRE_NORM,
        "enforce_input_projection": family.ENFORCE_INPUT_PROJ,
        "activation_function": "relu",
        "common_stride": head.COMMON_STRIDE,
        "feature_strides": [shapes[name].stride for name in sorted(head.IN_FEATURES)],
        "num_queries": family.NUM_OBJECT_QUERIES,
        "ignore_value": head.IGNORE_VALUE,
        "no_object_weight": family.NO_OBJECT_WEIGHT,
        "class_weight": family.CLASS_WEIGHT,
        "mask_weight": family.MASK_WEIGHT,
        "dice_weight": family.DICE_WEIGHT,
        "train_num_points": family.TRAIN_NUM_POINTS,
        "oversample_ratio": family.OVERSAMPLE_RATIO,
        "importance_sample_ratio": family.IMPORTANCE_SAMPLE_RATIO,
        "use_auxiliary_loss": family.DEEP_SUPERVISION,
    }


def num_classes(model: nn.Module) -> int:
    """K; the last class of the predictor is "no object"."""
    return model.sem_seg_head.predictor.class_embed.out_features - 1


def _swin(cfg: CfgNode) -> dict[str, Any]:
    options = cfg.MODEL.SWIN
    return {"model_type": "swin", "image_size": options.PRETRAIN_IMG_SIZE, "patch_size": options.PATCH_SIZE,
            "embed_dim": options.EMBED_DIM, "depths": list(options.DEPTHS), "num_heads": list(options.NUM_HEADS),
            "window_size": options.WINDOW_SIZE, "mlp_ratio": options.MLP_RATIO, "qkv_bias": options.QKV_BIAS,
            "hidden_dropout_prob": options.DROP_RATE, "attention_probs_dropout_prob": options.ATTN_DROP_RATE,
            "drop_path_rate": options.DROP_PATH_RATE, "hidden_act": "gelu", "use_absolute_embeddings": False}


def _resnet(network: ResNet) -> dict[str, Any]:
    first_blocks = [stage[0] for stage in network.stages]
    bottlenecks = isinstance(first_blocks[0], BottleneckBlock)
    return {"model_type": "resnet", "embedding_size": network.stem.conv1.out_channels,
            "hidden_sizes": [block.out_channels for block in first_blocks],
            "depths": [len(stage) for stage in network.stages], "layer_type": "bottleneck" if bottlenecks else "basic",
            "hidden_act": "relu", "downsample_in_first_stage": False,
            "downsample_in_bottleneck": bottlenecks and any(block.conv1.stride != (1, 1) for block in first_blocks)}


def image_processor_of(cfg: CfgNode, model: nn.Module) -> dict[str, Any]:
    """preprocessor_config.json. Where a picture is not resized (INPUT.MIN_SIZE_TEST 0), it is not padded either."""
    given = DataConfig.of(cfg)
    step = -1 if given.channels == "BGR" else 1
    resized = cfg.INPUT.MIN_SIZE_TEST > 0
    sizes = {"size": {"shortest_edge": cfg.INPUT.MIN_SIZE_TEST, "longest_edge": cfg.INPUT.MAX_SIZE_TEST}}
    return {
        "image_processor_type": "Mask2FormerImageProcessor",
        "do_resize": resized, **(sizes if resized else {}), "size_divisor": model.size_divisibility,
        "resample": BILINEAR,
        "do_rescale": True, "rescale_factor": 1 / PICTURE,
        "do_normalize": True,
        "image_mean": [value / PICTURE for value in given.mean[::step]],
        "image_std": [value / PICTURE for value in given.std[::step]],
        "ignore_index": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE, "do_reduce_labels": False,
        "num_labels": num_classes(model),
    }

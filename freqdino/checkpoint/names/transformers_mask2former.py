"""The names of transformers' Mask2FormerForUniversalSegmentation, with a Swin or ResNet backbone, as Mask2Former's own.

There the projections to queries, keys and values are three layers of their own where they are one here.
"""
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from freqdino.errors import CheckpointError

_SWIN = r"model\.pixel_level_module\.encoder\.encoder\.layers\.(\d+)\."
_BLOCK = _SWIN + r"blocks\.(\d+)\."
_RESNET = r"model\.pixel_level_module\.encoder\."
_PIXEL = r"model\.pixel_level_module\.decoder\."
_QUERY = r"model\.transformer_module\."
_LAYER = _QUERY + r"decoder\.layers\.(\d+)\."
_HEAD = "sem_seg_head.pixel_decoder."
_PREDICTOR = "sem_seg_head.predictor."
# Pattern of the beginning of a name -> what stands there in Mask2Former's.
_BEGINNINGS: dict[str, str] = {
    # Swin
    r"model\.pixel_level_module\.encoder\.embeddings\.patch_embeddings\.projection\.": "backbone.patch_embed.proj.",
    r"model\.pixel_level_module\.encoder\.embeddings\.norm\.": "backbone.patch_embed.norm.",
    _BLOCK + r"layernorm_before\.": r"backbone.layers.\1.blocks.\2.norm1.",
    _BLOCK + r"layernorm_after\.": r"backbone.layers.\1.blocks.\2.norm2.",
    _BLOCK + r"attention\.self\.relative_position_": r"backbone.layers.\1.blocks.\2.attn.relative_position_",
    _BLOCK + r"attention\.output\.dense\.": r"backbone.layers.\1.blocks.\2.attn.proj.",
    _BLOCK + r"intermediate\.dense\.": r"backbone.layers.\1.blocks.\2.mlp.fc1.",
    _BLOCK + r"output\.dense\.": r"backbone.layers.\1.blocks.\2.mlp.fc2.",
    _SWIN + r"downsample\.": r"backbone.layers.\1.downsample.",
    # ResNet
    _RESNET + r"embedder\.embedder\.convolution\.": "backbone.stem.conv1.",
    _RESNET + r"embedder\.embedder\.normalization\.": "backbone.stem.conv1.norm.",
    # Pixel decoder
    _PIXEL + r"level_embed$": _HEAD + "transformer.level_embed",
    _PIXEL + r"input_projections\.": _HEAD + "input_proj.",
    _PIXEL + r"encoder\.layers\.(\d+)\.self_attn\.": _HEAD + r"transformer.encoder.layers.\1.self_attn.",
    _PIXEL + r"encoder\.layers\.(\d+)\.self_attn_layer_norm\.": _HEAD + r"transformer.encoder.layers.\1.norm1.",
    _PIXEL + r"encoder\.layers\.(\d+)\.final_layer_norm\.": _HEAD + r"transformer.encoder.layers.\1.norm2.",
    _PIXEL + r"encoder\.layers\.(\d+)\.fc([12])\.": _HEAD + r"transformer.encoder.layers.\1.linear\2.",
    _PIXEL + r"(adapter|layer)_(\d+)\.0\.": _HEAD + r"\1_\2.",
    _PIXEL + r"(adapter|layer)_(\d+)\.1\.": _HEAD + r"\1_\2.norm.",
    _PIXEL + r"mask_projection\.": _HEAD + "mask_features.",
    # Transformer decoder
    _LAYER + r"self_attn\.out_proj\.": _PREDICTOR + r"transformer_self_attention_layers.\1.self_attn.out_proj.",
    _LAYER + r"self_attn_layer_norm\.": _PREDICTOR + r"transformer_self_attention_layers.\1.norm.",
    _LAYER + r"cross_attn\.": _PREDICTOR + r"transformer_cross_attention_layers.\1.multihead_attn.",
    _LAYER + r"cross_attn_layer_norm\.": _PREDICTOR + r"transformer_cross_attention_layers.\1.norm.",
    _LAYER + r"fc([12])\.": _PREDICTOR + r"transformer_ffn_layers.\1.linear\2.",
    _LAYER + r"final_layer_norm\.": _PREDICTOR + r"transformer_ffn_layers.\1.norm.",
    _QUERY + r"decoder\.layernorm\.": _PREDICTOR + "decoder_norm.",
    _QUERY + r"decoder\.mask_predictor\.mask_embedder\.(\d+)\.0\.": _PREDICTOR + r"mask_embed.layers.\1.",
    _QUERY + r"queries_features\.": _PREDICTOR + "query_feat.",
    _QUERY + r"queries_embedder\.": _PREDICTOR + "query_embed.",
    _QUERY + r"level_embed\.": _PREDICTOR + "level_embed.",
    r"class_predictor\.": _PREDICTOR + "class_embed.",
    r"criterion\.empty_weight$": "criterion.empty_weight",
}
# Patterns of names that count from another number here -> the beginning, of the numbers in the match.
_COUNTED = {
    r"model\.pixel_level_module\.encoder\.hidden_states_norms\.stage(\d+)\.":
        lambda m: f"backbone.norm{int(m[1]) - 1}.",
    _RESNET + r"encoder\.stages\.(\d+)\.layers\.(\d+)\.shortcut\.convolution\.":
        lambda m: f"backbone.res{int(m[1]) + 2}.{m[2]}.shortcut.",
    _RESNET + r"encoder\.stages\.(\d+)\.layers\.(\d+)\.shortcut\.normalization\.":
        lambda m: f"backbone.res{int(m[1]) + 2}.{m[2]}.shortcut.norm.",
    _RESNET + r"encoder\.stages\.(\d+)\.layers\.(\d+)\.layer\.(\d+)\.convolution\.":
        lambda m: f"backbone.res{int(m[1]) + 2}.{m[2]}.conv{int(m[3]) + 1}.",
    _RESNET + r"encoder\.stages\.(\d+)\.layers\.(\d+)\.layer\.(\d+)\.normalization\.":
        lambda m: f"backbone.res{int(m[1]) + 2}.{m[2]}.conv{int(m[3]) + 1}.norm.",
}
# Layers that are one here, by the parts in their order -> the beginning of the name of the whole, how a part goes on.
_FUSED: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (_BLOCK + r"attention\.self\.(query|key|value)\.(weight|bias)", r"backbone.layers.\1.blocks.\2.attn.qkv.\4",
     ("query", "key", "value")),
    (_LAYER + r"self_attn\.(q|k|v)_proj\.(weight|bias)",
     _PREDICTOR + r"transformer_self_attention_layers.\1.self_attn.in_proj_\3", ("q", "k", "v")),
)
# transformers' Swin normalises its last map a second time for a classifier that Mask2Former does not have.
_UNUSED = re.compile(r"model\.pixel_level_module\.encoder\.(swin\.)?layernorm\.")


def mask2former_name(name: str) -> str | None:
    """The name that an entry has in Mask2Former; None for a part of a fused layer and for names that are not known.

    >>> mask2former_name("model.pixel_level_module.encoder.encoder.stages.1.layers.0.layer.2.normalization.bias")
    'backbone.res3.0.conv3.norm.bias'
    """
    for pattern, template in _BEGINNINGS.items():
        if match := re.match(pattern, name):
            return match.expand(template) + name[match.end():]
    for pattern, begin in _COUNTED.items():
        if match := re.match(pattern, name):
            return begin(match) + name[match.end():]
    return None


def with_mask2former_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``tensors`` under Mask2Former's names, queries, keys and values joined; names that are not known stay.

    Raises CheckpointError where a part of a fused layer is missing.
    """
    named: dict[str, Tensor] = {}
    parts: dict[tuple[str, tuple[str, ...]], dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if _UNUSED.match(name):
            continue
        for pattern, template, order in _FUSED:
            if match := re.fullmatch(pattern, name):
                part = next(group for group in match.groups() if group in order)
                parts.setdefault((match.expand(template), order), {})[part] = tensor
                break
        else:
            named[mask2former_name(name) or name] = tensor
    for (whole, order), found in parts.items():
        missing = [part for part in order if part not in found]
        if missing:
            raise CheckpointError(f"the checkpoint has no {', '.join(missing)} for {whole}")
        named[whole] = torch.cat([found[part] for part in order])
    return named

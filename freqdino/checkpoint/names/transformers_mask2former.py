"""The names of transformers' Mask2FormerForUniversalSegmentation, with a Swin or ResNet, and Mask2Former's own.

Names are those of its checkpoints, which its modules of newer versions do not all have. There the projections to
queries, keys and values are three layers of their own where they are one here.
"""
import re
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from freqdino.errors import CheckpointError, first_few

_ENCODER = "model.pixel_level_module.encoder."
_SWIN, _SWIN_HERE = _ENCODER + "encoder.layers.<i>.", "backbone.layers.<i>."
_BLOCK, _BLOCK_HERE = _SWIN + "blocks.<j>.", _SWIN_HERE + "blocks.<j>."
_RESNET, _RESNET_HERE = _ENCODER + "encoder.stages.<i>.layers.<j>.", "backbone.res<i+2>.<j>."
_PIXEL, _PIXEL_HERE = "model.pixel_level_module.decoder.", "sem_seg_head.pixel_decoder."
_ENCODER_LAYER, _ENCODER_LAYER_HERE = _PIXEL + "encoder.layers.<i>.", _PIXEL_HERE + "transformer.encoder.layers.<i>."
_QUERY, _PREDICTOR = "model.transformer_module.", "sem_seg_head.predictor."
_LAYER = _QUERY + "decoder.layers.<i>."
# What a name begins with there and here; <i+1> stands for the number one greater than <i>.
_BEGINNINGS: tuple[tuple[str, str], ...] = (
    # Swin
    (_ENCODER + "embeddings.patch_embeddings.projection.", "backbone.patch_embed.proj."),
    (_ENCODER + "embeddings.norm.", "backbone.patch_embed.norm."),
    (_BLOCK + "layernorm_before.", _BLOCK_HERE + "norm1."),
    (_BLOCK + "layernorm_after.", _BLOCK_HERE + "norm2."),
    (_BLOCK + "attention.self.relative_position_", _BLOCK_HERE + "attn.relative_position_"),
    (_BLOCK + "attention.output.dense.", _BLOCK_HERE + "attn.proj."),
    (_BLOCK + "intermediate.dense.", _BLOCK_HERE + "mlp.fc1."),
    (_BLOCK + "output.dense.", _BLOCK_HERE + "mlp.fc2."),
    (_SWIN + "downsample.", _SWIN_HERE + "downsample."),
    (_ENCODER + "hidden_states_norms.stage<i+1>.", "backbone.norm<i>."),
    # ResNet
    (_ENCODER + "embedder.embedder.convolution.", "backbone.stem.conv1."),
    (_ENCODER + "embedder.embedder.normalization.", "backbone.stem.conv1.norm."),
    (_RESNET + "shortcut.convolution.", _RESNET_HERE + "shortcut."),
    (_RESNET + "shortcut.normalization.", _RESNET_HERE + "shortcut.norm."),
    (_RESNET + "layer.<k>.convolution.", _RESNET_HERE + "conv<k+1>."),
    (_RESNET + "layer.<k>.normalization.", _RESNET_HERE + "conv<k+1>.norm."),
    # Pixel decoder
    (_PIXEL + "level_embed", _PIXEL_HERE + "transformer.level_embed"),
    (_PIXEL + "input_projections.", _PIXEL_HERE + "input_proj."),
    (_ENCODER_LAYER + "self_attn.", _ENCODER_LAYER_HERE + "self_attn."),
    (_ENCODER_LAYER + "self_attn_layer_norm.", _ENCODER_LAYER_HERE + "norm1."),
    (_ENCODER_LAYER + "final_layer_norm.", _ENCODER_LAYER_HERE + "norm2."),
    (_ENCODER_LAYER + "fc<k>.", _ENCODER_LAYER_HERE + "linear<k>."),
    (_PIXEL + "adapter_<i>.0.", _PIXEL_HERE + "adapter_<i>."),
    (_PIXEL + "adapter_<i>.1.", _PIXEL_HERE + "adapter_<i>.norm."),
    (_PIXEL + "layer_<i>.0.", _PIXEL_HERE + "layer_<i>."),
    (_PIXEL + "layer_<i>.1.", _PIXEL_HERE + "layer_<i>.norm."),
    (_PIXEL + "mask_projection.", _PIXEL_HERE + "mask_features."),
    # Transformer decoder
    (_LAYER + "self_attn.out_proj.", _PREDICTOR + "transformer_self_attention_layers.<i>.self_attn.out_proj."),
    (_LAYER + "self_attn_layer_norm.", _PREDICTOR + "transformer_self_attention_layers.<i>.norm."),
    (_LAYER + "cross_attn.", _PREDICTOR + "transformer_cross_attention_layers.<i>.multihead_attn."),
    (_LAYER + "cross_attn_layer_norm.", _PREDICTOR + "transformer_cross_attention_layers.<i>.norm."),
    (_LAYER + "fc<k>.", _PREDICTOR + "transformer_ffn_layers.<i>.linear<k>."),
    (_LAYER + "final_layer_norm.", _PREDICTOR + "transformer_ffn_layers.<i>.norm."),
    (_QUERY + "decoder.layernorm.", _PREDICTOR + "decoder_norm."),
    (_QUERY + "decoder.mask_predictor.mask_embedder.<i>.0.", _PREDICTOR + "mask_embed.layers.<i>."),
    (_QUERY + "queries_features.", _PREDICTOR + "query_feat."),
    (_QUERY + "queries_embedder.", _PREDICTOR + "query_embed."),
    (_QUERY + "level_embed.", _PREDICTOR + "level_embed."),
    (_QUERY + "input_projections.", _PREDICTOR + "input_proj."),
    ("class_predictor.", _PREDICTOR + "class_embed."),
    ("criterion.empty_weight", "criterion.empty_weight"),
)
# Layers that are one here: what the names of the parts begin with there, in their order, and the whole's here.
_FUSED: tuple[tuple[tuple[str, ...], str], ...] = (
    (tuple(f"{_BLOCK}attention.self.{part}." for part in ("query", "key", "value")), _BLOCK_HERE + "attn.qkv."),
    (tuple(f"{_LAYER}self_attn.{part}_proj." for part in "qkv"),
     _PREDICTOR + "transformer_self_attention_layers.<i>.self_attn.in_proj_"),
)
# transformers' Swin normalises its last map a second time for a classifier that Mask2Former does not have.
UNUSED_NORM = _ENCODER + "swin.layernorm."
_UNUSED = re.compile(_ENCODER.replace(".", r"\.") + r"(swin\.)?layernorm\.")
_NUMBER = re.compile(r"<(\w)(?:\+(\d))?>")


class _Renaming:
    """What names begin with in one place -> what they begin with in another; the longest that fits counts."""

    def __init__(self, beginnings: Sequence[tuple[str, str]]):
        longest_first = sorted(beginnings, key=lambda pair: -len(pair[0]))
        self._rules = [(_pattern(source), _shifts(source), target) for source, target in longest_first]

    def __call__(self, name: str) -> str | None:
        """The new name; None for one that no beginning fits."""
        for pattern, shifts, target in self._rules:
            if match := pattern.match(name):
                numbers = {key: int(match[key]) - shift for key, shift in shifts.items()}
                return _NUMBER.sub(lambda hole: str(numbers[hole[1]] + int(hole[2] or 0)), target) + name[match.end():]
        return None


def _pattern(template):
    literals = _NUMBER.split(template)      # text, key, shift, text, key, shift, ..., text
    return re.compile("".join(re.escape(text) + (rf"(?P<{key}>\d+)" if key else "")
                              for text, key in zip(literals[::3], [*literals[1::3], ""])))


def _shifts(template):
    return {key: int(shift or 0) for key, shift in _NUMBER.findall(template)}


_TO_HERE = _Renaming(_BEGINNINGS)
_TO_THERE = _Renaming([(here, there) for there, here in _BEGINNINGS])
# For each part of a fused layer, counted in the layer's order.
_PARTS_TO_HERE = [_Renaming([(parts[index], whole) for parts, whole in _FUSED]) for index in range(3)]
_PARTS_TO_THERE = [_Renaming([(whole, parts[index]) for parts, whole in _FUSED]) for index in range(3)]


def with_mask2former_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """transformers' ``tensors`` under Mask2Former's names, queries, keys and values joined; names that are not known
    stay.

    Raises CheckpointError where a part of a fused layer is missing.
    """
    named: dict[str, Tensor] = {}
    parts: dict[str, dict[int, Tensor]] = {}
    for name, tensor in tensors.items():
        if _UNUSED.match(name):
            continue
        for index, rename in enumerate(_PARTS_TO_HERE):
            if whole := rename(name):
                parts.setdefault(whole, {})[index] = tensor
                break
        else:
            named[_TO_HERE(name) or name] = tensor
    for whole, found in parts.items():
        missing = [rename(whole) for index, rename in enumerate(_PARTS_TO_THERE) if index not in found]
        if missing:
            raise CheckpointError(f"the checkpoint has no {', '.join(map(str, missing))}, a part of {whole}")
        named[whole] = torch.cat([found[index] for index in sorted(found)])
    return named


def with_transformers_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Mask2Former's ``tensors`` under transformers' names, queries, keys and values apart, each in memory of its own.

    Raises CheckpointError for names that have no place there.
    """
    strangers = [name for name in tensors if not any(rename(name) for rename in (_TO_THERE, *_PARTS_TO_THERE))]
    if strangers:
        raise CheckpointError(f"transformers' Mask2Former has no place for {first_few(strangers)}")
    return {new_name: part for name, tensor in tensors.items() for new_name, part in _apart(name, tensor)}


def _apart(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    names = [rename(name) for rename in _PARTS_TO_THERE]
    fused = None not in names
    for new_name, part in zip(names if fused else [_TO_THERE(name)], tensor.chunk(len(names)) if fused else [tensor]):
        yield str(new_name), part.clone(memory_format=torch.contiguous_format)

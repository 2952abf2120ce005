"""The maps V, A·V and Y of every attention over an image, from the recorded calls of a model's transformer blocks.

Served: plain and FDAM's vision transformers, timm's, Swin (its windows put together again), MiT, and the deformable
encoder of the pixel decoders, level by level. Attention of queries that are no pixels is left out.

C: channels, H × W: map, N = H · W: tokens, heads: attention heads, d: their width. Of a batch the first image counts.
"""
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch.nn.functional as F
from detectron2.modeling.backbone.swin import SwinTransformerBlock, window_reverse
from timm.models.vision_transformer import Attention as TimmAttention
from timm.models.vision_transformer import VisionTransformer as TimmTransformer
from torch import Tensor, nn

from freqdino.analysis.frequency.modulation import inversion_coefficients
from freqdino.analysis.frequency.recording import Calls
from freqdino.frequency import InversionGates
from freqdino.frequency.fdam.transformer_block import TransformerBlock
from freqdino.layers.deformable_attention import DeformableEncoderLayer
from freqdino.modeling.backbones.mit import MiTBlock
from freqdino.modeling.backbones.swin_block import FrequencySwinBlock
from freqdino.modeling.backbones.timm_vit import TimmViTBackbone


@dataclass
class AttentionMap:
    """What one attention made of one map.

    name: of the block, with the level where it has several. group: what is equal for blocks of one map size in a stack.
    value, attended, output: V, A·V and Y, the input of the output projection, (C, H, W); Y is A·V unless inverted.
    features: the block's result (C', H, W). low, high: S̄ and Ŝ (C, H, W), None without inversion.
    queries, keys: (heads, N, d) where attention is global, else None.
    """
    name: str
    group: str
    value: Tensor
    attended: Tensor
    output: Tensor
    features: Tensor
    low: Tensor | None = None
    high: Tensor | None = None
    queries: Tensor | None = None
    keys: Tensor | None = None


def reader_of(model: nn.Module, module: nn.Module) -> Callable | None:
    """What reads the attention of a model's block; None for a module that is no block with attention over a map."""
    if isinstance(model, TimmTransformer):
        return read_timm if isinstance(getattr(module, "attn", None), TimmAttention) else None
    return next((reader for kind, reader in BLOCK_READERS.items() if isinstance(module, kind)), None)


def attention_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """Name -> block, in the order of the model."""
    return {name: module for name, module in model.named_modules() if reader_of(model, module) is not None}


def unread_backbones(model: nn.Module) -> list[str]:
    """The backbones of a model whose attention is not served: timm's plain vision transformers, but by themselves."""
    return [name for name, module in model.named_modules() if isinstance(module, TimmViTBackbone)]


def belongs_to_blocks(model: nn.Module) -> Callable[[str, nn.Module], bool]:
    """What `recorded_calls` has to record for `attention_maps`."""
    prefixes = tuple(f"{name}." for name in attention_blocks(model))
    return lambda name, module: f"{name}.".startswith(prefixes)


def attention_maps(model: nn.Module, calls: Calls) -> list[AttentionMap]:
    """All that the recorded calls hold, in the order of the model."""
    return [attention_map for name, block in attention_blocks(model).items() if name in calls
            for attention_map in reader_of(model, block)(model, name, block, calls)]


def to_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, N, C) to (C, H, W) of the first image, on the CPU."""
    return tokens[0].mT.unflatten(1, grid).cpu()


def group_of(name: str) -> str:
    """The list that a block stands in: "backbone.blocks.3" is of "backbone.blocks"."""
    return name.rpartition(".")[0]


def coefficient_maps(gates: nn.Module | None, query: Tensor, grid: tuple[int, int]) -> dict[str, Tensor]:
    """AttentionMap's ``low`` and ``high``; neither where nothing is inverted."""
    if not isinstance(gates, InversionGates) or not (gates.lf_dy_weight or gates.hf_dy_weight):
        return {}
    low, high = inversion_coefficients(gates, query)
    return {"low": to_map(low, grid), "high": to_map(high, grid)}


def read_transformer(model: nn.Module, name: str, block: TransformerBlock, calls: Calls) -> Iterator[AttentionMap]:
    call, = calls[name]
    yield read_global(name, block.attn, calls, tuple(call.args[1]), prefix_tokens=0)


def read_timm(model: nn.Module, name: str, block: nn.Module, calls: Calls) -> Iterator[AttentionMap]:
    yield read_global(name, block.attn, calls, tuple(model.patch_embed.grid_size), model.num_prefix_tokens)


def read_global(name: str, attention: nn.Module, calls: Calls, grid: tuple[int, int],
                prefix_tokens: int) -> AttentionMap:
    """Attention among all tokens, of which the first ``prefix_tokens`` (timm's class token) are not of the map.

    A·V is what all tokens give; the kernels of ``queries`` and ``keys`` are those among the map's own tokens.
    """
    block_call, = calls[name]
    projected, = calls[f"{name}.attn.qkv"]
    output = calls[f"{name}.attn.proj"][0].args[0]
    queries, keys, values = projected.output.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    if isinstance(attention, TimmAttention):
        queries, keys = attention.q_norm(queries), attention.k_norm(keys)
    coefficients = coefficient_maps(attention, projected.args[0], grid)
    attended = output
    if coefficients:
        attended = F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)
    value, attended, output, features = (to_map(tokens[:, prefix_tokens:], grid) for tokens in (
        values.transpose(1, 2).flatten(2), attended, output, block_call.output))
    return AttentionMap(name, group_of(name), value, attended, output, features, **coefficients,
                        queries=queries[0, :, prefix_tokens:].cpu(), keys=keys[0, :, prefix_tokens:].cpu())


def read_windows(model: nn.Module, name: str, block: SwinTransformerBlock, calls: Calls) -> Iterator[AttentionMap]:
    """Detectron2's own block, whose projections see windows."""
    side, shift, grid = block.window_size, block.shift_size, (block.H, block.W)
    height, width = (size + -size % side for size in grid)

    def from_windows(windows: Tensor) -> Tensor:
        padded = window_reverse(windows.unflatten(1, (side, side)), side, height, width)
        return padded.roll((shift, shift), dims=(1, 2))[0, :grid[0], :grid[1]].permute(2, 0, 1).cpu()

    projected, = calls[f"{name}.attn.qkv"]
    output = from_windows(calls[f"{name}.attn.proj"][0].args[0])
    yield AttentionMap(name, group_of(name), from_windows(projected.output.chunk(3, dim=-1)[2]), output, output,
                       to_map(calls[name][0].output, grid))


def read_map_windows(model: nn.Module, name: str, block: FrequencySwinBlock, calls: Calls) -> Iterator[AttentionMap]:
    """Our block, whose projections see the map."""
    projected, = calls[f"{name}.attn.qkv"]
    yield read_inverted(name, calls, (block.H, block.W), projected.output.chunk(3, dim=-1)[2])


def read_reduced(model: nn.Module, name: str, block: MiTBlock, calls: Calls) -> Iterator[AttentionMap]:
    """Keys and values are of a reduced map; V at a token is what the value projection makes of it itself."""
    tokens, grid = calls[f"{name}.attn"][0].args
    yield read_inverted(name, calls, tuple(grid), block.attn._own_values(tokens))


def read_inverted(name: str, calls: Calls, grid: tuple[int, int], value: Tensor) -> AttentionMap:
    """Attention that hands A·V to a module ``invert``, or is not inverted. value: (B, N, C)."""
    output = attended = calls[f"{name}.attn.proj"][0].args[0]
    coefficients = {}
    if f"{name}.attn.invert" in calls:
        gates, (_, attended, query), _ = calls[f"{name}.attn.invert"][0]
        coefficients = coefficient_maps(gates, query, grid)
    value, attended, output, features = (to_map(tokens, grid) for tokens in (
        value, attended, output, calls[name][0].output))
    return AttentionMap(name, group_of(name), value, attended, output, features, **coefficients)


def read_deformable(model: nn.Module, name: str, layer: DeformableEncoderLayer, calls: Calls) -> Iterator[AttentionMap]:
    """One map for each level of the encoder, whose tokens are the levels' one after the other."""
    attention_call, = calls[f"{name}.self_attn"]
    sizes = [tuple(size) for size in attention_call.args[3]]
    tokens = {"value": calls[f"{name}.self_attn.value_proj"][0].output,
              "output": calls[f"{name}.self_attn.output_proj"][0].args[0], "features": calls[name][0].output}
    tokens["attended"] = tokens["output"]
    if f"{name}.self_attn.invert" in calls:
        gates, (_, tokens["attended"], query), _ = calls[f"{name}.self_attn.invert"][0]
        tokens["low"], tokens["high"] = inversion_coefficients(gates, query)
    levels = zip(*(every.split([height * width for height, width in sizes], dim=1) for every in tokens.values()))
    for level, (size, parts) in enumerate(zip(sizes, levels)):
        yield AttentionMap(f"{name}, level {level}", f"{group_of(name)}, level {level}",
                           **{key: to_map(part, size) for key, part in zip(tokens, parts)})


BLOCK_READERS = {TransformerBlock: read_transformer, FrequencySwinBlock: read_map_windows,
                 SwinTransformerBlock: read_windows, MiTBlock: read_reduced, DeformableEncoderLayer: read_deformable}

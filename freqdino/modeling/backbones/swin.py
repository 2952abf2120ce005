"""Detectron2's Swin Transformer under the names that the published segmentation models use.

Sources: Swin Transformer (arXiv 2103.14030); its frequency modules: `freqdino.modeling.backbones.swin_block`.
B: batch, C: channels, (H, W): size of the image.
"""
from collections.abc import Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from detectron2.modeling.backbone.swin import BasicLayer, SwinTransformer
from torch import Tensor, nn

from freqdino.errors import ArgumentError
from freqdino.modeling.backbones.freezing import FreezableBackbone
from freqdino.modeling.backbones.swin_block import FrequencySwinBlock, plain_block_on_map, shifted_window_mask
from freqdino.ops.modules import default_device, is_exported

STAGE_NAMES = ("res2", "res3", "res4", "res5")


class D2SwinTransformer(FreezableBackbone, SwinTransformer):
    """Images (B, in_chans, H, W) -> the maps named in ``out_features``, res2 .. res5 at strides 4 .. 32 (rounded up).

    Keys are the published ones. Raises ValueError for an unknown map name, for other than four stages and for heads
    that do not divide the channels of their stage, of which each has twice its predecessor's.
    """

    def __init__(self, *, out_features: Sequence[str], pretrain_img_size: int, patch_size: int, embed_dim: int,
                 depths: Sequence[int], num_heads: Sequence[int], window_size: int, mlp_ratio: float, qkv_bias: bool,
                 qk_scale: float | None, drop_rate: float, attn_drop_rate: float, drop_path_rate: float, ape: bool,
                 patch_norm: bool, use_checkpoint: bool, in_chans: int = 3):
        unknown = [name for name in out_features if name not in STAGE_NAMES]
        if unknown:
            raise ArgumentError("out_features", f"names {unknown}; a Swin Transformer has {list(STAGE_NAMES)}")
        for name, values in (("depths", depths), ("num_heads", num_heads)):
            if len(values) != len(STAGE_NAMES) or min(values) < 1:
                raise ArgumentError(name, f"must be four positive numbers, one a stage, got {list(values)}")
        for channels, heads in zip((embed_dim * 2 ** stage for stage in range(len(STAGE_NAMES))), num_heads):
            if channels % heads:
                raise ArgumentError("num_heads", f"{list(num_heads)} with embed_dim {embed_dim}: {heads} heads do not "
                                    f"divide {channels} channels")
        # Detectron2 reads tensors while it builds, which the meta device does not serve.
        on_meta = default_device().type == "meta"
        with torch.device("cpu") if on_meta else nullcontext():
            super().__init__(
                pretrain_img_size=pretrain_img_size, patch_size=patch_size, in_chans=in_chans, embed_dim=embed_dim,
                depths=depths, num_heads=num_heads, window_size=window_size, mlp_ratio=mlp_ratio, qkv_bias=qkv_bias,
                qk_scale=qk_scale, drop_rate=drop_rate, attn_drop_rate=attn_drop_rate, drop_path_rate=drop_path_rate,
                ape=ape, patch_norm=patch_norm, use_checkpoint=use_checkpoint)
        if on_meta:
            self.to("meta")
        self._out_features = list(out_features)
        self._out_feature_channels = dict(zip(STAGE_NAMES, self.num_features))
        self._out_feature_strides = {name: patch_size * 2 ** i for i, name in enumerate(STAGE_NAMES)}

    @property
    def size_divisibility(self) -> int:
        """Side lengths of which no stage needs padding; the parent's own property fails on a misspelled attribute."""
        return self._out_feature_strides[STAGE_NAMES[-1]]

    def stage_parts(self) -> list[list[str]]:
        """See FreezableBackbone; as in Detectron2's class a stage includes its patch merging, and the norms of the
        maps, for which ImageNet's weights have nothing, go on learning."""
        return [["patch_embed", "absolute_pos_embed", "pos_drop"], *([f"layers.{i}"] for i in range(len(STAGE_NAMES)))]

    def freeze(self, freeze_at: int) -> None:
        super().freeze(freeze_at)
        for index, layer in enumerate(self.layers):
            if f"layers.{index}" in self.frozen_modules:
                layer.use_checkpoint = False            # nothing to recompute for a backward pass
            elif freeze_at > 0:
                layer.register_forward_pre_hook(require_gradient)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self._exported(x) if is_exported() else super().forward(x)
        maps = dict(zip(STAGE_NAMES, maps.values()))
        return {name: maps[name] for name in self._out_features}

    def _exported(self, image: Tensor) -> dict[str, Tensor]:
        """What Detectron2's forward computes, for sizes that may be symbols: its own makes numbers of them."""
        x = self.patch_embed(image)
        if self.ape:
            x = x + F.interpolate(self.absolute_pos_embed, size=x.shape[2:], mode="bicubic")
        grid, x, maps = tuple(x.shape[2:]), x.flatten(2).transpose(1, 2), {}
        for index, layer in enumerate(self.layers):
            mask = shifted_window_mask(grid, layer.window_size, layer.shift_size, x)
            for block in layer.blocks:
                if isinstance(block, FrequencySwinBlock):
                    block.H, block.W = grid
                    x = block(x, mask)
                else:
                    x = plain_block_on_map(block, x, grid, mask)
            maps[f"p{index}"] = getattr(self, f"norm{index}")(x).transpose(1, 2).unflatten(2, grid)
            if layer.downsample is not None:
                x, grid = layer.downsample(x, *grid), tuple((size + 1) // 2 for size in grid)
        return maps


def require_gradient(layer: BasicLayer, inputs: tuple) -> tuple:
    """Tokens of a frozen stage, made to require a gradient: Detectron2's activation checkpointing passes none on to
    the parameters of a block whose input requires none."""
    tokens, *size = inputs
    if torch.is_grad_enabled() and not tokens.requires_grad:
        tokens = tokens.detach().requires_grad_()
    return tokens, *size


def use_frequency_blocks(swin: D2SwinTransformer) -> None:
    """Replace all blocks by FrequencySwinBlock, in place: keys and function stay, and there is room for `add_fdam` and
    `add_fdconv` of `freqdino.modeling.backbones.token_block`."""
    for layer in swin.layers:
        layer.blocks = nn.ModuleList(map(FrequencySwinBlock, layer.blocks))

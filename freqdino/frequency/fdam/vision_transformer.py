"""A vision transformer of one resolution as a segmentation backbone.

Source: DeiT III (arXiv 2204.07118): learned position embedding without class token, LayerScale, one drop rate for all
blocks.

B: batch, C: channels, H × W: image, P: patch, h × w: grid of patches, ⌈H / P⌉ × ⌈W / P⌉.
"""
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from freqdino.errors import ArgumentError
from freqdino.frequency.argument_checks import check_counts, check_type
from freqdino.frequency.fdam.transformer_block import TransformerBlock
from freqdino.ops.modules import same_size

INITIAL_STD = 0.02
MOST_CLASS_TOKENS = 2       # a class token and, in the distilled DeiT, the one that learns from the teacher


def resize_position_embedding(embedding: Tensor, source: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """Bicubic resizing (corners not aligned) of a position embedding from one grid of patches to another.

    embedding: (1, h·w, C) for ``source`` = (h, w). Returns (1, h'·w', C) for ``target`` = (h', w').

    >>> resize_position_embedding(torch.ones(1, 16, 8), (4, 4), (2, 6)).shape
    torch.Size([1, 12, 8])
    """
    if same_size(source, target):
        return embedding
    # float32 because the bicubic weights are worth more digits than bfloat16 has; done once a forward pass.
    grid = embedding.transpose(1, 2).unflatten(2, source).to(torch.promote_types(embedding.dtype, torch.float32))
    resized = F.interpolate(grid, size=tuple(target), mode="bicubic", align_corners=False)
    return resized.flatten(2).transpose(1, 2).to(embedding.dtype)


def adapt_position_embedding(embedding: Tensor, target: tuple[int, int], name: str = "pos_embed") -> Tensor:
    """A checkpoint's position embedding for another grid, resized, without the tokens that it may begin with.

    embedding: (1, N, C). N may be the target's number of patches or a square number, either plus one for a class token
    or two for a distilled DeiT's. Returns (1, h·w, C) for ``target`` = (h, w). Raises ValueError, with ``name``, for
    any other N.
    """
    tokens = embedding.shape[1]
    patches = target[0] * target[1]
    if tokens in (patches, patches + 1):
        return embedding[:, tokens - patches:]
    for class_tokens in range(MOST_CLASS_TOKENS + 1):
        of_patches = tokens - class_tokens
        if of_patches == patches:
            return embedding[:, class_tokens:]
        side = math.isqrt(max(of_patches, 0))
        if side > 0 and side**2 == of_patches:
            return resize_position_embedding(embedding[:, class_tokens:], (side, side), target)
    raise ValueError(f"{name}: {tokens} tokens are neither a grid of {target[0]} × {target[1]} patches nor a square "
                     f"one, with or without a class token")


class PatchEmbedding(nn.Module):
    """(B, in_chans, H, W) to (B, C, h, w); a rest at the right and bottom is padded with zeros to a whole patch."""

    def __init__(self, patch_size: int, in_chans: int, embed_dim: int):
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, image: Tensor) -> Tensor:
        bottom, right = (-length % self.patch_size for length in image.shape[-2:])
        if bottom or right:
            image = F.pad(image, (0, right, 0, bottom))
        return self.proj(image)


class VisionTransformer(nn.Module):
    """Vision transformer; position embeddings of other sizes load, resized.

    img_size: side, or (height, width), of the images that ``pos_embed`` is laid out for; images of other sizes are
    fine, the embedding is resized. embed_dim: C, a multiple of num_heads. init_values: where LayerScale starts.
    drop_path_rate: the same for all blocks. out_indices: the blocks whose outputs are returned, in this order.
    activation_checkpointing: recompute the blocks in the backward pass to save memory. block: what makes a block,
    called as TransformerBlock is.
    Raises ValueError for arguments or images that do not fit.

    >>> backbone = VisionTransformer(img_size=64, embed_dim=64, depth=2, num_heads=4, out_indices=(0, 1))
    >>> [tuple(feature_map.shape) for feature_map in backbone(torch.randn(1, 3, 64, 90))]
    [(1, 64, 4, 6), (1, 64, 4, 6)]
    """

    def __init__(self, *, img_size: int | tuple[int, int] = 224, patch_size: int = 16, in_chans: int = 3,
                 embed_dim: int = 768, depth: int = 12, num_heads: int = 12, mlp_ratio: float = 4.0,
                 qkv_bias: bool = True, init_values: float = 1e-4, drop_path_rate: float = 0.0,
                 out_indices: Sequence[int] = (3, 5, 7, 11), activation_checkpointing: bool = False,
                 block: Callable[..., nn.Module] = TransformerBlock):
        super().__init__()
        check_counts(img_size=img_size, patch_size=patch_size, in_chans=in_chans, embed_dim=embed_dim, depth=depth)
        if not out_indices or not all(0 <= index < depth for index in out_indices):
            raise ArgumentError("out_indices", f"must name blocks from 0 to {depth - 1} (depth {depth}), got "
                                f"{tuple(out_indices)}")
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.out_indices = tuple(out_indices)
        self.activation_checkpointing = activation_checkpointing
        self.grid = (math.ceil(height / patch_size), math.ceil(width / patch_size))
        self.patch_embed = PatchEmbedding(patch_size, in_chans, embed_dim)
        self.pos_embed = nn.Parameter(torch.empty(1, self.grid[0] * self.grid[1], embed_dim))
        self.blocks = nn.ModuleList(
            block(dim=embed_dim, num_heads=num_heads, mlp_ratio=mlp_ratio, qkv_bias=qkv_bias, init_values=init_values,
                  drop_path=drop_path_rate)
            for _ in range(depth)
        )
        self.reset_parameters()
        self.register_load_state_dict_pre_hook(adapt_loaded_position_embedding)

    def reset_parameters(self):
        nn.init.trunc_normal_(self.pos_embed, std=INITIAL_STD)
        self.apply(initialize_linear)

    def forward(self, image: Tensor) -> list[Tensor]:
        """image: (B, in_chans, H, W). Returns one (B, C, h, w) map for each of ``out_indices``."""
        channels = self.patch_embed.proj.in_channels
        if image.dim() != 4 or image.shape[1] != channels or 0 in image.shape[2:]:
            raise ValueError(f"image must have shape (B, {channels}, H, W) with H and W above 0, got "
                             f"{tuple(image.shape)}")
        check_type("image", image, self)
        patches = self.patch_embed(image)
        grid = tuple(patches.shape[-2:])
        x = patches.flatten(2).transpose(1, 2) + resize_position_embedding(self.pos_embed, self.grid, grid)
        feature_maps = {}
        for index, block in enumerate(self.blocks[:max(self.out_indices) + 1]):
            if self.activation_checkpointing and self.training:
                x = checkpoint(block, x, grid, use_reentrant=False)
            else:
                x = block(x, grid)
            if index in self.out_indices:
                feature_maps[index] = x.transpose(1, 2).unflatten(2, grid)
        return [feature_maps[index] for index in self.out_indices]

    def adapt_plain_state(self, state_dict: dict[str, Tensor], prefix: str) -> list[str]:
        """See `freqdino.frequency.plain_state`: position embeddings of other grids and with a class token."""
        adapt_loaded_position_embedding(self, state_dict, prefix)
        return []


def initialize_linear(module: nn.Module):
    """DeiT's start of linear layers: weights N(0, 0.02) truncated at ±2, biases 0."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=INITIAL_STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def adapt_loaded_position_embedding(module: VisionTransformer, state_dict: dict, prefix: str, *_):
    key = f"{prefix}pos_embed"
    if key in state_dict:
        state_dict[key] = adapt_position_embedding(state_dict[key], module.grid, key)

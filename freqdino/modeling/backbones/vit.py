"""A vision transformer as a backbone of four levels, with plain blocks or FDAM's, and FDLinear in its blocks.

Sources: DeiT III (arXiv 2204.07118), FDAM (ICCV 2025, arXiv 2507.12006); the neck is what that recipe's UPerNet reads
from a plain transformer, as in BEiT (arXiv 2106.08254) and ViTDet's simple pyramid (arXiv 2203.16527).
B: batch, C: channels, H × W: image.
"""
from collections.abc import Callable, Sequence
from itertools import pairwise

from detectron2.layers import ShapeSpec, get_norm
from torch import Tensor, nn

from freqdino.errors import ArgumentError
from freqdino.frequency.argument_checks import check_choice
from freqdino.frequency.fdam.transformer_block import TransformerBlock
from freqdino.frequency.fdam.vision_transformer import VisionTransformer
from freqdino.modeling.backbones.freezing import FreezableBackbone
from freqdino.modeling.backbones.token_block import to_fdlinear

PATCH_SIZE = 16
NECK_NORMS = ("LN", "BN", "SyncBN", "GN")
# What a block has without FDAM.
BLOCK_PARTS = ("norm1", "attn.qkv", "attn.proj", "gamma_1", "norm2", "mlp", "gamma_2", "drop_path")
STAGE_STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


class ViTBackbone(VisionTransformer, FreezableBackbone):
    """Images (B, in_chans, H, W) -> res2 .. res5, each C channels, at strides 4, 8, 16 and 32 (rounded up).

    ``out_indices`` names four blocks, shallow to deep, the last block among them: one for each level, as published for
    UPerNet; all their maps have stride 16, and `resizing_neck` resizes them. ``neck_norm``: its normalisation, LN
    (ViTDet's choice: segmentation trains with few images a GPU), or BN, SyncBN (BEiT's) or GN. ``block``: plain, or
    FDAMBlock.

    Keys: the transformer's (``patch_embed``, ``pos_embed``, ``blocks.<i>``), ``neck.res2``, ``neck.res3``. Raises
    ValueError for other ``out_indices`` or another ``neck_norm``, and where the transformer does.
    """

    def __init__(self, *, img_size: int, in_chans: int, embed_dim: int, depth: int, num_heads: int, init_values: float,
                 drop_path_rate: float, out_indices: Sequence[int], neck_norm: str, activation_checkpointing: bool,
                 block: Callable[..., nn.Module] = TransformerBlock):
        check_choice(NECK_NORMS, neck_norm=neck_norm)
        if list(out_indices) != sorted(set(out_indices)) or len(out_indices) != 4 or out_indices[-1] != depth - 1:
            raise ArgumentError("out_indices", "must name four blocks in ascending order, the last of them "
                                f"{depth - 1} (depth {depth}), got {tuple(out_indices)}")
        super().__init__(
            img_size=img_size, patch_size=PATCH_SIZE, in_chans=in_chans, embed_dim=embed_dim, depth=depth,
            num_heads=num_heads, init_values=init_values, drop_path_rate=drop_path_rate, out_indices=out_indices,
            activation_checkpointing=activation_checkpointing, block=block)
        self.embed_dim = embed_dim
        self.neck = resizing_neck(embed_dim, neck_norm)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        maps = super().forward(image)
        return {name: resize(feature_map) for (name, resize), feature_map in zip(self.neck.items(), maps)}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {name: ShapeSpec(channels=self.embed_dim, stride=stride) for name, stride in STAGE_STRIDES.items()}

    @property
    def size_divisibility(self) -> int:
        """Side lengths of which no level is rounded up."""
        return STAGE_STRIDES["res5"]

    def layer_parts(self) -> list[list[str]]:
        """See FreezableBackbone: what comes before the blocks, then each block."""
        return [["patch_embed", "pos_embed"], *([f"blocks.{index}"] for index in range(len(self.blocks)))]

    def stage_parts(self) -> list[list[str]]:
        """See FreezableBackbone; a stage is the blocks down to the one that its map comes from, but for what FDAM adds
        to them. The neck learns."""
        ends = (0, *(index + 1 for index in self.out_indices))
        return [["patch_embed", "pos_embed"],
                *([f"blocks.{i}.{part}" for i in range(*stage) for part in BLOCK_PARTS] for stage in pairwise(ends))]


def resizing_neck(channels: int, norm: str) -> nn.ModuleDict:
    """res2 .. res5 -> what makes its map of one of stride 16, all (B, ``channels``, ., .).

    Two transposed convolutions with a normalisation (Detectron2's name ``norm``) and GELU between them, one, nothing,
    maxima of 2 × 2.
    """
    return nn.ModuleDict({
        "res2": nn.Sequential(doubled(channels), get_norm(norm, channels), nn.GELU(), doubled(channels)),
        "res3": doubled(channels),
        "res4": nn.Identity(),
        "res5": nn.MaxPool2d(kernel_size=2, ceil_mode=True),
    })


def doubled(channels: int) -> nn.ConvTranspose2d:
    """A map of twice the height and width, each pixel made into four."""
    return nn.ConvTranspose2d(channels, channels, kernel_size=2, stride=2)


def add_fdlinear(transformer: VisionTransformer, *, kernel_num: int) -> None:
    """Replace the linear layers of attention and MLP of all blocks by FDLinear, in place; the function stays.

    FDAM's gates and routing stay plain. Raises ValueError for a ``kernel_num`` that does not fit.
    """
    for block in transformer.blocks:
        to_fdlinear(block.attn, "qkv", "proj", kernel_num=kernel_num)
        to_fdlinear(block.mlp, "fc1", "fc2", kernel_num=kernel_num)

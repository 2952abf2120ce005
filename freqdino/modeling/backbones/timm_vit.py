"""timm's plain vision transformers as backbones of four levels, and FDLinear in their blocks.

Sources: ViTDet (arXiv 2203.16527), section 3, whose simple feature pyramid is made of the last map alone; FlexiViT
(arXiv 2212.08013), whose resampling of patch embeddings timm has. FDAM comes by `freqdino.frequency.convert_to_fdam`.

B: batch, C: channels, H × W: image, P: patch of the weights, h × w: grid of patches, N = h · w: tokens of patches.
"""
import logging
import math
from collections.abc import Sequence

import torch
from timm.layers import PatchEmbed, RotaryEmbeddingDinoV3, resample_abs_pos_embed, resample_patch_embed
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from freqdino.modeling.backbones.timm_network import LEVEL_STRIDES, TimmNetwork
from freqdino.modeling.backbones.token_block import to_fdlinear
from freqdino.modeling.backbones.vit import PATCH_SIZE, resizing_neck
from freqdino.ops.modules import PutBefore, put_before

NECK_NORM = "LN"
logger = logging.getLogger(__name__)


class TimmViTBackbone(TimmNetwork):
    """Images (B, in_chans, H, W) -> res2 .. res5, each C channels, at strides 4, 8, 16 and 32 (rounded up).

    name: timm's. network: VisionTransformer or Eva of timm, made with dynamic_img_size. The four maps are the last one,
    as timm's ``forward_features`` gives it, without class and register tokens, resized by ViTBackbone's neck. Position
    embeddings are resized to the grid of the image, rotary positions are those of the grid. Images are padded with
    zeros to whole patches.

    Patches of another size become 16 × 16 by timm's ``resample_patch_embed``, with the grid of positions as it was; so
    do those of weights that are loaded, and a position embedding of another square grid is resized. The log says it.
    Keys: timm's, ``neck.res2``, ``neck.res3``. Raises ValueError for a network whose patches are not one convolution's.
    """

    image_multiple = PATCH_SIZE

    def __init__(self, name: str, network: VisionTransformer | Eva, *, image_channels: int):
        keys = network.state_dict().keys()
        if not isinstance(network.patch_embed, PatchEmbed):
            raise ValueError(f"timm's {name} makes its patches by {type(network.patch_embed).__name__}; a plain vision "
                             "transformer makes them by one convolution, such as vit_small_patch16_dinov3")
        # Without a norm of its own for the pooled map, what is left is timm's forward_features.
        network.prune_intermediate_layers(1, prune_norm=False, prune_head=True)
        use_patches_of_16(name, network)
        if isinstance(getattr(network, "rope", None), RotaryEmbeddingDinoV3):
            put_before(RotaryOfOpenSize, network.rope)
        channels = network.embed_dim
        super().__init__(network, image_channels=image_channels, level_channels=[channels] * len(LEVEL_STRIDES),
                         classifier_keys=sorted(keys - network.state_dict().keys()))
        self.neck = resizing_neck(channels, NECK_NORM)

    def pyramid(self, image: Tensor) -> list[Tensor]:
        tokens, = self.network.forward_intermediates(image, indices=1, norm=True, output_fmt="NLC",
                                                     intermediates_only=True)
        # By division without a rest, which the images have: timm's rounded quotients are unknown sizes to torch.export.
        last_map = tokens.mT.unflatten(2, tuple(size // self.image_multiple for size in image.shape[2:])).contiguous()
        return [resize(last_map) for resize in self.neck.values()]

    def layer_parts(self) -> list[list[str]]:
        """See FreezableBackbone: what comes before the blocks, then each block."""
        inside = {"blocks", "norm"}
        embedding = [name for name, _ in (*self.network.named_children(),
                                          *self.network.named_parameters(recurse=False)) if name not in inside]
        blocks = [f"blocks.{index}" for index in range(len(self.network.blocks))]
        return [[f"network.{part}" for part in layer] for layer in (embedding, *([block] for block in blocks))]

    def stage_parts(self) -> list[list[str]]:
        """See FreezableBackbone; a stage is a quarter of the blocks, the last one with the norm of the map. The neck
        learns."""
        embedding, *blocks = self.layer_parts()
        ends = [round(len(blocks) * stage / 4) for stage in range(5)]
        stages = [sum(blocks[low:high], []) for low, high in zip(ends, ends[1:])]
        return [embedding, *stages[:-1], [*stages[-1], "network.norm"]]

    def adapt_loaded(self, state_dict: dict[str, Tensor], prefix: str) -> None:
        """See TimmNetwork: patches and position embeddings of another size. Raises ValueError for positions that are no
        square grid."""
        network = self.network
        key, patch = f"{prefix}patch_embed.proj.weight", tuple(network.patch_embed.patch_size)
        weight = state_dict.get(key)
        if weight is not None and weight.dim() == 4 and weight.shape[2:] != patch:
            logger.info("The weights' patches of %d × %d pixels are resampled to %d × %d by timm's "
                        "resample_patch_embed", *weight.shape[2:], *patch)
            state_dict[key] = resample_patch_embed(weight, list(patch))
        key, own = f"{prefix}pos_embed", network.pos_embed
        positions = state_dict.get(key)
        if own is not None and positions is not None and positions.shape[1] != own.shape[1]:
            prefix_tokens = 0 if network.no_embed_class else network.num_prefix_tokens
            patches = positions.shape[1] - prefix_tokens
            side = math.isqrt(max(patches, 0))
            if side < 1 or side ** 2 != patches:
                raise ValueError(f"{key}: {positions.shape[1]} positions are no square grid"
                                 + (f" and {prefix_tokens} of class and register tokens" if prefix_tokens else ""))
            state_dict[key] = resample_abs_pos_embed(positions, new_size=list(network.patch_embed.grid_size),
                                                     old_size=[side, side], num_prefix_tokens=prefix_tokens)


class RotaryOfOpenSize(PutBefore):
    """Put before timm's rotary positions of DINOv3, which are counted from 0.5 and made on the host: torch.export would
    tie them to one size, and a GPU waits for them."""

    def get_embed(self, shape: Sequence[int] | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """See timm's: the sines and cosines of a grid (h, w), (h · w, 2 · width)."""
        augmented = self.training and self.aug_active
        if shape is None or augmented or (self.grid_indexing, self.normalize_coords) != ("ij", "separate"):
            return super().get_embed(shape, **({} if dtype is None else {"dtype": dtype}))
        axes = [(torch.arange(side, dtype=torch.float32, device=self.periods.device) + (0.5 + self.grid_offset)) / side
                for side in shape]
        places = 2 * torch.stack(torch.meshgrid(axes, indexing="ij"), dim=-1).flatten(0, 1) - 1
        embedding = torch.cat(self._get_pos_embed_from_coords(places), dim=-1)
        return embedding if dtype is None else embedding.to(dtype)


def is_plain_transformer(network: nn.Module) -> bool:
    """Whether a network is of timm's classes of plain vision transformers: DeiT, AugReg, DINOv2; EVA-02, DINOv3."""
    return isinstance(network, (VisionTransformer, Eva))


def use_patches_of_16(name: str, network: VisionTransformer | Eva) -> None:
    """Resample the patch embedding to 16 × 16 pixels, in place; the grid of positions stays."""
    patch, grid = tuple(network.patch_embed.patch_size), tuple(network.patch_embed.grid_size)
    if patch != (PATCH_SIZE, PATCH_SIZE):
        logger.info("timm's %s has patches of %d × %d pixels: they are resampled to %d × %d, for strides of 4 to 32, "
                    "by timm's resample_patch_embed, and so are weights when they are loaded. Its grid of %d × %d "
                    "positions stays", name, *patch, PATCH_SIZE, PATCH_SIZE, *grid)
        network.set_input_size(img_size=tuple(PATCH_SIZE * side for side in grid), patch_size=(PATCH_SIZE, PATCH_SIZE))


def add_fdlinear(backbone: TimmViTBackbone, *, kernel_num: int) -> None:
    """Replace the linear layers of attention and MLP of all blocks by FDLinear, in place; the function stays.

    Raises ValueError for a ``kernel_num`` that does not fit.
    """
    for index, block in enumerate(backbone.network.blocks):
        for part in block.modules():
            if hasattr(part, "qkv_bias_separate"):
                part.qkv_bias_separate = True       # else Eva takes the projection's weight, which FDLinear has not
        layers = [name for name, part in block.named_modules() if type(part) is nn.Linear]
        to_fdlinear(backbone.network, *(f"blocks.{index}.{name}" for name in layers), kernel_num=kernel_num)

"""Networks of timm as backbones of four levels, and frequency modules in them.

Sources: timm's models with ``feature_info`` and ``forward_intermediates``; FDConv (CVPR 2025, arXiv 2503.18783); FDAM
(ICCV 2025, arXiv 2507.12006), of which networks without self-attention take frequency scaling (FreqScale) alone.
Plain vision transformers are `timm_vit`'s. Importing this file takes seconds: it imports timm.
"""
from collections.abc import Mapping, Sequence
from itertools import pairwise

from timm.models.convnext import ConvNeXtBlock
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from freqdino.errors import ArgumentError, errors_in
from freqdino.frequency import convert_to_fdam, convert_to_fdconv
from freqdino.frequency.fdam.frequency_scale import add_to_branch
from freqdino.modeling.backbones.timm_network import (
    LEVEL_STRIDES,
    TimmNetwork,
    check_maps,
    create_network,
    part_names,
)
from freqdino.modeling.backbones.timm_vit import TimmViTBackbone, add_fdlinear, is_plain_transformer
from freqdino.modeling.backbones.token_block import to_fdlinear

# Parts whose convolutions stay plain, by timm's names: stems (at the top) and shortcuts, as in FDConv's recipe, and
# squeeze-and-excitation, which sees means.
STEMS = {"stem", "conv_stem", "conv1"}
PLAIN_PARTS = {"downsample", "shortcut", "se"}
OTHER_TRANSFORMERS = ("transformers with places for it are the backbones D2SwinTransformer, build_mit_backbone, "
                      "build_vit_backbone and timm's plain vision transformers")


class TimmBackbone(TimmNetwork):
    """A network with maps of all four strides. levels: index -> what timm knows of it, for each of the four; the rest
    as TimmNetwork."""

    def __init__(self, network: nn.Module, *, image_channels: int, levels: Mapping[int, Mapping],
                 classifier_keys: Sequence[str]):
        super().__init__(network, image_channels=image_channels, classifier_keys=classifier_keys,
                         level_channels=[level["num_chs"] for level in levels.values()])
        self.level_indices = list(levels)
        self.level_modules = [level.get("module") for level in levels.values()]

    def pyramid(self, image: Tensor) -> list[Tensor]:
        return self.network.forward_intermediates(image, indices=self.level_indices, intermediates_only=True)

    def stage_parts(self) -> list[list[str]]:
        """See FreezableBackbone: a stage ends with the module that its map comes from, the stem before the first one;
        what a network of timm registers in between belongs to the stage that comes next.

        Raises ValueError for a network of which timm does not say which modules these are, in their order.
        """
        parts = list(part_names(self.network))
        ends = [max((i + 1 for i, part in enumerate(parts) if f"{part}.".startswith(f"{end}.")), default=0)
                for end in self.level_modules]
        start = next((i for i, part in enumerate(parts) if f"{part}.".startswith(f"{self.level_modules[0]}.")), 0)
        bounds = [0, start, *ends]
        if not 0 < start or bounds != sorted(set(bounds)):
            raise ValueError(f"timm does not say where the stages of {type(self.network).__name__} end: modules "
                             f"{self.level_modules}")
        return [[f"network.{part}" for part in parts[low:high]] for low, high in pairwise(bounds)]


def timm_backbone(name: str, *, in_chans: int, drop_path_rate: float, activation_checkpointing: bool) -> TimmNetwork:
    """timm's network ``name`` with random weights, without its classifier; keys as in timm.

    drop_path_rate: 0 leaves it as timm has it for this network.
    Raises ValueError for a name that timm does not have (with the nearest), for a network that is no plain vision
    transformer and has no maps of strides 4, 8, 16 and 32, for one that is bound to one size of image, and for an
    option that the network does not have.
    """
    network = create_network(name, in_chans=in_chans, drop_path_rate=drop_path_rate)
    if is_plain_transformer(network):
        backbone: TimmNetwork = TimmViTBackbone(name, network, image_channels=in_chans)
    else:
        levels, keys = choose_levels(name, network), network.state_dict().keys()
        network.prune_intermediate_layers(list(levels), prune_norm=True, prune_head=True)
        backbone = TimmBackbone(network, image_channels=in_chans, levels=levels,
                                classifier_keys=sorted(keys - network.state_dict().keys()))
    if activation_checkpointing:
        try:
            network.set_grad_checkpointing(True)
        except (AssertionError, AttributeError) as error:
            raise ArgumentError("activation_checkpointing",
                                f"is True, but timm's {name} has no activation checkpointing") from error
    try:
        check_maps(backbone)
    except ValueError as error:
        raise ValueError(f"timm's {name} is no backbone for images of any size: {error}; take one that is, such as "
                         "convnext_tiny or resnet50") from error
    return backbone


def choose_levels(name: str, network: nn.Module) -> dict[int, dict]:
    """Index -> what timm knows of it (num_chs, module) for the last map of each stride."""
    # feature_info is a list in most networks and a FeatureInfo of one in others.
    info = getattr(network, "feature_info", [])
    info = getattr(info, "info", info)
    last = {level["reduction"]: index for index, level in enumerate(info)}
    if not set(LEVEL_STRIDES.values()) <= last.keys() or not hasattr(network, "forward_intermediates"):
        raise ValueError(f"timm's {name} gives no feature pyramid: a backbone needs maps of strides "
                         f"{', '.join(map(str, LEVEL_STRIDES.values()))}, this network has "
                         f"{', '.join(map(str, last)) or 'none'}. Take one that has them, such as convnext_tiny or "
                         "resnet50, or a plain vision transformer of timm's VisionTransformer or Eva, such as "
                         "vit_small_patch16_dinov3")
    return {last[stride]: info[last[stride]] for stride in LEVEL_STRIDES.values()}


def add_fdconv(backbone: TimmNetwork, *, kernel_num: int) -> None:
    """Replace convolutions by FDConv, a transformer's linear layers by FDLinear, in place; what is computed stays.

    Of convolutional networks those that FDConv serves, of kernels 1 and 3 with more than 16 channels on both sides,
    outside of STEMS and PLAIN_PARTS. Of ConvNeXt these are the two 1 × 1 convolutions of each block, which timm writes
    as linear layers in most variants: they become FDLinear there; depth-wise 7 × 7, and patches of 4 × 4 and 2 × 2,
    stay plain. So do other networks' linear layers. Of plain transformers those of attention and MLP. Raises ValueError
    for a ``kernel_num`` that does not fit, and where nothing is replaced.
    """
    if isinstance(backbone, TimmViTBackbone):
        add_fdlinear(backbone, kernel_num=kernel_num)
    else:
        add_fdconv_to_branches(backbone.network, kernel_num=kernel_num)
    try:
        check_maps(backbone)
    except ValueError as error:
        raise ValueError(f"it needs more of its layers than their results: {error}") from error


def add_fdconv_to_branches(network: nn.Module, *, kernel_num: int) -> None:
    replaced = convert_to_fdconv(network, kernel_num, lambda name, conv: not stays_plain(name))
    for name, block in list(network.named_modules()):
        if isinstance(block, ConvNeXtBlock) and not block.use_conv_mlp:
            layers = [f"{name}.mlp.fc1", f"{name}.mlp.fc2"]
            to_fdlinear(network, *layers, kernel_num=kernel_num)
            replaced += layers
    if not replaced:
        raise ValueError("it has no convolution that FDConv serves: 1 × 1 or 3 × 3, with more than 16 channels; "
                         f"{OTHER_TRANSFORMERS}")


def stays_plain(name: str) -> bool:
    """Whether a convolution of this dotted name is none that FDConv's recipe replaces."""
    parts = name.split(".")
    return parts[0] in STEMS or not PLAIN_PARTS.isdisjoint(parts)


def add_fdam(backbone: TimmNetwork) -> None:
    """Put FDAM into a plain vision transformer, frequency scaling into a ResNet or a ConvNeXt, in place: the network
    computes what it did up to the start of what is new, 1e-5.

    Raises ValueError for another network and for channels that are no multiple of 16.
    """
    if isinstance(backbone, TimmViTBackbone):
        convert_to_fdam(backbone.network)
    else:
        add_frequency_scale(backbone)


def add_frequency_scale(backbone: TimmBackbone) -> None:
    """Put x + S(x) at the end of the residual branches of a ResNet or a ConvNeXt, in place: ``<block>.freq_scale.*``.

    It is computed before stochastic depth, which is where a branch ends in all these blocks.
    Raises ValueError for another network, which may have attention that FDAM would have to invert, and for channels
    that are no multiple of 16.
    """
    blocks = [(name, block) for name, block in backbone.network.named_modules() if branch_channels(block)]
    if not blocks:
        raise ValueError("frequency scaling has a place in ResNets and ConvNeXts; this network has blocks of neither; "
                         f"{OTHER_TRANSFORMERS}")
    for name, block in blocks:
        if block.drop_path is None:
            block.drop_path = nn.Identity()
        with errors_in(name):
            add_to_branch(block, branch_channels(block), "drop_path", after=False)


def branch_channels(block: nn.Module) -> int:
    """Channels that a residual block adds to its input; 0 for any other module."""
    if isinstance(block, ConvNeXtBlock):
        return block.conv_dw.out_channels
    if isinstance(block, Bottleneck):
        return block.conv3.out_channels
    return block.conv2.out_channels if isinstance(block, BasicBlock) else 0

"""Networks of timm as backbones of four levels, and frequency modules in them.

Sources: timm's models with ``feature_info`` and ``forward_intermediates``; FDConv (CVPR 2025, arXiv 2503.18783); FDAM
(ICCV 2025, arXiv 2507.12006), of which networks without self-attention take frequency scaling (FreqScale) alone.
B: batch, C: channels, (H, W): size of the image. Importing this file takes seconds: it imports timm.
"""
import difflib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import timm
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from timm.models.convnext import ConvNeXtBlock
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from freqdino.errors import ArgumentError, errors_in
from freqdino.frequency import convert_to_fdconv
from freqdino.frequency.fdam.frequency_scale import add_to_branch
from freqdino.modeling.backbones.freezing import FreezableBackbone
from freqdino.modeling.backbones.token_block import to_fdlinear

LEVEL_STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
# The side lengths of a trial image: two whole multiples of the coarsest stride that differ.
TRIAL_SIZE = (64, 96)
# What timm's networks raise on an image that they do not take.
REFUSALS = (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError)
# Parts whose convolutions stay plain, by timm's names: stems (at the top) and shortcuts, as in FDConv's recipe, and
# squeeze-and-excitation, which sees means.
STEMS = {"stem", "conv_stem", "conv1"}
PLAIN_PARTS = {"downsample", "shortcut", "se"}
OTHER_TRANSFORMERS = ("transformers with places for it are the backbones D2SwinTransformer, "
                      "build_mit_backbone and build_vit_backbone")


class TimmBackbone(FreezableBackbone):
    """Images (B, in_chans, H, W) -> res2 .. res5 at strides 4, 8, 16 and 32 (rounded up).

    network: timm's. levels: index -> what timm knows of it, for each of the four. classifier_keys: what a checkpoint of
    timm has and ``network`` no longer. Images are padded with zeros at the right and bottom to whole multiples of 32,
    and the maps cut to ⌈H / stride⌉ × ⌈W / stride⌉. The state dict's names are timm's, without ``network.``.
    """

    state_without_name = "network"

    def __init__(self, network: nn.Module, *, image_channels: int, levels: Mapping[int, Mapping],
                 classifier_keys: Sequence[str]):
        super().__init__()
        self.network = network
        self.image_channels = image_channels
        self.level_indices = list(levels)
        self.level_channels = [level["num_chs"] for level in levels.values()]
        self.level_modules = [level.get("module") for level in levels.values()]
        self.classifier_keys = classifier_keys
        self.register_load_state_dict_pre_hook(name_the_network)

    def state_dict(self, *args, **options):
        """The network's."""
        return self.network.state_dict(*args, **options)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        height, width = image.shape[-2:]
        padded = F.pad(image, (0, -width % self.size_divisibility, 0, -height % self.size_divisibility))
        maps = self.network.forward_intermediates(padded, indices=self.level_indices, intermediates_only=True)
        return {name: feature_map[..., :-(-height // stride), :-(-width // stride)].contiguous()
                for (name, stride), feature_map in zip(LEVEL_STRIDES.items(), maps)}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {name: ShapeSpec(channels=channels, stride=stride)
                for (name, stride), channels in zip(LEVEL_STRIDES.items(), self.level_channels)}

    @property
    def size_divisibility(self) -> int:
        return LEVEL_STRIDES["res5"]

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

    def adapt_plain_state(self, state_dict: dict[str, Tensor], prefix: str) -> list[str]:
        """See `freqdino.frequency.plain_state`: what the network of timm has for its classes is left out, and said."""
        left_out = [key for key in self.classifier_keys if state_dict.pop(prefix + key, None) is not None]
        if left_out:
            logging.getLogger(__name__).info("Left out, as it should be: %s", ", ".join(left_out))
        return []


def part_names(network: nn.Module) -> Iterator[str]:
    """Names of the modules without submodules and of the parameters that other modules have themselves, in the order
    in which the network has registered them."""
    for name, module in network.named_modules():
        for parameter, _ in module.named_parameters(recurse=False):
            yield f"{name}.{parameter}".lstrip(".")
        if not any(True for _ in module.children()):
            yield name


def name_the_network(backbone: TimmBackbone, state_dict: dict[str, Tensor], prefix: str, *_) -> None:
    """A hook before loading: what the state dict has by timm's names is the network's."""
    for key in [key for key in state_dict if key.startswith(prefix)]:
        state_dict[f"{prefix}network.{key[len(prefix):]}"] = state_dict.pop(key)


def timm_backbone(name: str, *, in_chans: int, drop_path_rate: float, activation_checkpointing: bool) -> TimmBackbone:
    """timm's network ``name`` with random weights, without its classifier; keys as in timm.

    drop_path_rate: 0 leaves it as timm has it for this network.
    Raises ValueError for a name that timm does not have (with the nearest), for a network without maps of strides 4, 8,
    16 and 32, for one that is bound to one size of image, and for an option that the network does not have.
    """
    network = create_network(name, in_chans=in_chans, drop_path_rate=drop_path_rate)
    levels = choose_levels(name, network)
    keys = network.state_dict().keys()
    network.prune_intermediate_layers(list(levels), prune_norm=True, prune_head=True)
    if activation_checkpointing:
        try:
            network.set_grad_checkpointing(True)
        except (AssertionError, AttributeError) as error:
            raise ArgumentError("activation_checkpointing",
                                f"is True, but timm's {name} has no activation checkpointing") from error
    backbone = TimmBackbone(network, image_channels=in_chans, levels=levels,
                            classifier_keys=sorted(keys - network.state_dict().keys()))
    try:
        check_maps(backbone)
    except ValueError as error:
        raise ValueError(f"timm's {name} is no backbone for images of any size: {error}; take one that is, such as "
                         "convnext_tiny or resnet50") from error
    return backbone


def create_network(name: str, *, in_chans: int, drop_path_rate: float) -> nn.Module:
    if not timm.is_model(name):
        names = nearest_names(name)
        hint = f"the nearest are {', '.join(names)}" if names else "timm.list_models() lists its networks"
        raise ArgumentError("name", f"is unknown: timm {timm.__version__} has no network {name!r}; {hint}")
    options = {"in_chans": in_chans, **({"drop_path_rate": drop_path_rate} if drop_path_rate else {})}
    try:
        try:
            return timm.create_model(name, strict_img_size=False, **options)    # Swin would be bound to one size
        except TypeError:                                                       # the others do not have the option
            return timm.create_model(name, **options)
    except REFUSALS as error:
        raise ValueError(f"timm's {name} cannot be built with in_chans {in_chans} and drop_path_rate {drop_path_rate}: "
                         f"{error}") from error


def nearest_names(name: str) -> list[str]:
    """Up to three of timm's names, the nearest first: those that begin with ``name``, that look like it, that have it
    inside. Prefixes of hubs and folders and the tag of weights, as in timm/resnet18.a1_in1k, do not count."""
    known = timm.list_models()
    name = re.split(r"[/:]", name)[-1].partition(".")[0].lower()
    if not name:
        return []
    near = [*sorted((n for n in known if n.startswith(name)), key=len)[:2],
            *difflib.get_close_matches(name, known, n=3, cutoff=0.6), *(n for n in known if name in n)]
    return list(dict.fromkeys(near))[:3] or difflib.get_close_matches(name, known, n=3, cutoff=0.3)


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
                         "resnet50; for a plain vision transformer there is the backbone build_vit_backbone")
    return {last[stride]: info[last[stride]] for stride in LEVEL_STRIDES.values()}


@torch.no_grad()
def check_maps(backbone: TimmBackbone) -> None:
    """Raise ValueError unless a trial image gives the announced maps."""
    training = backbone.training
    try:
        maps = backbone.eval()(torch.zeros(1, backbone.image_channels, *TRIAL_SIZE))
    except REFUSALS as error:
        raise ValueError(f"an image of {TRIAL_SIZE[0]} × {TRIAL_SIZE[1]} pixels fails with: {error}") from error
    finally:
        backbone.train(training)
    for level, shape in backbone.output_shape().items():
        expected = (1, shape.channels, *(size // shape.stride for size in TRIAL_SIZE))
        if maps[level].shape != expected:
            raise ValueError(f"an image of {TRIAL_SIZE[0]} × {TRIAL_SIZE[1]} pixels gives {level} as "
                             f"{tuple(maps[level].shape)}, not {expected}")


def add_fdconv(backbone: TimmBackbone, *, kernel_num: int) -> None:
    """Replace convolutions by FDConv, in place; the network's function stays.

    Which: those that FDConv serves, of kernels 1 and 3 with more than 16 channels on both sides, outside of STEMS and
    PLAIN_PARTS. Of ConvNeXt these are the two 1 × 1 convolutions of each block, which timm writes as linear layers in
    most variants: they become FDLinear there; depth-wise 7 × 7, and patches of 4 × 4 and 2 × 2, stay plain. So do other
    networks' linear layers. Raises ValueError for a ``kernel_num`` that does not fit, and where nothing is replaced.
    """
    network = backbone.network
    replaced = convert_to_fdconv(network, kernel_num, lambda name, conv: not stays_plain(name))
    for name, block in list(network.named_modules()):
        if isinstance(block, ConvNeXtBlock) and not block.use_conv_mlp:
            layers = [f"{name}.mlp.fc1", f"{name}.mlp.fc2"]
            to_fdlinear(network, *layers, kernel_num=kernel_num)
            replaced += layers
    if not replaced:
        raise ValueError("it has no convolution that FDConv serves: 1 × 1 or 3 × 3, with more than 16 channels; "
                         f"{OTHER_TRANSFORMERS}")
    try:
        check_maps(backbone)
    except ValueError as error:
        raise ValueError(f"it needs more of its convolutions than their results: {error}") from error


def stays_plain(name: str) -> bool:
    """Whether a convolution of this dotted name is none that FDConv's recipe replaces."""
    parts = name.split(".")
    return parts[0] in STEMS or not PLAIN_PARTS.isdisjoint(parts)


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

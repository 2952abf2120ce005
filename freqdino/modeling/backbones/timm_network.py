"""A network of timm by its name, and what every backbone made of one has: timm's keys, padding, maps that were tried.

B: batch, (H, W): size of the image. Importing this file takes seconds: it imports timm.
"""
import difflib
import logging
import re
from collections.abc import Iterator, Sequence

import timm
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from freqdino.errors import ArgumentError
from freqdino.modeling.backbones.freezing import FreezableBackbone

LEVEL_STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
# The side lengths of a trial image: two whole multiples of the coarsest stride that differ.
TRIAL_SIZE = (64, 96)
# What timm's networks raise on an image that they do not take.
REFUSALS = (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError)
# What lets networks take images of any size: Swin; plain vision transformers, whose checks of an image that they do not
# pad would have torch.compile take each size by itself; others, which have no such option.
SIZE_OPTIONS = ({"strict_img_size": False}, {"dynamic_img_size": True, "dynamic_img_pad": True}, {})
logger = logging.getLogger(__name__)


class TimmNetwork(FreezableBackbone):
    """Base of the backbones: images (B, in_chans, H, W) -> res2 .. res5 at strides 4, 8, 16 and 32 (rounded up).

    network: timm's. level_channels: of the four maps. classifier_keys: what a checkpoint of timm has and ``network`` no
    longer. A subclass has ``pyramid(image)``, the four maps of an image of whole multiples of ``image_multiple``, to
    which images are padded with zeros at the right and bottom; the maps are cut to ⌈H / stride⌉ × ⌈W / stride⌉. The
    state dict's names are timm's, without ``network.``; other parts of the backbone have their own.
    """

    state_without_name = "network"
    image_multiple = LEVEL_STRIDES["res5"]

    def __init__(self, network: nn.Module, *, image_channels: int, level_channels: Sequence[int],
                 classifier_keys: Sequence[str]):
        super().__init__()
        self.network = network
        self.image_channels = image_channels
        self.level_channels = list(level_channels)
        self.classifier_keys = classifier_keys
        self.register_load_state_dict_pre_hook(name_the_network)

    def pyramid(self, image: Tensor) -> Sequence[Tensor]:
        raise NotImplementedError

    def state_dict(self, *, destination: dict | None = None, prefix: str = "", keep_vars: bool = False) -> dict:
        """The network's, then that of the other parts."""
        state = self.network.state_dict(destination=destination, prefix=prefix, keep_vars=keep_vars)
        for name, part in self.named_children():
            if part is not self.network:
                part.state_dict(destination=state, prefix=f"{prefix}{name}.", keep_vars=keep_vars)
        return state

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        height, width = image.shape[-2:]
        # Without a remainder, which torch.compile cannot carry into what DINOv3 computes of the sizes.
        bottom, right = (-(-size // self.image_multiple) * self.image_multiple - size for size in (height, width))
        padded = F.pad(image, (0, right, 0, bottom))
        return {name: feature_map[..., :-(-height // stride), :-(-width // stride)].contiguous()
                for (name, stride), feature_map in zip(LEVEL_STRIDES.items(), self.pyramid(padded))}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {name: ShapeSpec(channels=channels, stride=stride)
                for (name, stride), channels in zip(LEVEL_STRIDES.items(), self.level_channels)}

    @property
    def size_divisibility(self) -> int:
        return LEVEL_STRIDES["res5"]

    def adapt_loaded(self, state_dict: dict[str, Tensor], prefix: str) -> None:
        """Give what is to be loaded, by timm's names after ``prefix``, the shapes of the network, in place."""

    def adapt_plain_state(self, state_dict: dict[str, Tensor], prefix: str) -> list[str]:
        """See `freqdino.frequency.plain_state`: what the network of timm has for its classes is left out, and said."""
        self.adapt_loaded(state_dict, prefix)
        left_out = [key for key in self.classifier_keys if state_dict.pop(prefix + key, None) is not None]
        if left_out:
            logger.info("Left out, as it should be: %s", ", ".join(left_out))
        return []


def name_the_network(backbone: TimmNetwork, state_dict: dict[str, Tensor], prefix: str, *_) -> None:
    """A hook before loading: what the state dict has by timm's names is the network's."""
    backbone.adapt_loaded(state_dict, prefix)
    others = tuple(f"{prefix}{name}." for name, part in backbone.named_children() if part is not backbone.network)
    for key in [key for key in state_dict if key.startswith(prefix) and not key.startswith(others)]:
        state_dict[f"{prefix}network.{key[len(prefix):]}"] = state_dict.pop(key)


def part_names(network: nn.Module) -> Iterator[str]:
    """Names of the modules without submodules and of the parameters that other modules have themselves, in the order
    in which the network has registered them."""
    for name, module in network.named_modules():
        for parameter, _ in module.named_parameters(recurse=False):
            yield f"{name}.{parameter}".lstrip(".")
        if not any(True for _ in module.children()):
            yield name


def create_network(name: str, *, in_chans: int, drop_path_rate: float) -> nn.Module:
    """timm's network for images of any size, where it has one. Raises ValueError for an unknown name, with the nearest,
    and for an option that the network does not have."""
    if not timm.is_model(name):
        names = nearest_names(name)
        hint = f"the nearest are {', '.join(names)}" if names else "timm.list_models() lists its networks"
        raise ArgumentError("name", f"is unknown: timm {timm.__version__} has no network {name!r}; {hint}")
    options = {"in_chans": in_chans, **({"drop_path_rate": drop_path_rate} if drop_path_rate else {})}
    *tries, plain = SIZE_OPTIONS
    try:
        for size_options in tries:
            try:
                return timm.create_model(name, **size_options, **options)
            except TypeError:               # an unknown argument
                continue
        return timm.create_model(name, **plain, **options)
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


@torch.no_grad()
def check_maps(backbone: TimmNetwork) -> None:
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

"""torchvision's names of a ResNet's weights, which timm and OpenMMLab share, as Detectron2's ResNet has them.

Detectron2 counts the stages from the stem, torchvision from the first residual block, and has normalisations inside
their convolutions: ``layer1.0.bn2.weight`` is ``res2.0.conv2.norm.weight``. What FDConv has in a convolution stays.
"""
import re
from collections.abc import Iterable, Mapping

from torch import Tensor

_BLOCK = r"layer(?P<stage>[1-4])\.(?P<block>\d+)\."
# Pattern of a whole name -> what follows the block's name, or the stem's whole name.
_IN_STEM = {r"conv1\.(?P<rest>weight)": r"stem.conv1.\g<rest>", r"bn1\.(?P<rest>\w+)": r"stem.conv1.norm.\g<rest>"}
_IN_BLOCK = {
    rf"{_BLOCK}downsample\.0\.(?P<rest>\w+)": r"shortcut.\g<rest>",
    rf"{_BLOCK}downsample\.1\.(?P<rest>\w+)": r"shortcut.norm.\g<rest>",
    rf"{_BLOCK}conv(?P<conv>[123])\.(?P<rest>.+)": r"conv\g<conv>.\g<rest>",
    rf"{_BLOCK}bn(?P<conv>[123])\.(?P<rest>\w+)": r"conv\g<conv>.norm.\g<rest>",
}


def detectron2_resnet_name(name: str) -> str | None:
    """The name that an entry of torchvision's ResNet has in Detectron2's; None for others, such as the classifier's.

    >>> detectron2_resnet_name("layer3.5.downsample.1.weight")
    'res4.5.shortcut.norm.weight'
    """
    for pattern, template in _IN_STEM.items():
        if match := re.fullmatch(pattern, name):
            return match.expand(template)
    for pattern, template in _IN_BLOCK.items():
        if match := re.fullmatch(pattern, name):
            return f"res{int(match['stage']) + 1}.{match['block']}.{match.expand(template)}"
    return None


def is_torchvision_resnet(names: Iterable[str], model_names: Iterable[str]) -> bool:
    """Whether a checkpoint's ``names`` are a ResNet's by torchvision's names and the model has Detectron2's."""
    begins_so = any(name.startswith("layer1.0.conv1.") for name in names)
    return begins_so and any(name.endswith(".stem.conv1.weight") for name in model_names)


def with_detectron2_resnet_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``tensors`` of torchvision's ResNet by Detectron2's names; what has none there keeps its own."""
    return {detectron2_resnet_name(name) or name: tensor for name, tensor in tensors.items()}

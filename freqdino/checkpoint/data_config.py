"""How weights want their images: what a hub or the file's publisher says of them, held against the configuration."""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode

from freqdino.errors import CheckpointError

TOLERANCE = 0.02                # of a value of 0 to 255: configurations round ImageNet's mean


@dataclass(frozen=True)
class DataConfig:
    """``mean`` and ``std`` of each channel, of values from 0 to 255; ``channels``: their order, RGB or BGR."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: str = "RGB"

    @classmethod
    def of(cls, cfg: CfgNode) -> "DataConfig":
        """What MODEL.PIXEL_MEAN, MODEL.PIXEL_STD and INPUT.FORMAT say."""
        return cls(tuple(cfg.MODEL.PIXEL_MEAN), tuple(cfg.MODEL.PIXEL_STD), cfg.INPUT.FORMAT)

    @classmethod
    def of_unit_range(cls, mean: Sequence[float], std: Sequence[float]) -> "DataConfig":
        """Of weights for RGB images whose values are from 0 to 1, as torchvision, timm and transformers give them."""
        return cls(tuple(255 * value for value in mean), tuple(255 * value for value in std))

    def options(self) -> dict[str, Any]:
        """Configuration key -> the value that the weights need."""
        return {"MODEL.PIXEL_MEAN": [round(value, 3) for value in self.mean],
                "MODEL.PIXEL_STD": [round(value, 3) for value in self.std], "INPUT.FORMAT": self.channels}

    def check(self, path: str, given: "DataConfig") -> None:
        """Raise CheckpointError, with the options to set, unless the weights ``path`` fit images ``given`` so."""
        wanted, found = self.options(), given.options()
        wrong = [key for key in wanted if not _equal(wanted[key], found[key])]
        if wrong:
            needs = ", ".join(f"{key} {wanted[key]} (here {found[key]})" for key in wrong)
            raise CheckpointError(f"{path}: the weights were trained on images that are given otherwise. Set "
                                  f"{needs}: " + " ".join(f"{key} {_shell(wanted[key])}" for key in wrong))


def _equal(a, b):
    if isinstance(a, str):
        return a == b
    return len(a) == len(b) and all(abs(x - y) <= TOLERANCE for x, y in zip(a, b))


def _shell(value):
    return value if isinstance(value, str) else f'"{value}"'


IMAGENET = DataConfig.of_unit_range((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# Caffe's: only the mean is taken off.
CAFFE = DataConfig((103.53, 116.28, 123.675), (1.0, 1.0, 1.0), "BGR")


def of_image_processor(settings: Mapping[str, Any]) -> DataConfig | None:
    """What preprocessor_config.json of transformers says; None where it says nothing of a mean."""
    if "image_mean" not in settings or "image_std" not in settings:
        return None
    scale = settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1.0
    return DataConfig(tuple(value / scale for value in settings["image_mean"]),
                      tuple(value / scale for value in settings["image_std"]))

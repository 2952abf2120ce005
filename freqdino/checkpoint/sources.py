"""Names of weights that stand for an address, and where the files come from that nobody has yet.

published.json: the published checkpoints of this project's models and their backbones by short names.
"""
import difflib
import json
import os
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils.file_io import Detectron2Handler

from freqdino.checkpoint.data_config import CAFFE, IMAGENET, DataConfig
from freqdino.errors import CheckpointError

_MICROSOFT = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0"
# Pattern of a file name -> where it comes from; {0} is the whole name, {1}, ... its groups.
SOURCES = {
    r"(swin_([tsbl])\w+)\.pkl": (
        f"It is made of Microsoft's {_MICROSOFT}/{{1}}.pth: set MODEL.WEIGHTS to that file, which loads as it is, or "
        "write this one by python tools/convert_weights.py {1}.pth {1}.pkl --config-file "
        "configs/ade20k/semantic/mask2former_swin_{2}.yaml; MODEL.WEIGHTS {1} fetches it"),
    r"(swin_\w+)\.pth": f"It is Microsoft's {_MICROSOFT}/{{1}}.pth; MODEL.WEIGHTS {{1}} fetches it",
    r"R-101\.pkl": (
        "It is made of torchvision's https://download.pytorch.org/models/resnet101-63fe2227.pth: set MODEL.WEIGHTS to "
        "that file, which loads as it is, or write this one by python tools/convert_weights.py resnet101-63fe2227.pth "
        "R-101.pkl --config-file configs/coco/instance/mask2former_r101.yaml; MODEL.WEIGHTS "
        "torchvision://ResNet101_Weights.IMAGENET1K_V1 fetches it"),
    r"(deit3?_\w+)\.pth": (
        "It is the state dict of timm's network of this name: torch.save(timm.create_model(\"{1}\", pretrained=True)"
        ".state_dict(), \"{1}.pth\"); MODEL.WEIGHTS timm://{1} fetches it"),
    r"(mit_b\d)\.pth": (
        "It is SegFormer's backbone trained on ImageNet-1k, {1}.pth of the authors' https://github.com/NVlabs/SegFormer"),
    r"(mscan_[tsbl])\.pth": (
        "It is SegNeXt's backbone trained on ImageNet-1k, {1}.pth of the authors' "
        "https://github.com/Visual-Attention-Network/SegNeXt"),
    r"(\w+\.\w+)\.safetensors": (
        "It is model.safetensors of https://huggingface.co/timm/{1}, under this name; MODEL.WEIGHTS timm://{1} "
        "fetches it"),
}
# Folder of Detectron2's addresses -> how its backbones want their images, as Detectron2's model zoo says.
_DETECTRON2_BACKBONES = {"ImageNetPretrained/torchvision/": IMAGENET, "ImageNetPretrained/MSRA/": CAFFE}
PLAIN_NAME = re.compile(r"[\w.-]+")


def source_of(path: str) -> str:
    """A sentence on where the file ``path`` comes from, "" where that is not known here."""
    for pattern, sentence in SOURCES.items():
        match = re.fullmatch(pattern, os.path.basename(path))
        if match:
            return f"{sentence.format(match[0], *match.groups())}. "
    return ""


@cache
def published() -> dict[str, dict[str, Any]]:
    """Short name -> what published.json says of these weights."""
    return json.loads(files(__package__).joinpath("published.json").read_text(encoding="utf-8"))["weights"]


@cache
def model_zoo() -> Mapping[str, str]:
    """Name of a configuration in Detectron2's model zoo, without .yaml -> the address of its weights."""
    from detectron2.model_zoo.model_zoo import _ModelZooUrls  # here: it imports pkg_resources, which may be missing

    configs = files("detectron2.model_zoo") / "configs"     # weights of configurations in Python are left out
    return {name: f"{_ModelZooUrls.S3_PREFIX}{name}/{suffix}"
            for name, suffix in _ModelZooUrls.CONFIG_PATH_TO_URL_SUFFIX.items() if (configs / f"{name}.yaml").is_file()}


def is_there(path: str) -> bool:
    """Whether there is a file or folder of this name, which then comes before all that the name may stand for."""
    return os.path.exists(os.path.expanduser(path))


def address_of(name: str) -> str:
    """What ``name`` stands for: an address for a short name, one of the model zoo or detectron2://, else itself.

    A file or folder of this name comes first. Raises CheckpointError, with the nearest names, for a name of the model
    zoo that it does not have, and for a short name whose address is not known here.
    """
    if name.startswith(Detectron2Handler.PREFIX):
        # Detectron2 allows ?matching_heuristics=True; here the keys decide that.
        return Detectron2Handler.S3_DETECTRON2_PREFIX + name.removeprefix(Detectron2Handler.PREFIX).partition("?")[0]
    if "://" in name:
        return name.removesuffix("?matching_heuristics=True")
    if is_there(name):
        return name
    if name in published():
        entry = published()[name]
        if not entry["url"]:
            raise CheckpointError(f"{name}: the address of these weights is not known here. They are published by "
                                  f"{entry['project']}: fetch the file there and set MODEL.WEIGHTS to its path.")
        return entry["url"]
    if name.endswith(".yaml"):
        zoo = model_zoo()
        if name.removesuffix(".yaml") in zoo:
            return zoo[name.removesuffix(".yaml")]
        raise CheckpointError(f"{name}: Detectron2's model zoo has no such weights{nearest(name, zoo, '.yaml')}")
    if PLAIN_NAME.fullmatch(name) and not os.path.splitext(name)[1]:
        raise CheckpointError(f"{name}: no such file, and no published weights of this name"
                              f"{nearest(name, published())}. Set MODEL.WEIGHTS to a path, an address or one of "
                              f"{', '.join(published())}.")
    return name


def nearest(name: str, known: Iterable[str], suffix: str = "") -> str:
    """The end of a sentence that gives the names that look most like ``name``; "" where there is none."""
    near = difflib.get_close_matches(name.removesuffix(suffix), list(known), n=3, cutoff=0.4)
    return f"; the nearest are {', '.join(f'{other}{suffix}' for other in near)}" if near else ""


def known_sha256(url: str) -> str:
    """The digits that the SHA-256 of the file at ``url`` begins with, "" where they are not known.

    PyTorch's own files have them in their names.
    """
    return sha256_in_name(url) if url.startswith("https://download.pytorch.org/") else ""


def sha256_in_name(url: str) -> str:
    """Those digits in the name of a file that PyTorch's projects publish, as in resnet101-63fe2227.pth."""
    match = re.search(r"-([0-9a-f]{8,})\.pth$", url)
    return match[1] if match else ""


@cache
def _zoo_config(name: str) -> CfgNode:
    from detectron2.model_zoo import get_config  # its own loading: some of its files hold expressions

    return get_config(name)


def known_dataset(name: str) -> str | None:
    """The data set, by its name in the catalogue, whose classes published weights have; None where unknown."""
    if is_there(name):
        return None
    if name in published():
        return published()[name].get("dataset")
    if name.endswith(".yaml") and name.removesuffix(".yaml") in model_zoo():
        return _zoo_config(name).DATASETS.TRAIN[0]
    return None


def known_data_config(name: str) -> DataConfig | None:
    """How the weights of a name that `address_of` knows want their images; None where that is not known."""
    if is_there(name):
        return None
    if name in published():
        return IMAGENET
    if name.endswith(".yaml") and name.removesuffix(".yaml") in model_zoo():
        return DataConfig.of(_zoo_config(name))
    address = address_of(name)
    for folder, config in _DETECTRON2_BACKBONES.items():
        if address.startswith(Detectron2Handler.S3_DETECTRON2_PREFIX + folder):
            return config
    return None

"""Weights by their names in torchvision, timm and transformers: each library's own downloads, caches and checksums.

torchvision://ResNet50_Weights.IMAGENET1K_V2, timm://convnext_tiny.in12k_ft_in1k, hf://<owner>/<name>[@revision], or a
folder of transformers. The libraries are imported where a name asks for them: that takes seconds.
"""
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch

from freqdino.checkpoint.data_config import DataConfig, of_image_processor
from freqdino.checkpoint.download import fetch
from freqdino.checkpoint.files import read_checkpoint
from freqdino.checkpoint.names.transformers_mask2former import with_mask2former_names
from freqdino.checkpoint.sources import nearest, sha256_in_name
from freqdino.errors import CheckpointError

CONFIG, PROCESSOR, INDEX = "config.json", "preprocessor_config.json", "model.safetensors.index.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
ADVICE = ('. Without a network fetch {what} elsewhere and set MODEL.WEIGHTS to its path; MODEL.WEIGHTS "" starts from '
          "random weights.")


def torchvision_weights(name: str) -> dict[str, Any]:
    """Contents of the weights that torchvision calls ``name``, as in ResNet50_Weights.IMAGENET1K_V2."""
    from torchvision.models import get_model_weights, list_models

    known = {str(weights): weights for model in list_models() for weights in get_model_weights(model)}
    if name not in known:
        raise CheckpointError(f"torchvision://{name}: torchvision has no weights of this name{nearest(name, known)}")
    weights = known[name]
    path = os.path.join(torch.hub.get_dir(), "checkpoints", os.path.basename(weights.url))
    contents = read_checkpoint(fetch(weights.url, path, sha256=sha256_in_name(weights.url)))
    transforms = weights.transforms()
    if hasattr(transforms, "mean"):
        contents["data_config"] = DataConfig.of_unit_range(transforms.mean, transforms.std)
    return contents


def timm_weights(name: str) -> dict[str, Any]:
    """Contents of the pretrained weights ``name`` of timm, as timm itself loads them into its network."""
    import timm

    known = timm.list_models(pretrained=True)
    name = name.removeprefix("timm/")
    if not timm.models.is_model_pretrained(name):
        raise CheckpointError(f"timm://{name}: timm {timm.__version__} has no pretrained weights of this name"
                              f"{nearest(name, known)}")
    try:
        network = timm.create_model(name, pretrained=True)
    # huggingface_hub raises OSError and its kin for what it cannot fetch, torch RuntimeError for a damaged file.
    except (OSError, RuntimeError, ValueError) as error:
        hub = getattr(timm.get_pretrained_cfg(name), "hf_hub_id", None)
        what = f"{WEIGHTS[0]} of https://huggingface.co/{hub}{name if hub == 'timm/' else ''}" if hub else "the file"
        raise CheckpointError(f"timm://{name}: timm cannot load it ({_first_line(error)})"
                              + ADVICE.format(what=what)) from error
    config = timm.data.resolve_model_data_config(network)
    return {"model": dict(network.state_dict()), "caffe2": False,
            "data_config": DataConfig.of_unit_range(config["mean"], config["std"])}


def is_transformers_folder(path: str) -> bool:
    """Whether a folder is one that transformers has saved a model in."""
    return os.path.isfile(os.path.join(path, CONFIG)) and any(
        os.path.isfile(os.path.join(path, name)) for name in (*WEIGHTS, INDEX))


def transformers_folder(path: str) -> dict[str, Any]:
    """Contents of a folder of transformers: config.json, model.safetensors and, if it is there, the image processor."""
    def find(name):
        file = os.path.join(path, name)
        return file if os.path.isfile(file) else None
    return _transformers_weights(path, find)


def hub_weights(name: str) -> dict[str, Any]:
    """Contents of the Hugging Face hub's model ``name``: <owner>/<name>, or <owner>/<name>@<revision>."""
    from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

    repository, _, revision = name.partition("@")
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise CheckpointError(f"hf://{name}: expected hf://<owner>/<name>, as in "
                              "hf://facebook/mask2former-swin-tiny-coco-instance")
    if repository.startswith("timm/"):
        raise CheckpointError(f"hf://{name}: timm's weights load as timm://{repository.removeprefix('timm/')}")

    def find(file):
        try:
            return hf_hub_download(repository, file, revision=revision or None)
        except RepositoryNotFoundError as error:
            raise CheckpointError(f"hf://{name}: the hub has no model of this name, or asks for a token (HF_TOKEN)"
                                  f"{_nearest_on_hub(repository)}") from error
        except LocalEntryNotFoundError as error:        # no answer, and not in the cache either
            if try_to_load_from_cache(repository, file, revision=revision or "main") is _CACHED_NO_EXIST:
                return None                             # the hub once said that it has no such file
            raise CheckpointError(f"hf://{name}: {file} cannot be fetched ({_first_line(error)})" + ADVICE.format(
                what=f"{CONFIG}, {PROCESSOR} and {WEIGHTS[0]} of https://huggingface.co/{repository} into one folder"
            ).replace("its path", "that folder")) from error
        except EntryNotFoundError:
            return None
        except OSError as error:
            raise CheckpointError(f"hf://{name}: {file} cannot be fetched ({_first_line(error)})") from error
    return _transformers_weights(f"hf://{name}", find)


def _nearest_on_hub(repository):
    from huggingface_hub import HfApi

    owner, _, name = repository.partition("/")
    try:
        known = [model.id for model in HfApi().list_models(search=name.partition("-")[0], limit=200)]
    except OSError:
        return ""
    return nearest(repository, known)


def _transformers_weights(name: str, find: Callable[[str], str | None]) -> dict[str, Any]:
    config = _read_json(name, find, CONFIG)
    if config is None:
        raise CheckpointError(f"{name}: has no {CONFIG}, so it is no model of transformers")
    kind = config.get("model_type")
    if kind != "mask2former":
        raise CheckpointError(f"{name}: holds transformers' model {kind}; of its models Mask2Former's load here")
    index = _read_json(name, find, INDEX)
    files = sorted(set(index["weight_map"].values())) if index else [file for file in WEIGHTS if find(file)][:1]
    contents: dict[str, Any] = {"model": {}, "caffe2": False}
    for file in files or WEIGHTS[:1]:
        path = find(file)
        if path is None:
            raise CheckpointError(f"{name}: has no {file}")
        contents["model"].update(read_checkpoint(path)["model"])
    try:
        contents["model"] = with_mask2former_names(contents["model"])
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error}") from error
    processor = _read_json(name, find, PROCESSOR)
    if processor is not None and (data_config := of_image_processor(processor)) is not None:
        contents["data_config"] = data_config
    backbone = config.get("backbone_config") or {}
    if backbone.get("model_type") == "resnet" and backbone.get("layer_type") != "basic":
        contents["stride_in_1x1"] = bool(backbone.get("downsample_in_bottleneck"))
    contents["class_names"] = class_names(config.get("id2label", {}))
    return contents


def class_names(id2label: Mapping[str, str]) -> list[str] | None:
    """The names of the classes in order; None where config.json has only placeholders, such as LABEL_0."""
    names = [id2label[key] for key in sorted(id2label, key=int)]
    return None if all(name == f"LABEL_{index}" for index, name in enumerate(names)) else names


def _read_json(name, find, file):
    path = find(file)
    if path is None:
        return None
    try:
        with open(path, encoding="utf-8") as stream:
            return json.load(stream)
    except ValueError as error:
        raise CheckpointError(f"{name}: {file} is no JSON ({error})") from error


def _first_line(error):
    return (str(error).strip() or type(error).__name__).splitlines()[0]

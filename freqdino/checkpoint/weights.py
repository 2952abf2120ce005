"""What a value of MODEL.WEIGHTS means: the one place that names are resolved in, for training and every command.

A file, the folder of a run or of transformers, an address, a name of Detectron2's model zoo (<config>.yaml), a short
name of published.json, torchvision://, timm:// or hf://.
"""
import logging
import os
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from freqdino.checkpoint.class_rows import CLASS_TABLES
from freqdino.checkpoint.files import local_path, read_checkpoint
from freqdino.checkpoint.hubs import (
    hub_weights,
    is_transformers_folder,
    timm_weights,
    torchvision_weights,
    transformers_folder,
)
from freqdino.checkpoint.sources import address_of, known_data_config, known_dataset

logger = logging.getLogger(__name__)

HUBS = {"torchvision://": torchvision_weights, "timm://": timm_weights, "hf://": hub_weights}


def read_weights(name: str) -> dict[str, Any]:
    """The contents of the weights ``name``, as of `read_checkpoint`, fetched if need be.

    Where it is known, "data_config" says how they want their images, "class_names" or "classes" (the tables of a data
    set's metadata) what their classes are called, and "stride_in_1x1" where a ResNet's bottlenecks have their stride.
    Raises CheckpointError for a name that is none, with the nearest, and for what cannot be fetched or read.
    """
    address = address_of(name)
    for scheme, read in HUBS.items():
        if address.startswith(scheme):
            return read(address.removeprefix(scheme))
    folder = os.path.expanduser(address)
    if "://" not in address and os.path.isdir(folder) and is_transformers_folder(folder):
        return transformers_folder(folder)
    contents = read_checkpoint(local_path(name))
    data_config, dataset = known_data_config(name), known_dataset(name)
    if data_config is not None:
        contents["data_config"] = data_config
    if dataset is not None:
        metadata = MetadataCatalog.get(dataset).as_dict()
        contents.setdefault("classes", {key: metadata[key] for key in CLASS_TABLES if key in metadata})
    return contents


def starting_weights(cfg: CfgNode) -> str:
    """What training starts from: MODEL.WEIGHTS, or timm's weights where it is empty and MODEL.TIMM.PRETRAINED."""
    pretrained = cfg.MODEL.TIMM.PRETRAINED and cfg.MODEL.BACKBONE.NAME == "build_timm_backbone"
    if pretrained and cfg.MODEL.WEIGHTS:
        logger.warning("MODEL.TIMM.PRETRAINED is not used: MODEL.WEIGHTS is %s; for timm's weights set MODEL.WEIGHTS "
                       '""', cfg.MODEL.WEIGHTS)
    return cfg.MODEL.WEIGHTS or (f"timm://{cfg.MODEL.TIMM.NAME}" if pretrained else "")

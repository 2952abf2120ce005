"""A Mask2Former as a folder for the from_pretrained of transformers' Mask2FormerForUniversalSegmentation and of its
image processor: config.json, model.safetensors, preprocessor_config.json. The library itself is not needed.
"""
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from torch import Tensor, nn

from freqdino.checkpoint import DataConfig
from freqdino.checkpoint.checkpointer import COMPUTED
from freqdino.checkpoint.class_rows import class_tables, names_of
from freqdino.checkpoint.hubs import CONFIG, PROCESSOR, WEIGHTS
from freqdino.checkpoint.names.transformers_mask2former import UNUSED_NORM, with_transformers_names
from freqdino.checkpoint.whole_files import folder_written_whole
from freqdino.conversion.conversion import STATISTICS
from freqdino.conversion.transformers_config import (
    RESNET,
    STAGES,
    SWIN,
    config_of,
    image_processor_of,
    num_classes,
    without_place,
)
from freqdino.errors import ConversionError
from freqdino.registration.class_tables import thing_classes

COUNT = "num_batches_tracked"               # of batches, beside the statistics of a normalisation
FIRST_CONVOLUTIONS = ("backbone.stem.conv1.weight", "backbone.patch_embed.proj.weight")


def check_place(target: Path, cfg: CfgNode) -> None:
    """Raise ConversionError, with all there is to say, where the model has no place in transformers, and where
    ``target`` is not a new or an empty folder."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConversionError(f"{target}: is there already; a folder of transformers needs a new name, or an empty "
                              "folder")
    problems = without_place(cfg)
    if problems:
        raise ConversionError("\n  ".join(["transformers has no place for this model:", *problems]))


def check_source(source: str, checkpoint: Mapping[str, Any], cfg: CfgNode) -> None:
    """Hold what the weights say of their images and strides against the configuration, which the folder repeats.

    Raises CheckpointError or ConversionError with the options to set.
    """
    if "data_config" in checkpoint:
        checkpoint["data_config"].check(source, DataConfig.of(cfg))
    here = cfg.MODEL.RESNETS.STRIDE_IN_1X1
    if cfg.MODEL.BACKBONE.NAME == RESNET and checkpoint.get("stride_in_1x1", here) != here:
        raise ConversionError(f"{source}: the weights need MODEL.RESNETS.STRIDE_IN_1X1 {not here}")


def write_folder(target: Path, cfg: CfgNode, model: nn.Module, checkpoint: Mapping[str, Any]) -> list[str]:
    """Write the ``model``, filled from the ``checkpoint``, to a new folder, whole or not at all.

    Returns what users of the folder should know, in sentences. Raises ConversionError where it cannot be written.
    """
    from safetensors.torch import save

    names = _class_names(cfg, num_classes(model), checkpoint)
    documents = {CONFIG: config_of(cfg, model, names), PROCESSOR: image_processor_of(cfg, model)}
    files = {name: (json.dumps(document, indent=2) + "\n").encode() for name, document in documents.items()}
    # Not save_file: its file can be read by its owner alone, and a folder like this one is given to others.
    files[WEIGHTS[0]] = save(entries_of(cfg, model), metadata={"format": "pt"})
    try:
        with folder_written_whole(str(target)) as folder:
            for name, contents in files.items():
                Path(folder, name).write_bytes(contents)
    except OSError as error:
        raise ConversionError(f"{target} cannot be written ({error})") from error
    return list(_remarks(cfg, model, names))


def entries_of(cfg: CfgNode, model: nn.Module) -> dict[str, Tensor]:
    """The tensors of model.safetensors, for pictures whose channels are RGB."""
    tensors = {name: tensor for name, tensor in model.state_dict().items()
               if (name.endswith(COUNT) or not COMPUTED.search(name)) and not name.startswith(_unread_norms(cfg))}
    if cfg.INPUT.FORMAT == "BGR":
        tensors.update({name: tensors[name].flip(1) for name in FIRST_CONVOLUTIONS if name in tensors})
    entries = with_transformers_names(tensors)
    # What its modules hold besides: a count that a frozen normalisation here has not, and a normalisation that nothing
    # reads.
    for name in [name for name in entries if name.endswith(STATISTICS)]:
        entries.setdefault(name.removesuffix(STATISTICS) + COUNT, torch.tensor(0))
    if cfg.MODEL.BACKBONE.NAME == SWIN:
        width = model.backbone.num_features[-1]
        entries.update({UNUSED_NORM + "weight": torch.ones(width), UNUSED_NORM + "bias": torch.zeros(width)})
    return entries


def _unread_norms(cfg: CfgNode) -> tuple[str, ...]:
    """What the names begin with that have no place there: Swin here normalises all of its maps, there those read."""
    return tuple(f"backbone.norm{index}." for index, name in enumerate(STAGES)
                 if cfg.MODEL.BACKBONE.NAME == SWIN and name not in cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES)


def _class_names(cfg: CfgNode, count: int, checkpoint: Mapping[str, Any]) -> Sequence[str] | None:
    """Those of the checkpoint, else of the data; None where neither says ``count`` of them."""
    data = (MetadataCatalog.get(name).as_dict() for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
    return next(filter(None, (names_of(tables, count) for tables in (class_tables(checkpoint), *data))), None)


def _remarks(cfg: CfgNode, model: nn.Module, names: Sequence[str] | None) -> Iterator[str]:
    family = cfg.MODEL.MASK_FORMER
    if names is None:
        yield "neither the weights nor the data say the classes' names: they are LABEL_0, LABEL_1, ... there"
    if _unread_norms(cfg):
        yield (f"left, since they normalise maps that the head does not read: {', '.join(_unread_norms(cfg))}; without "
               "them the folder cannot be MODEL.WEIGHTS here but with MODEL.WEIGHTS_PARTIAL True")
    if cfg.INPUT.FORMAT == "BGR":
        yield ("INPUT.FORMAT is BGR and transformers gives RGB: the input channels of the first convolution, "
               "MODEL.PIXEL_MEAN and MODEL.PIXEL_STD are turned round")
    if not cfg.INPUT.MIN_SIZE_TEST:
        yield ("INPUT.MIN_SIZE_TEST is 0: the image processor leaves pictures as they are, where the model here pads "
               f"them to multiples of {model.size_divisibility}")
    if family.DROPOUT:
        yield (f"MODEL.MASK_FORMER.DROPOUT is {family.DROPOUT}: in training transformers applies it to its transformer "
               "decoder, too, and leaves out that share of its layers")
    if family.TEST.PANOPTIC_ON:
        stuff = set(range(num_classes(model))) - thing_classes(cfg)
        yield ("post_process_panoptic_segmentation has to be told the thresholds and the classes without instances: "
               f"threshold={family.TEST.OBJECT_MASK_THRESHOLD}, "
               f"overlap_mask_area_threshold={family.TEST.OVERLAP_THRESHOLD}, label_ids_to_fuse={stuff}")

"""A trained model for use: whole pictures in, results out, with the names of its classes.

Shape key: H, W: height and width of the picture.
"""
import dataclasses
import logging

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from torch import nn

import freqdino
from freqdino.checkpoint import DataConfig, StrictCheckpointer, read_weights
from freqdino.data import register_custom_datasets
from freqdino.data.augmentation import inference_recipe
from freqdino.errors import ConfigError
from freqdino.modeling.meta_architecture import MaskClassificationModel
from freqdino.registration.class_tables import with_counted_classes

logger = logging.getLogger(__name__)


def load_trained_model(cfg: CfgNode) -> nn.Module:
    """The model of ``cfg`` on MODEL.DEVICE, in evaluation mode, entirely filled from MODEL.WEIGHTS.

    Raises ConfigError if MODEL.WEIGHTS is empty, CheckpointError if it does not fit.
    """
    freqdino.register()     # the configuration may come from another process
    if not cfg.MODEL.WEIGHTS:
        raise ConfigError("MODEL.WEIGHTS is empty: set it to a trained checkpoint, "
                          "as in MODEL.WEIGHTS output/model_final.pth")
    model = build_model(with_counted_classes(cfg)).eval()
    StrictCheckpointer(model, whole_model=True, data_config=DataConfig.of(cfg)).load(cfg.MODEL.WEIGHTS)
    return model


class Predictor:
    """The model of ``cfg`` with MODEL.WEIGHTS, which has to fit entirely; its panoptic segments have scores.

    Raises ConfigError, CheckpointError: MODEL.WEIGHTS is empty or does not fit.
    """

    def __init__(self, cfg: CfgNode):
        self._channels_reversed = cfg.INPUT.FORMAT == "BGR"
        self._augmentations = T.AugmentationList(inference_recipe(cfg))
        self._model = load_trained_model(cfg)
        if isinstance(self._model, MaskClassificationModel):
            self._model.post_processing = dataclasses.replace(self._model.post_processing, segment_scores=True)

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> dict:
        """The model's results, of the picture's size, for a picture in RGB, uint8 (H, W, 3)."""
        height, width = image.shape[:2]
        return self._model([{"image": self._model_input(image), "height": height, "width": width}])[0]

    def input_size(self, image: np.ndarray) -> tuple[int, int]:
        """(height, width) at which the model sees a picture."""
        return tuple(self._model_input(image).shape[1:])

    def _model_input(self, image):
        augmented = T.AugInput(image[:, :, ::-1] if self._channels_reversed else image)
        self._augmentations(augmented)
        return torch.from_numpy(np.ascontiguousarray(augmented.image.transpose(2, 0, 1)))


def class_metadata(cfg: CfgNode, dataset: str | None = None) -> Metadata:
    """Metadata of ``dataset``, else of the first of DATASETS.TEST and DATASETS.TRAIN that is known on this machine.

    Where none is, the classes that train_net.py noted in MODEL.WEIGHTS; where it did not, empty metadata, with a
    warning. Where the training set is not known, the model too takes the classes from what is: DATASETS.TRAIN of
    ``cfg`` is set to it.

    Raises OSError, ValueError: ``dataset`` is own data that cannot be read.
    """
    if dataset is not None:
        register_custom_datasets([dataset])
    known, problems = [], []
    for name in dict.fromkeys((*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN)):
        try:
            register_custom_datasets([name])
        except (OSError, ValueError) as error:
            problems.append(str(error))
            continue
        if name in DatasetCatalog:
            known.append(name)
        else:
            problems.append(f"{name} is not registered")
    classes = None if known or not cfg.MODEL.WEIGHTS else read_weights(cfg.MODEL.WEIGHTS).get("classes")
    if classes:
        known = [f"classes of {cfg.MODEL.WEIGHTS}"]
        MetadataCatalog.get(known[0]).set(**classes)
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (known[0],), ()
    if known and cfg.DATASETS.TRAIN and cfg.DATASETS.TRAIN[0] not in known:
        cfg.DATASETS.TRAIN = (known[0],)
    names = [dataset, *known] if dataset is not None else known
    if names:
        return MetadataCatalog.get(names[0])
    logger.warning("No data set that the configuration names is here, so classes are shown by number, and those of a "
                   "panoptic model all count as things: %s", "; ".join(problems) or "DATASETS.TEST and TRAIN are empty")
    return Metadata()

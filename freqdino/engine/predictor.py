"""A trained model for use: whole pictures in, results out, with the names of its classes.

Shape key: H, W: height and width of a picture.
"""
import dataclasses
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast, overload

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from PIL import Image
from torch import nn

import freqdino
from freqdino.checkpoint import DataConfig, StrictCheckpointer, read_weights
from freqdino.config import load_config
from freqdino.data.augmentation import InferenceInput
from freqdino.data.image_reading import read_image, rgb_pixels
from freqdino.engine.class_metadata import class_metadata, classes_to_build_with, dataset_metadata
from freqdino.engine.evaluating import evaluate_predictions
from freqdino.engine.result import Result
from freqdino.engine.run_folder import find_checkpoint, find_config
from freqdino.errors import ArgumentError, ConfigError, ExportError
from freqdino.export import is_exported_file
from freqdino.export.runtime import ExportedModel
from freqdino.export.writing import Summary, export_model
from freqdino.modeling.meta_architecture import MaskClassificationModel
from freqdino.registration.class_tables import count_classes, with_counted_classes
from freqdino.registration.predictions import Predictions, predictions_of

Picture = str | Path | np.ndarray | Image.Image
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_trained_model(cfg: CfgNode) -> nn.Module:
    """The model of ``cfg`` on MODEL.DEVICE, in evaluation mode, entirely filled from MODEL.WEIGHTS.

    Raises ConfigError if MODEL.WEIGHTS is empty, CheckpointError if it does not fit.
    """
    return _load(cfg)[0]


def _load(cfg):
    """The model and the metadata of its classes."""
    freqdino.register()     # the configuration may come from another process
    if not cfg.MODEL.WEIGHTS:
        raise ConfigError("MODEL.WEIGHTS is empty: set it to a trained checkpoint, "
                          "as in MODEL.WEIGHTS output/model_final.pth")
    contents = read_weights(cfg.MODEL.WEIGHTS)
    metadata = class_metadata(cfg, contents.get("classes"))
    # Building draws the random weights that the checkpoint's take the place of.
    with torch.random.fork_rng(), classes_to_build_with(cfg, metadata) as of_classes:
        model = build_model(with_counted_classes(of_classes)).eval()
    checkpointer = StrictCheckpointer(model, whole_model=True, data_config=DataConfig.of(cfg))
    checkpointer.load_contents(cfg.MODEL.WEIGHTS, contents)
    return model, metadata


class Predictor:
    """A trained model that takes pictures; its panoptic segments have scores.

    It changes no state of the process and may be called from several threads at once.
    """

    def __init__(self, source: str | Path | CfgNode | None = None, *, config: str | Path | CfgNode | None = None,
                 weights: str | Path | None = None, options: Sequence[Any] = (), dataset: str | None = None,
                 device: str | None = None, dtype: str = "float32"):
        """
        Args:
            source: the folder of a run, whose configuration and final weights are taken, or a file of
                tools/export.py, beside which there may be ``dataset`` and ``device`` (cpu or cuda) alone.
            config: in place of ``source``, a configuration or its file; its MODEL.WEIGHTS are taken unless ``weights``
                names others.
            weights: anything that MODEL.WEIGHTS may be; with ``source`` in place of the run's own.
            options: KEY, VALUE, ... that change the configuration.
            dataset: a data set whose class names are drawn, in place of those that the weights, or the data sets of
                the configuration, say.
            device: cpu, cuda, cuda:1, ...; default: the configuration's.
            dtype: float32, bfloat16 or float16: what autocast computes in.
        Raises ConfigError, CheckpointError: a configuration that cannot be used, weights of another model; ValueError,
        OSError: arguments and files that cannot.
        """
        if dtype not in TYPES:
            raise ArgumentError("dtype", f"must be one of {', '.join(TYPES)}, got {dtype!r}")
        freqdino.register()
        self._precision: Callable = nullcontext
        if is_exported_file(source):
            given = {"config": config, "weights": weights, "options": options}
            needless = [name for name, value in given.items() if value] + ["dtype"] * (dtype != "float32")
            if needless:
                raise ArgumentError(needless[0], f"cannot be chosen: {source} is an exported model, which has its own")
            exported = ExportedModel(str(source), device or "cpu")
            self._model: Callable[[list[dict]], list[dict]] = exported
            about = exported.description
            self.cfg, self.input = None, about.input
            self.metadata = about.metadata if dataset is None else dataset_metadata(dataset)
            self._predictions, self._max_detections = Predictions(about.tasks, masks=True), about.max_instances
            return
        cfg = configuration(source, config, weights, [*options, *(("MODEL.DEVICE", device) if device else ())])
        model, metadata = _load(cfg)
        if isinstance(model, MaskClassificationModel):
            model.post_processing = dataclasses.replace(model.post_processing, segment_scores=True)
        self._model = model
        self.cfg, self.input = cfg, InferenceInput.of(cfg)
        self._predictions, self._max_detections = predictions_of(cfg), cfg.TEST.DETECTIONS_PER_IMAGE
        self.metadata = metadata if dataset is None else dataset_metadata(dataset)
        if dtype != "float32":
            self._precision = partial(torch.autocast, torch.device(cfg.MODEL.DEVICE).type, TYPES[dtype])

    def export(self, path: str | Path, **options: Any) -> Summary:
        """Write the model to a file, .onnx or .pt2, that gives the same results without its code, see
        `freqdino.export.writing.export_model` for the options and what is raised; says how it compares."""
        if self.cfg is None:
            raise ExportError(f"{path} would be an export of an exported model; export the model itself")
        return export_model(cast(nn.Module, self._model), self.cfg, self.metadata, path, **options)

    @overload
    def __call__(self, images: Picture, *, batch_size: int = 4) -> Result: ...

    @overload
    def __call__(self, images: list[Picture] | tuple[Picture, ...], *, batch_size: int = 4) -> list[Result]: ...

    def __call__(self, images, *, batch_size=4):
        """The results of a picture, or of each of a list: paths, RGB uint8 arrays (H, W, 3), or PIL images.

        ``batch_size`` pictures of a list run at once; pictures of other sizes change nothing in each other's results.
        Raises ArgumentError: something else than a picture, or a batch below 1; DataError: a file that is none.
        """
        if batch_size < 1:
            raise ArgumentError("batch_size", f"must be at least 1, got {batch_size}")
        if not isinstance(images, (list, tuple)):
            return self._predict([images])[0]
        return [result for start in range(0, len(images), batch_size)
                for result in self._predict(images[start:start + batch_size])]

    def evaluate(self, dataset: str) -> dict[str, dict[str, float]]:
        """Task -> metric -> number on a data set, by the evaluators of train_net.py.

        Raises ValueError, OSError: the data set cannot be read, has other classes, or nothing of what is predicted.
        """
        counts = [count_classes(metadata) for metadata in (dataset_metadata(dataset), self.metadata)]
        if None not in counts and counts[0] != counts[1]:
            raise ConfigError(f"the data set {dataset} has {counts[0]} classes, the model {counts[1]}")
        return evaluate_predictions(lambda path: self(path).output, dataset, self._predictions,
                                    max_detections=self._max_detections)

    def input_size(self, image: np.ndarray) -> tuple[int, int]:
        """(height, width) at which the model sees a picture, RGB uint8 (H, W, 3)."""
        height, width = self.input(image).shape[1:]
        return height, width

    def _predict(self, images):
        arrays = [rgb_array(image) for image in images]
        inputs = [{"image": self.input(array), "height": array.shape[0], "width": array.shape[1]} for array in arrays]
        with torch.no_grad(), self._precision():
            outputs = self._model(inputs)
        return [Result(image=array, output=output, metadata=self.metadata)
                for array, output in zip(arrays, outputs, strict=True)]


def configuration(source: str | Path | CfgNode | None, config: str | Path | CfgNode | None,
                  weights: str | Path | None, options: Sequence[Any]) -> CfgNode:
    """A configuration of its own, with MODEL.WEIGHTS, from what `Predictor` is given."""
    if isinstance(source, CfgNode):
        source, config = None, source if config is None else config
    if (source is None) == (config is None):
        raise ArgumentError("source", "or config is needed, one of the two: the folder of a run, or a configuration "
                            "with its weights")
    if source is not None:
        run = Path(os.path.expanduser(source))
        if not run.is_dir():
            raise FileNotFoundError(f"{run}: there is no such folder of a run; for a configuration and weights of your "
                                    "own there are config=... and weights=...")
        cfg = load_config(str(find_config(run)), options)
        cfg.MODEL.WEIGHTS = dict(zip(options[::2], options[1::2])).get("MODEL.WEIGHTS") or find_checkpoint(run, cfg)
    elif isinstance(config, CfgNode):
        cfg = config.clone()
        cfg.defrost()
        cfg.merge_from_list(list(options))
    else:
        cfg = load_config(str(config), options)
    if weights is not None:
        cfg.MODEL.WEIGHTS = str(weights)
    return cfg


def rgb_array(image: Picture) -> np.ndarray:
    """A picture's pixels, RGB uint8 (H, W, 3). Raises ArgumentError for what is no picture, DataError as `read_image`.
    """
    if isinstance(image, (str, Path)):
        return read_image(str(image), "RGB")
    if isinstance(image, Image.Image):
        return rgb_pixels(image, getattr(image, "filename", "") or "of PIL")
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        if image.size == 0:
            raise ArgumentError("image", f"has no pixel: its shape is {image.shape}")
        return image
    found = (f"an array of shape {image.shape} and type {image.dtype}" if hasattr(image, "shape")
             else f"a {type(image).__name__}")
    raise ArgumentError("image", f"must be a path, an RGB array (H, W, 3) of uint8 or a PIL image, got {found}")

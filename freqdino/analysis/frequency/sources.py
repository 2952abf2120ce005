"""What is analysed: one of our models by its configuration, or a timm vision transformer by its name, with its images.

H, W: height and width of a picture.
"""
import difflib
from collections.abc import Sequence

import numpy as np
import timm
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from PIL import Image
from torch import Tensor, nn

from freqdino.analysis.frequency.ground_truth import category_labels
from freqdino.checkpoint import DataConfig, read_weights
from freqdino.config import load_config
from freqdino.data import build_mapper, register_custom_datasets
from freqdino.data.image_files import find_records
from freqdino.data.image_reading import read_image
from freqdino.engine.predictor import load_trained_model
from freqdino.errors import NotThere
from freqdino.registration.compilation import uncompiled

RANDOM_WEIGHTS = "random"


class ConfiguredModel:
    """A model of Detectron2's registries. Raises ValueError or OSError for what cannot be built, loaded or found.

    Without MODEL.WEIGHTS it has random weights, of seed 0.
    """

    def __init__(self, config_file: str, options: Sequence[str], weights: str | None, dataset: str | None,
                 records: list[dict]):
        """``dataset``: the one that the records are of, None where they are images alone."""
        cfg = load_config(config_file, [*options, *(["MODEL.WEIGHTS", weights] if weights else [])])
        cfg = uncompiled(cfg)       # whose modules can be watched
        register_custom_datasets(cfg.DATASETS.TRAIN)
        self.name = config_file
        self.weights = cfg.MODEL.WEIGHTS or RANDOM_WEIGHTS
        self.model = load_trained_model(cfg) if cfg.MODEL.WEIGHTS else random_model(cfg)
        self.mapper = build_mapper(cfg, is_train=False)
        self.records = records
        self.metadata = MetadataCatalog.get(dataset) if dataset else None

    def run(self, record: dict) -> None:
        """Send an image through the model."""
        self.model([self.mapper(record)])

    def image_size(self, record: dict) -> tuple[int, int]:
        """(H, W) of an image as the model is given it, without padding."""
        return tuple(self.mapper(record)["image"].shape[1:])

    def labels(self, record: dict) -> Tensor:
        """(H, W) class indices of the picture, -1 where there is none. NotThere without ground truth."""
        if self.metadata is None:
            raise NotThere("similarity inside categories is measured on ground truth, which images alone have not: "
                           "give --dataset NAME, a registered dataset or own data, in place of --input")
        return category_labels(record, self.metadata)


def images_of(dataset: str | None, inputs: Sequence[str] | None, limit: int | None) -> list[dict]:
    """Dataset records of the images to analyse, at least one. ValueError where there is none."""
    records = find_records(dataset, inputs, limit)
    if not records:
        raise ValueError(f"--dataset {dataset} holds no image")
    return records


def random_model(cfg: CfgNode) -> nn.Module:
    torch.manual_seed(0)
    return build_model(cfg).eval()


class TimmModel:
    """A model of timm, on pictures resized to its input size and normalised as its weights, or its configuration, say.

    Random weights of seed 0 unless ``weights`` names some. Raises ValueError for an unknown name or weights that do not
    fit.
    """

    def __init__(self, name: str, weights: str | None, records: list[dict]):
        if not timm.is_model(name):
            near = difflib.get_close_matches(name, timm.list_models(), n=5)
            raise ValueError(f"--timm {name}: timm has no such model"
                             + (f"; near are {', '.join(near)}" if near else ""))
        torch.manual_seed(0)
        self.name = name
        self.weights = weights or RANDOM_WEIGHTS
        try:
            self.model = timm.create_model(name, pretrained=False).eval()
        except RuntimeError as error:       # of a name with a tag behind a dot that the model has not
            raise ValueError(f"--timm {name}: {error}") from error
        _, *self.size = self.model.pretrained_cfg["input_size"]
        data_config = DataConfig.of_unit_range(*(self.model.pretrained_cfg[key] for key in ("mean", "std")))
        if weights:
            contents = read_weights(weights)
            data_config = contents.get("data_config", data_config)
            try:
                self.model.load_state_dict(contents["model"])
            except RuntimeError as error:
                raise ValueError(f"{weights} does not fit {name}: {error}") from error
        self.mean, self.std = (torch.tensor(values).view(-1, 1, 1) for values in (data_config.mean, data_config.std))
        self.records = records

    def run(self, record: dict) -> None:
        """Send an image through the model."""
        height, width = self.size
        picture = Image.fromarray(read_image(record["file_name"], "RGB")).resize((width, height), Image.BICUBIC)
        image = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        self.model.forward_features(((image - self.mean) / self.std)[None])

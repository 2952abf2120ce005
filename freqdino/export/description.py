"""What an exported file says about itself, beside its graph: enough to use it without the configuration."""
import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import Metadata

import freqdino
from freqdino.data.augmentation import InferenceInput
from freqdino.errors import ExportError
from freqdino.export.graph import WholeModel

KEY = "freqdino"        # of the file's metadata
# Of a data set's metadata, what drawings and result files need.
CLASS_KEYS = ("thing_classes", "stuff_classes", "thing_colors", "stuff_colors", "thing_dataset_id_to_contiguous_id",
              "stuff_dataset_id_to_contiguous_id", "ignore_label", "label_divisor")


@dataclass(frozen=True, kw_only=True)
class Description:
    """``version`` of FreqDINO; ``architecture`` and ``tasks`` of the model; names of the ``outputs``; ``image_format``,
    MIN_SIZE_TEST and MAX_SIZE_TEST by which pictures are brought to their size before; ``pixel_mean`` and ``pixel_std``
    in that format and ``size_divisibility``, which the graph sees to; its thresholds and numbers; ``classes``, of the
    data set's metadata; ``least_size``, ``input_size`` and ``batch_size``: the smallest side, and what is fixed, of
    the pictures.
    """

    version: str
    architecture: str
    tasks: tuple[str, ...]
    outputs: tuple[str, ...]
    image_format: str
    min_size_test: int
    max_size_test: int
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]
    size_divisibility: int
    object_mask_threshold: float | None
    overlap_threshold: float | None
    max_instances: int
    thing_classes: tuple[int, ...]
    classes: dict[str, Any]
    least_size: int
    input_size: tuple[int, int] | None
    batch_size: int | None

    @classmethod
    def of(cls, cfg: CfgNode, whole: WholeModel, metadata: Metadata, *, least_size: int,
           input_size: tuple[int, int] | None, batch_size: int | None) -> "Description":
        rules = None if whole.semantic_only else whole.model.post_processing
        return cls(version=freqdino.__version__, architecture=cfg.MODEL.META_ARCHITECTURE, tasks=whole.tasks,
                   outputs=whole.output_names, image_format=cfg.INPUT.FORMAT, min_size_test=cfg.INPUT.MIN_SIZE_TEST,
                   max_size_test=cfg.INPUT.MAX_SIZE_TEST, pixel_mean=tuple(cfg.MODEL.PIXEL_MEAN),
                   pixel_std=tuple(cfg.MODEL.PIXEL_STD), size_divisibility=whole.size_divisibility,
                   object_mask_threshold=rules and rules.object_mask_threshold,
                   overlap_threshold=rules and rules.overlap_threshold,
                   max_instances=rules.max_instances if rules else 0,
                   thing_classes=tuple(sorted(rules.thing_classes)) if rules else (),
                   classes={key: value for key, value in metadata.as_dict().items() if key in CLASS_KEYS},
                   least_size=least_size, input_size=input_size, batch_size=batch_size)

    @classmethod
    def from_json(cls, text: str | None, file: str) -> "Description":
        """Raises ExportError: there is none, or another version's."""
        if not text:
            raise ExportError(f"{file} says nothing about pictures and classes: it is not a file of tools/export.py")
        try:
            values = json.loads(text)
            for key, value in values.items():
                values[key] = tuple(value) if isinstance(value, list) else value
            classes = values["classes"]
            for key in classes:
                if key.endswith("_id_to_contiguous_id"):    # JSON makes text of numbers
                    classes[key] = {int(number): index for number, index in classes[key].items()}
            return cls(**values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ExportError(f"{file} was written by another version of FreqDINO, or changed: {error}. Export the "
                              "model anew.") from error

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @property
    def input(self) -> InferenceInput:
        """How pictures are brought to their size, as before the model itself."""
        return InferenceInput(image_format=self.image_format, min_size=self.min_size_test, max_size=self.max_size_test)

    @property
    def metadata(self) -> Metadata:
        return Metadata().set(**self.classes)

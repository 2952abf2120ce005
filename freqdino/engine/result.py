"""What a model predicts for one picture, to look at, to draw and to hand on.

Shape key: H, W: height and width of the picture, K: classes, N: instances.
"""
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from detectron2.data import Metadata
from detectron2.structures import Instances
from PIL import Image
from pycocotools import mask as mask_util
from torch import Tensor

from freqdino.data.segmentation import encode_rle
from freqdino.visualization.drawing import Drawing, choose_task, draw_prediction


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """The results of one picture, RGB uint8 (H, W, 3), as structures of Detectron2 on the CPU.

    ``output`` is what the model gave, {sem_seg, instances, panoptic_seg}; ``metadata`` has the names of its classes.
    """

    image: np.ndarray
    output: dict[str, Any]
    metadata: Metadata

    @cached_property
    def instances(self) -> Instances | None:
        """N instances, the best first: scores, pred_classes, pred_boxes (XYXY, in pixels) and, of models with masks,
        pred_masks bool (N, H, W). None where the model predicts none."""
        found = self.output.get("instances")
        return None if found is None else found[found.scores.argsort(descending=True, stable=True)].to("cpu")

    @cached_property
    def panoptic(self) -> tuple[Tensor, list[dict]] | None:
        """A map (H, W) of segment ids, 0 where nothing is, and the segments {id, isthing, category_id, score}, the
        best first; segments without a score, which Detectron2's PanopticFPN makes, last. None as above."""
        if "panoptic_seg" not in self.output:
            return None
        ids, segments = self.output["panoptic_seg"]
        return ids.cpu(), sorted(segments, key=lambda segment: -segment.get("score", 0))

    @cached_property
    def semantic(self) -> Tensor | None:
        """Scores (K, H, W) of the classes at each pixel. None as above."""
        scores = self.output.get("sem_seg")
        return None if scores is None else scores.cpu()

    def draw(self, *, threshold: float = 0.5, task: str | None = None, scale: float = 1.0) -> Image.Image:
        """The picture, ``scale`` times as large, with what is predicted for ``task``: panoptic, instance or semantic,
        None for the first of these that there is. Instances and segments below ``threshold`` are left out.

        Raises ValueError: the model does not predict ``task``.
        """
        drawing = Drawing(self.image, self.metadata, scale=scale)
        self.draw_into(drawing, threshold=threshold, task=task)
        return Image.fromarray(drawing.image)

    def draw_into(self, drawing: Drawing, *, threshold: float, task: str | None) -> str:
        """`draw` into a drawing of this picture; says how many instances, segments or classes are drawn."""
        return draw_prediction(drawing, self.output, choose_task(self.output, task), threshold=threshold)

    def to_coco(self, image_id: int | str = 0) -> list[dict]:
        """Entries of COCO's result files: {image_id, category_id, segmentation (compressed RLE), bbox [x, y, w, h],
        score}, with the data set's own category ids where the metadata has them.

        Of the instances; of a model without, of the panoptic segments; of one without either, an entry a class of the
        semantic map, as COCO-Stuff's, without box and score.
        """
        if self.instances is not None:
            entries = [{"category_id": self._category_id(category, "thing"), "score": score,
                        **({} if mask is None else {"segmentation": encode_rle(mask)}),
                        "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]]}
                       for category, score, box, mask in each_instance(self.instances)]
        elif self.panoptic is not None:
            ids, segments = self.panoptic
            entries = []
            for segment in segments:
                mask = encode_rle(ids.numpy() == segment["id"])
                entries.append({"category_id": self._category_id(segment["category_id"], kind_of(segment)),
                                "segmentation": mask, "bbox": mask_util.toBbox(mask).tolist(),
                                **({"score": segment["score"]} if "score" in segment else {})})
        elif self.semantic is not None:
            entries = [{"category_id": self._category_id(category, "stuff"), "segmentation": encode_rle(mask)}
                       for category, mask in each_region(self.semantic)]
        else:
            entries = []
        return [{"image_id": image_id, **entry} for entry in entries]

    def to_dict(self) -> dict[str, Any]:
        """All that is predicted, of types that JSON has: {height, width} and, where they are predicted,

        ``instances``: [{class, name, score, box [x0, y0, x1, y1], mask}], the best first;
        ``panoptic``: [{id, class, name, isthing, score, mask}]; ``semantic``: [{class, name, mask}] of the best class
        of each pixel. Masks are COCO's compressed RLE.
        """
        height, width = self.image.shape[:2]
        content: dict[str, Any] = {"height": height, "width": width}
        if self.instances is not None:
            content["instances"] = [
                {**self._named(category, "thing"), "score": score, "box": box,
                 **({} if mask is None else {"mask": encode_rle(mask)})}
                for category, score, box, mask in each_instance(self.instances)]
        if self.panoptic is not None:
            ids, segments = self.panoptic
            content["panoptic"] = [
                {"id": segment["id"], **self._named(segment["category_id"], kind_of(segment)),
                 "isthing": bool(segment["isthing"]), **({"score": segment["score"]} if "score" in segment else {}),
                 "mask": encode_rle(ids.numpy() == segment["id"])} for segment in segments]
        if self.semantic is not None:
            content["semantic"] = [{**self._named(category, "stuff"), "mask": encode_rle(mask)}
                                   for category, mask in each_region(self.semantic)]
        return content

    def class_name(self, category: int, kind: str) -> str:
        """The name of a class; its number where the metadata has none. ``kind``: thing or stuff."""
        known = self.metadata.get(f"{kind}_classes") or ()
        return known[category] if category < len(known) else str(category)

    def _named(self, category, kind):
        return {"class": category, "name": self.class_name(category, kind)}

    def _category_id(self, category, kind):
        known = self.metadata.get(f"{kind}_dataset_id_to_contiguous_id") or {}
        return {index: number for number, index in known.items()}.get(category, category)


def each_instance(found: Instances) -> Iterator[tuple[int, float, list[float], np.ndarray | None]]:
    """Class, score, box and, where there are masks, mask (H, W) of each."""
    masks = found.pred_masks.bool().numpy() if found.has("pred_masks") else [None] * len(found)
    yield from zip(found.pred_classes.tolist(), found.scores.tolist(), found.pred_boxes.tensor.tolist(), masks)


def each_region(scores: Tensor) -> Iterator[tuple[int, np.ndarray]]:
    """The classes that are the best of a pixel, each with the mask (H, W) of its pixels."""
    best = scores.argmax(dim=0).numpy()
    yield from ((int(category), best == category) for category in np.unique(best))


def kind_of(segment: dict) -> str:
    return "thing" if segment["isthing"] else "stuff"

"""What of a result is shown for a task and a threshold, as rows of a table and as files: the drawing's counterpart.

Shape key: H, W: height and width of the picture.
"""
import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from freqdino.data.segmentation import box_and_area
from freqdino.engine.result import Result, each_instance, each_region, kind_of
from freqdino.visualization.drawing import choose_task, instances_above, segments_above


@dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """An instance, a panoptic segment, or all pixels of a class.

    ``id``: of an instance its place in the result, from 1; of a segment the result's own id; of a class its index
    plus 1. ``box``: XYXY in pixels, of an instance what the model says, else round the mask. ``area`` in pixels, of
    the box where there is no ``mask`` (H, W), as of detectors without masks.
    """

    id: int
    category: int
    name: str
    score: float | None
    box: list[float]
    area: int
    mask: np.ndarray | None


def what_is_shown(result: Result, *, task: str, threshold: float) -> list[Shown]:
    """What `Result.draw` draws, the best first; of a semantic map the classes in their order, at any threshold.

    Raises ValueError: the model does not predict ``task``.
    """
    choose_task(result.output, task)
    if task == "instance" and result.instances is not None:
        found = each_instance(instances_above(result.instances, threshold))
        return [Shown(id=place, category=category, name=result.class_name(category, "thing"), score=score, box=box,
                      area=box_area(box) if mask is None else int(mask.sum()), mask=mask)
                for place, (category, score, box, mask) in enumerate(found, start=1)]
    if task == "panoptic" and result.panoptic is not None:
        ids, segments = result.panoptic
        return [of_region(result, segment["id"], segment["category_id"], kind_of(segment), segment.get("score"),
                          ids.numpy() == segment["id"]) for segment in segments_above(segments, threshold)]
    regions = [] if result.semantic is None else each_region(result.semantic)
    return [of_region(result, category + 1, category, "stuff", None, mask) for category, mask in regions]


def of_region(result: Result, number: int, category: int, kind: str, score: float | None, mask: np.ndarray) -> Shown:
    measured = box_and_area(mask)
    x, y, width, height = measured["bbox"]
    return Shown(id=number, category=category, name=result.class_name(category, kind), score=score,
                 box=[x, y, x + width, y + height], area=measured["area"], mask=mask)


def box_area(box: Sequence[float]) -> int:
    return round((box[2] - box[0]) * (box[3] - box[1]))


def id_map(shown: Sequence[Shown], size: tuple[int, int]) -> np.ndarray:
    """The ids at each pixel, uint16 (H, W), 0 where nothing is shown; where instances overlap, that of the best."""
    ids = np.zeros(size, np.uint16)
    for one in reversed(shown):
        if one.mask is not None:
            ids[one.mask] = one.id
    return ids


def packed(result: Result, shown: Sequence[Shown], *, task: str, threshold: float, document: str) -> bytes:
    """A ZIP archive of ``result.json``, which is ``document`` (`Result.to_dict` as JSON, everything that is
    predicted), ``shown.json``, {task, threshold, shown: [{id, class, name, score, box, area}]}, and, unless the model
    predicts boxes alone, ``masks.png``, the `id_map` in 16 bits.
    """
    listed = [{"id": one.id, "class": one.category, "name": one.name, "score": one.score, "box": one.box,
               "area": one.area} for one in shown]
    contents = io.BytesIO()
    with zipfile.ZipFile(contents, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("result.json", document)
        archive.writestr("shown.json", json.dumps({"task": task, "threshold": threshold, "shown": listed}))
        if all(one.mask is not None for one in shown):
            picture = io.BytesIO()
            Image.fromarray(id_map(shown, result.image.shape[:2])).save(picture, "PNG")
            archive.writestr("masks.png", picture.getvalue())
    return contents.getvalue()

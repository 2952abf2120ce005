"""Drawing of results, ground truth and training targets into pictures, one way for all tools.

A class has the data set's colour, or one of our table where the data set has none. The first object of a class has that
colour, each further one a hue of its own, the same ones every time. Where a data set has no names, the class index
stands.
Shape key: H, W: height and width of the picture, N: objects.
"""
import colorsys
from collections import Counter
from collections.abc import Sequence

import numpy as np
from detectron2.data import Metadata
from detectron2.structures import BoxMode, Instances
from detectron2.utils.visualizer import Visualizer

from freqdino.data.categories import class_colors
from freqdino.data.image_reading import read_label_map
from freqdino.data.panoptic_png import read_segment_ids

OUTPUT_KEYS = {"panoptic": "panoptic_seg", "instance": "instances", "semantic": "sem_seg"}  # the richest first
GROUND_TRUTH_KEYS = {"panoptic": "pan_seg_file_name", "instance": "annotations", "box": "annotations",
                     "semantic": "sem_seg_file_name"}
OBJECT_OPACITY, REGION_OPACITY = 0.5, 0.6
WHITE = 255
# Of the objects of a class after the first: hues a golden ratio apart never come near one that was there just before.
HUE_STEP = 0.6180339887498949
LEAST_SATURATION, LEAST_BRIGHTNESS = 0.75, 0.8      # hues of grey and of black could not be told apart


def choose_task(output: dict, task: str | None) -> str:
    """``task`` if the model predicts it, the richest that it predicts for None; ValueError otherwise."""
    predicted = predicted_tasks(output)
    if task is None and predicted:
        return predicted[0]
    if task not in predicted:
        raise ValueError(f"the task {task or 'panoptic, instance or semantic'}: the model predicts {predicted}; its "
                         "TEST options PANOPTIC_ON, INSTANCE_ON and SEMANTIC_ON choose what")
    return task


def predicted_tasks(output: dict) -> list[str]:
    """The tasks that a model's output for a picture is of, the richest first."""
    return [name for name, key in OUTPUT_KEYS.items() if key in output]


def instances_above(instances: Instances, threshold: float) -> Instances:
    """Those that a drawing shows."""
    return instances[instances.scores >= threshold]


def segments_above(segments: Sequence[dict], threshold: float) -> list[dict]:
    """Those that a drawing shows; segments without score (of Detectron2's PanopticFPN, those of stuff) always."""
    return [segment for segment in segments if segment.get("score", 1) >= threshold]


class Drawing:
    """A picture, RGB uint8 (H, W, 3), into which classes of ``metadata`` are drawn, ``scale`` times as large."""

    def __init__(self, image: np.ndarray, metadata: Metadata, *, scale: float = 1.0):
        self._visualizer = Visualizer(image, metadata, scale)
        self._metadata = metadata

    @property
    def image(self) -> np.ndarray:
        """What is drawn so far, RGB uint8."""
        self._move_labels_inside()
        return self._visualizer.output.get_image()

    def _move_labels_inside(self) -> None:
        """Labels stand at their objects' middles: near an edge the picture would cut them off. One that is wider than
        the picture begins at its left edge."""
        axes, canvas = self._visualizer.output.ax, self._visualizer.output.canvas
        renderer, picture = canvas.get_renderer(), axes.get_window_extent()
        for text in axes.texts:
            text.update_bbox_position_size(renderer)
            label = text.get_bbox_patch().get_window_extent(renderer)
            right = max(picture.x0 - label.x0, min(picture.x1 - label.x1, 0))
            up = max(picture.y0 - label.y0, min(picture.y1 - label.y1, 0))
            place = axes.transData.transform(text.get_position()) + (right, up)
            text.set_position(axes.transData.inverted().transform(place))

    def draw_objects(self, classes: Sequence[int], *, masks: Sequence | None = None, boxes: np.ndarray | None = None,
                     scores: Sequence[float] | None = None, kind: str = "thing") -> None:
        """N objects: masks (H, W) bool, polygons or RLE, or boxes (N, 4) XYXY, or both.

        ``kind`` "thing" or "stuff" tells which of the metadata's class lists the indices belong to.
        """
        seen, colors = Counter(), []
        for category in classes:
            colors.append(object_color(self._color(category, kind), seen[category]))
            seen[category] += 1
        self._visualizer.overlay_instances(masks=masks, boxes=boxes, labels=self._labels(classes, scores, kind),
                                           assigned_colors=colors, alpha=OBJECT_OPACITY)

    def draw_regions(self, classes: Sequence[int], masks: Sequence[np.ndarray],
                     scores: Sequence[float] | None = None) -> None:
        """Stuff, or the classes of a semantic map: masks (H, W) bool, the larger ones first."""
        labels = self._labels(classes, scores, "stuff")
        for index in sorted(range(len(masks)), key=lambda i: -masks[i].sum()):
            self._visualizer.draw_binary_mask(masks[index].astype(np.uint8), color=self._color(classes[index], "stuff"),
                                              text=labels[index], alpha=REGION_OPACITY)

    def draw_label_map(self, labels: np.ndarray) -> int:
        """A class index for each pixel (H, W), the metadata's ignore_label left out; returns the number of classes."""
        classes = [int(label) for label in np.unique(labels) if label != self._metadata.get("ignore_label")]
        self.draw_regions(classes, [labels == category for category in classes])
        return len(classes)

    def draw_segments(self, ids: np.ndarray, segments: Sequence[dict]) -> None:
        """Panoptic segments {id, isthing, category_id, score where there is one} of the map (H, W)."""
        for isthing, draw in ((False, self.draw_regions), (True, self.draw_objects)):
            chosen = [segment for segment in segments if segment["isthing"] == isthing]
            if chosen:
                scored = all("score" in segment for segment in chosen)
                draw([segment["category_id"] for segment in chosen], masks=[ids == segment["id"] for segment in chosen],
                     scores=[segment["score"] for segment in chosen] if scored else None)

    def _labels(self, classes, scores, kind):
        known = self._metadata.get(f"{kind}_classes") or ()
        names = [known[category] if category < len(known) else str(category) for category in classes]
        return names if scores is None else [f"{name} {score:.0%}" for name, score in zip(names, scores)]

    def _color(self, category, kind):
        """RGB in 0..1."""
        known = self._metadata.get(f"{kind}_colors") or ()
        return np.array(known[category] if category < len(known) else class_colors(category + 1)[-1]) / 255


def object_color(class_color: np.ndarray, number: int) -> np.ndarray:
    """RGB in 0..1 of the object of a class that has this number, counted from 0."""
    if number == 0:
        return class_color
    hue, saturation, brightness = colorsys.rgb_to_hsv(*class_color)
    return np.array(colorsys.hsv_to_rgb((hue + number * HUE_STEP) % 1, max(saturation, LEAST_SATURATION),
                                        max(brightness, LEAST_BRIGHTNESS)))


def draw_prediction(drawing: Drawing, output: dict, task: str, *, threshold: float) -> str:
    """Draw what a model predicts for the task, objects and segments of a lower score left out; says how much it is.

    A semantic map has no threshold.
    """
    result = output[OUTPUT_KEYS[task]]
    if task == "semantic":
        return f"{drawing.draw_label_map(result.argmax(dim=0).cpu().numpy())} classes"
    if task == "instance":
        shown = instances_above(result, threshold).to("cpu")
        drawing.draw_objects(shown.pred_classes.tolist(), boxes=shown.pred_boxes.tensor.numpy(),
                             masks=list(shown.pred_masks.bool().numpy()) if shown.has("pred_masks") else None,
                             scores=shown.scores.tolist())
        return f"{len(shown)} instances"
    ids, segments = result
    shown = segments_above(segments, threshold)
    drawing.draw_segments(ids.cpu().numpy(), shown)
    return f"{len(shown)} segments"


def draw_ground_truth(drawing: Drawing, record: dict, task: str, metadata: Metadata) -> None:
    """Draw a dataset record's annotations of the task, or the boxes alone for "box"; ValueError if it has none."""
    truth = record.get(GROUND_TRUTH_KEYS[task])
    if truth is None:
        raise ValueError(f"{record['file_name']} has no {task} ground truth ({GROUND_TRUTH_KEYS[task]!r})")
    if task == "semantic":
        drawing.draw_label_map(read_label_map(truth))
    elif task == "panoptic":
        things = set(metadata.thing_dataset_id_to_contiguous_id.values())
        drawing.draw_segments(read_segment_ids(truth), [
            {"isthing": segment["category_id"] in things, **segment} for segment in record["segments_info"]])
    else:
        boxes, masks = None, None
        if task == "box" or any("segmentation" not in annotation for annotation in truth):
            boxes = np.array([BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
                              for annotation in truth]).reshape(-1, 4)
        else:
            masks = [annotation["segmentation"] for annotation in truth]
        drawing.draw_objects([annotation["category_id"] for annotation in truth], masks=masks, boxes=boxes)


def draw_targets(drawing: Drawing, instances: Instances, kind: str) -> None:
    """Draw training targets: gt_classes, gt_boxes and, where there are, gt_masks; ``kind`` as in `draw_objects`."""
    masks = list(instances.gt_masks.tensor.numpy()) if instances.has("gt_masks") else None
    drawing.draw_objects(instances.gt_classes.tolist(), boxes=instances.gt_boxes.tensor.numpy(), masks=masks, kind=kind)


def side_by_side(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures (h, w, 3) in a row, white below the lower ones."""
    height = max(picture.shape[0] for picture in pictures)
    return np.concatenate([np.pad(picture, ((0, height - picture.shape[0]), (0, 0), (0, 0)), constant_values=WHITE)
                           for picture in pictures], axis=1)

"""How a model is called in evaluation: pictures in groups of one size, or a picture in windows that slide over it.

Source of the windows: what OpenMMLab calls a sliding test, with which its recipes of UPerNet (arXiv 1807.10221),
SegFormer (arXiv 2105.15203) and SegNeXt (arXiv 2209.08575) evaluate: windows of the training crop, moved by a stride,
scores averaged where they overlap.
K: classes, (H, W): size of a picture as the model gets it, (h, w): size of a window.
"""
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch.nn.functional as F
from torch import Tensor

from freqdino.errors import ArgumentError

Predict = Callable[[Sequence[dict]], list[dict]]    # inputs of Detectron2's contract -> a dictionary of results each
WINDOWS_AT_ONCE = 4     # windows of one picture that run as a batch: fewer pixels than a training step has


@dataclass(frozen=True, kw_only=True)
class SlidingWindow:
    """Windows of ``size``, ``stride`` apart, (height, width) each in pixels of the model's input.

    Raises ValueError for a side below 1 and for a stride beyond the window, which would leave pixels without a score.
    """

    size: tuple[int, int]
    stride: tuple[int, int]

    def __post_init__(self):
        for name in ("size", "stride"):
            if min(getattr(self, name)) < 1:
                raise ArgumentError(name, f"must be at least 1 in height and width, got {getattr(self, name)}")
        if self.stride[0] > self.size[0] or self.stride[1] > self.size[1]:
            raise ArgumentError("stride", f"{self.stride} exceeds size {self.size}: pixels between two windows would "
                                "have no prediction; a stride is at most the window's side, commonly two thirds of it")

    def places(self, height: int, width: int) -> list[tuple[slice, slice]]:
        """Rows and columns of each window of a picture. The last window of a row or column ends at the border; a
        picture that is narrower or lower than a window has windows of its own width or height.
        """
        rows, columns = (_intervals(*sides) for sides in zip((height, width), self.size, self.stride))
        return list(product(rows, columns))


def _intervals(length, size, stride):
    if length <= size:
        return [slice(0, length)]
    return [slice(start, start + size) for start in (*range(0, length - size, stride), length - size)]


@dataclass(frozen=True, kw_only=True)
class Inference:
    """``group_by_size``: only pictures of one padded size run together, so that none sees the padding that another one
    asks for. ``window``: semantic maps come from windows; then every picture runs by itself.
    """

    group_by_size: bool = True
    window: SlidingWindow | None = None

    def __call__(self, predict: Predict, batched_inputs: Sequence[dict], size_divisibility: int) -> list[dict]:
        """The results of ``predict``, which pads to multiples of ``size_divisibility``, in the order of the inputs."""
        if self.window is not None:
            return [predict_in_windows(predict, example, self.window) for example in batched_inputs]
        if self.group_by_size:
            return predict_by_size(predict, batched_inputs, size_divisibility)
        return predict(batched_inputs)


def predict_by_size(predict: Predict, batched_inputs: Sequence[dict], size_divisibility: int) -> list[dict]:
    """What ``predict`` gives for each picture, called once for all those that become equally large by padding."""
    groups = defaultdict(list)
    for index, example in enumerate(batched_inputs):
        groups[padded_size(example["image"], size_divisibility)].append(index)
    if len(groups) <= 1:
        return predict(batched_inputs)
    results = {}
    for indices in groups.values():
        results.update(zip(indices, predict([batched_inputs[index] for index in indices]), strict=True))
    return [results[index] for index in range(len(batched_inputs))]


def padded_size(image: Tensor, size_divisibility: int) -> tuple[int, int]:
    """Height and width of a picture (3, H, W), each the next multiple of the divisibility; 0 and 1 leave them."""
    step = max(size_divisibility, 1)
    height, width = image.shape[-2:]
    return -(-height // step) * step, -(-width // step) * step


def predict_in_windows(predict: Predict, example: dict, window: SlidingWindow) -> dict:
    """{"sem_seg"}: scores (K, height, width) of the size that ``example`` asks for, or of its image (3, H, W).

    Scores are averaged over the windows that see a pixel, before they are brought to the size of the result. Only their
    sum is kept: the windows' own maps live for a batch of WINDOWS_AT_ONCE.
    """
    image = example["image"]
    height, width = image.shape[-2:]
    total = counts = None
    places = window.places(height, width)
    for start in range(0, len(places), WINDOWS_AT_ONCE):
        together = places[start:start + WINDOWS_AT_ONCE]
        results = predict([{"image": image[:, rows, columns]} for rows, columns in together])
        for (rows, columns), result in zip(together, results, strict=True):
            scores = result["sem_seg"]
            if total is None:
                total = scores.new_zeros(len(scores), height, width)
                counts = scores.new_zeros(height, width)
            total[:, rows, columns] += scores
            counts[rows, columns] += 1
    total /= counts
    output = (example.get("height", height), example.get("width", width))
    if output != (height, width):
        total = F.interpolate(total[None], size=output, mode="bilinear", align_corners=False)[0]
    return {"sem_seg": total}

"""An exported file held against its model: the same pictures through both, every output compared.

What the network gives is compared with the model's own; what the graph makes of it, with what the model's own
post-processing makes of the same logits and masks, so that no threshold can turn a rounding into another result. Where
Mask DINO takes other tokens of the encoder, which it may where their scores are equal but for rounding, the model is
made to take the same.

Shape key: B: batch, (H, W): size of the pictures, (H', W'): size of the results, Q: queries, K: classes.
"""
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from freqdino.errors import ExportError
from freqdino.export.graph import BOXES, LOGITS, MASKS, TOKENS, WholeModel, recorded_tokens
from freqdino.export.runtime import ExportedModel
from freqdino.layers.boxes import masks_to_boxes
from freqdino.modeling.inference import padded_size
from freqdino.modeling.post_processing import Geometry, mask_quality, panoptic_segments

TOLERANCE = 1e-3        # of scores, and of logits relative to the largest, at least 1
TIE = 1e-4              # scores that lie closer may come in either order
RUNS = 3


@dataclass
class Comparison:
    """Largest difference by output; how many tokens the model took otherwise by itself; median seconds of both."""

    differences: dict[str, float] = field(default_factory=dict)
    other_tokens: int = 0
    seconds: tuple[float, float] = (0.0, 0.0)

    def compare(self, name: str, found: Tensor, expected: Tensor, *, scale: float = 1.0,
                where: Tensor | None = None) -> None:
        """Note the largest difference; ExportError if there is a larger one than the tolerance times ``scale``.

        ``where``: the elements that count.
        """
        if found.shape != expected.shape:
            raise ExportError(f"the output {name} has shape {tuple(found.shape)}, the model's {tuple(expected.shape)}")
        apart = (found.double() - expected.double()).abs()
        if where is not None:
            apart = apart[where]
        # NaN is larger than everything: an output that is none must not pass.
        largest = float(apart.nan_to_num(nan=float("inf")).max()) if apart.numel() else 0.0
        if largest > TOLERANCE * scale:
            raise ExportError(f"the output {name} differs from the model's by {largest:.3g}, more than "
                              f"{TOLERANCE * scale:.3g}")
        self.differences[name] = max(largest, self.differences.get(name, 0.0))


def verify(whole: WholeModel, exported: ExportedModel, sizes: Sequence[tuple[int, int, int]]) -> Comparison:
    """Compare on smooth random pictures (B, H, W) of these ``sizes``, with results of their size and of others.

    Raises ExportError that names the first output that differs, and by how much.
    """
    comparison = Comparison()
    for number, (batch, height, width) in enumerate(sizes):
        image = smooth_pictures(batch, height, width, seed=number)
        output = [(height, width), (height // 2 + 3, 2 * width - 1), (height + 9, width // 2 + 2)][number % 3]
        found = exported.run(image, torch.tensor(output), exported.description.outputs)
        with torch.no_grad():
            _compare(comparison, whole, image, output, found)
    comparison.seconds = (_median_seconds(lambda: _model_results(whole, image, output)),
                          _median_seconds(lambda: exported.run(image, torch.tensor(output), exported.results)))
    return comparison


def smooth_pictures(batch: int, height: int, width: int, *, seed: int) -> Tensor:
    """Random blotches with some grain, uint8 (B, 3, H, W): nearer to photographs than noise of pixels is."""
    draw = np.random.default_rng(seed)
    coarse = torch.from_numpy(draw.uniform(0, 255, (batch, 3, 7, 5)).astype(np.float32))
    blotches = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
    grain = torch.from_numpy(draw.uniform(-25, 25, (batch, 3, height, width)).astype(np.float32))
    return (blotches + grain).clamp(0, 255).to(torch.uint8)


def _median_seconds(call):
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _model_results(whole, image, output):
    """What the model itself gives, by Detectron2's contract."""
    image = image.flip(1) if whole.reverse_channels else image
    with torch.no_grad():
        return whole.model([{"image": picture, "height": output[0], "width": output[1]} for picture in image])


@contextmanager
def _head_outputs(whole) -> Iterator[list]:
    """What the head gives in the block."""
    outputs: list = []
    hook = whole.model.sem_seg_head.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    try:
        yield outputs
    finally:
        hook.remove()


def _compare(comparison, whole, image, output, found):
    tokens = found.get(TOKENS)
    with _head_outputs(whole) as heads, recorded_tokens(whole.model, forced=tokens) as recorded:
        results = _model_results(whole, image, output)
    if whole.semantic_only:
        logits = heads[0][0]
        comparison.compare(LOGITS, found[LOGITS], logits, scale=_scale(logits))
        _compare_semantic(comparison, found, torch.stack([result["sem_seg"] for result in results]))
        return
    if tokens is not None:
        comparison.other_tokens += _other_tokens(recorded[0][0], tokens)
    last = heads[0].last
    comparison.compare(LOGITS, found[LOGITS], last.logits, scale=_scale(last.logits))
    comparison.compare(MASKS, found[MASKS], last.masks, scale=_scale(last.masks))
    if last.boxes is not None:
        comparison.compare(BOXES, found[BOXES], last.boxes)
    geometry = Geometry(padded=padded_size(image, whole.size_divisibility), image=tuple(image.shape[-2:]),
                        output=output)
    for number in range(len(image)):
        _compare_results(comparison, whole.model.post_processing,
                         {name: value[number] for name, value in found.items()}, geometry)


def _scale(expected):
    return max(1.0, float(expected.abs().max()))


def _other_tokens(scores, tokens):
    """How many of the ``tokens`` (B, Q) are not among the best of the ``scores`` (B, T); ExportError where that is no
    tie."""
    number = tokens.shape[1]
    best, chosen = scores.topk(number, dim=1)
    last = best[:, -1:].double()
    taken = torch.zeros_like(scores, dtype=torch.bool).scatter(1, tokens, True)
    if (taken.sum(dim=1) != number).any():
        raise ExportError(f"the output {TOKENS} names a token twice")
    wrong = (taken & (scores < last - TIE)) | (~taken & (scores > last + TIE))
    if wrong.any():
        apart = float((scores.double() - last).abs()[wrong].max())
        raise ExportError(f"the output {TOKENS} differs from the model's: scores {apart:.3g} apart")
    return number * len(tokens) - int(taken.gather(1, chosen).sum())


def _compare_semantic(comparison, found, scores):
    """scores (B, K, H', W')."""
    comparison.compare("semantic_scores", found["semantic_scores"], scores, scale=_scale(scores))
    clear = None
    if scores.shape[1] > 1:
        best, second = scores.topk(2, dim=1).values.unbind(1)
        clear = best - second > TOLERANCE * _scale(scores)
    comparison.compare("semantic_classes", found["semantic_classes"], scores.argmax(dim=1), scale=0, where=clear)


def _compare_results(comparison, rules, found, geometry):
    """One picture: what the graph makes of its own logits and masks against what the model's rules make of these."""
    logits, masks = found[LOGITS].float(), found[MASKS].float()
    results = rules(logits, masks, geometry, found.get(BOXES))
    if rules.semantic:
        own = {name: found[name][None] for name in ("semantic_scores", "semantic_classes")}
        _compare_semantic(comparison, own, results["sem_seg"][None])
    resized = geometry.resize(masks)
    if rules.instance:
        _compare_instances(comparison, rules, found, logits, resized, geometry)
    if rules.panoptic:
        _compare_panoptic(comparison, rules, found, logits, resized)


def _compare_instances(comparison, rules, found, logits, resized, geometry):
    class_scores = rules.scores.instance(logits)
    classes, queries = found["instance_classes"], found["instance_queries"]
    number = min(rules.max_instances, class_scores.numel())
    last = class_scores.flatten().topk(number).values[-1]
    chosen = torch.zeros_like(class_scores, dtype=torch.bool)
    chosen[queries, classes] = True
    if int(chosen.sum()) != number or (chosen & (class_scores < last - TIE)).any() or (
            ~chosen & (class_scores > last + TIE)).any():
        raise ExportError("the outputs instance_classes and instance_queries are not the pairs of the best scores")
    things = torch.tensor([not rules.panoptic or category in rules.thing_classes for category in classes.tolist()])
    comparison.compare("instance_valid", found["instance_valid"], things, scale=0)
    quality = mask_quality(resized)[queries] if rules.rescore_by_mask else 1.0
    comparison.compare("instance_scores", found["instance_scores"], class_scores[queries, classes] * quality)
    clear = resized[queries].abs() > TOLERANCE * _scale(resized)
    comparison.compare("instance_masks", found["instance_masks"], resized[queries] > 0, scale=0, where=clear)
    boxes = (masks_to_boxes(found["instance_masks"]) if BOXES not in found
             else geometry.boxes_in_output(found[BOXES][queries].float()))
    comparison.compare("instance_boxes", found["instance_boxes"], boxes, scale=max(geometry.output))


def _compare_panoptic(comparison, rules, found, logits, resized):
    scores, classes, kept = rules.scores.panoptic(logits, rules.object_mask_threshold)
    ids, segments = panoptic_segments(scores[kept], classes[kept], resized[kept], thing_classes=rules.thing_classes,
                                      overlap_threshold=rules.overlap_threshold)
    listed = found["segment_valid"]
    for name, key in (("segment_ids", "id"), ("segment_classes", "category_id"), ("segment_is_thing", "isthing")):
        comparison.compare(name, found[name][listed], torch.tensor([segment[key] for segment in segments]), scale=0)
    comparison.compare("segment_scores", found["segment_scores"][listed],
                       torch.tensor([segment["score"] for segment in segments]))
    clear = None
    if kept.any():
        weighted = scores[kept][:, None, None] * resized[kept].sigmoid()
        best = weighted.topk(min(2, len(weighted)), dim=0)
        apart = best.values[0] - best.values[1] if len(weighted) > 1 else torch.ones_like(best.values[0])
        owner = resized[kept].gather(0, best.indices[:1])[0]
        clear = (apart > TIE) & (owner.abs() > TOLERANCE * _scale(resized))
    comparison.compare("panoptic_ids", found["panoptic_ids"], ids, scale=0, where=clear)

"""Builds models from configurations and measures them in evaluation: parameters, FLOPs, activations, time, memory.

The weights are random and the images noise. What a model finds in them matters to R-CNN detectors, whose later stages
run on what the earlier ones found: a few of their layers are set so that they find as much as they may.
"""
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.modeling.proposal_generator.rpn import StandardRPNHead
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from torch import nn

from freqdino.analysis.benchmarks.measure import MIB, allocation_peak
from freqdino.analysis.costs.flop_counting import counting
from freqdino.analysis.costs.parts import REST, PartClock, split_into_parts
from freqdino.data import register_custom_datasets
from freqdino.registration.compilation import uncompiled

TOTAL = "total"
REPEATS = 3
LIKELY_LOGIT = 10.0


@dataclass
class Analysis:
    """figures: quantity -> part -> number, the last parts being REST and TOTAL; uncounted: operator -> calls, of those
    that have no rule."""
    figures: dict[str, dict[str, float]]
    uncounted: Counter


def build(cfg: CfgNode) -> nn.Module:
    """The configuration's model with random weights, the same every time, in evaluation mode."""
    register_custom_datasets((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
    torch.manual_seed(0)
    model = build_model(uncompiled(cfg)).eval()     # whose operators are counted
    for module in model.modules():
        if isinstance(module, StandardRPNHead):
            settle(module.anchor_deltas)            # the proposals are anchors
        elif isinstance(module, FastRCNNOutputLayers):
            settle(module.bbox_pred)                # the objects are proposals,
            settle(module.cls_score)
            module.cls_score.bias.data[0] = LIKELY_LOGIT    # all of the first class
    return model


def settle(layer: nn.Module):
    """Set a layer's output to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def noise(batch: int, height: int, width: int) -> list[dict]:
    """``batch`` images of one size in Detectron2's input format."""
    torch.manual_seed(0)
    return [{"image": torch.randint(0, 256, (3, height, width), dtype=torch.uint8), "height": height, "width": width}
            for _ in range(batch)]


@torch.no_grad()
def analyze(models: Sequence[nn.Module], images: list[dict], *, timed: bool) -> list[Analysis]:
    """Measure models side by side on the same images. Timed runs take turns, so that the machine's load meets all.

    Time is the median of REPEATS runs after one that counts; the peak is what one run allocates beyond what there was.
    """
    analyses = [count(model, images) for model in models]
    if timed:
        runs = [[time_parts(model, images) for model in models] for _ in range(REPEATS)]
        for model, analysis, model_runs in zip(models, analyses, zip(*runs)):
            analysis.figures["time ms"] = {part: 1e3 * statistics.median(run[part] for run in model_runs)
                                           for part in model_runs[0]}
            analysis.figures["peak MiB"] = {TOTAL: allocation_peak(lambda: model(images), device_of(model)) / MIB}
    return analyses


def count(model: nn.Module, images: list[dict]) -> Analysis:
    """Everything that does not depend on the machine."""
    parts = split_into_parts(model)
    with PartClock(parts, device_of(model)) as clock, counting(clock.current_part) as counts:
        model(images)
    everything = set(model.parameters())
    in_parts = {name: set(module.parameters()) for name, module in parts.items()}
    in_parts[REST] = everything.difference(*in_parts.values())
    in_parts[TOTAL] = everything
    figures = {
        "parameters": {name: size(parameters) for name, parameters in in_parts.items()},
        "trainable": {name: size(parameter for parameter in parameters if parameter.requires_grad)
                      for name, parameters in in_parts.items()},
        "GFLOPs": {name: counts.flops[name] / 1e9 for name in (*parts, REST)},
        "M activations": {name: counts.activations[name] / 1e6 for name in (*parts, REST)},
    }
    figures["GFLOPs"][TOTAL] = counts.flops.total() / 1e9
    figures["M activations"][TOTAL] = counts.activations.total() / 1e6
    return Analysis(figures, counts.uncounted)


def time_parts(model: nn.Module, images: list[dict]) -> dict[str, float]:
    """Seconds of one run by part, REST and TOTAL."""
    with PartClock(split_into_parts(model), device_of(model)) as clock:
        model(images)
    return {**clock.seconds, TOTAL: sum(clock.seconds.values())}


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def size(parameters) -> int:
    return sum(parameter.numel() for parameter in parameters)

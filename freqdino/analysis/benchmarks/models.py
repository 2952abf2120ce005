"""Whole models against Detectron2's R50 backbone: evaluation and training step at 512 × 512, batch 1, 8 objects.

The backbone's forward pass is the calibrator: the published code's times are known from another day, on which that pass
took 0.20 s, so they are compared as multiples of it. A training step is forward and backward, without the optimiser.
Then Mask2Former with FreqFusion in the pixel decoder against Mask2Former without, and Mask2Former on a Swin
Transformer with our linear layers in it against torch's.
"""
import copy
from collections.abc import Callable, Iterator

import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch import nn

from freqdino.analysis.benchmarks.measure import Case
from freqdino.config import load_config
from freqdino.layers.linear import Linear, swap_linear

SIZE, OBJECTS = 512, 8
CALIBRATOR_SECONDS = 0.20
# Leaf: the published code's seconds for evaluation and training step on 2 CPU threads, and the share to stay below.
PUBLISHED = {"mask2former_r50": (1.44, 3.55, 0.6), "maskdino_r50_3s": (1.74, 6.95, 0.5),
             "maskdino_r50_4s": (6.91, 27.17, 0.4)}
FREQFUSION_TIME = 1.15      # of the model without it: the project's budget


def cases(device: torch.device) -> Iterator[Case]:
    pixels = torch.randn(1, 3, SIZE, SIZE, device=device)
    for leaf, (evaluation_seconds, step_seconds, share) in PUBLISHED.items():
        model = build(f"instance/{leaf}", device)

        def backbone():
            with torch.no_grad():
                model.eval().backbone(pixels)

        for kind, run, seconds in (("evaluation", evaluation(model), evaluation_seconds),
                                   ("training step", training_step(model), step_seconds)):
            published = CALIBRATOR_SECONDS / seconds
            yield Case(f"{leaf}, {kind}", {"R50 forward": backbone, "model": run}, "R50 forward",
                       f"≥ {published / share:.3f} × (published {published:.3f})")
    leaf = "mask2former_r50"
    plain, fused = (evaluation(build(f"panoptic/{leaf}{suffix}", device)) for suffix in ("", "_freqfusion"))
    yield Case(f"{leaf}, evaluation", {"upsample and add": plain, "FreqFusion": fused}, "upsample and add",
               f"≥ {1 / FREQFUSION_TIME:.2f} × faster: at most {FREQFUSION_TIME - 1:.0%} more time")
    ours = build("instance/mask2former_swin_t", device)
    plain = copy.deepcopy(ours)
    swap_linear(plain.backbone, Linear, nn.Linear)
    for kind, make in (("evaluation", evaluation), ("training step", training_step)):
        yield Case(f"mask2former_swin_t, {kind}", {"torch's linear layers": make(plain), "ours": make(ours)},
                   "torch's linear layers", "≥ 1.1 × faster on the CPU")


def build(leaf: str, device: torch.device) -> nn.Module:
    return build_model(load_config(f"coco/{leaf}.yaml", ["MODEL.WEIGHTS", "", "MODEL.DEVICE", str(device)]))


def evaluation(model: nn.Module) -> Callable[[], object]:
    image = random_image()

    def run():
        with torch.no_grad():
            model.eval()([{"image": image}])
    return run


def training_step(model: nn.Module) -> Callable[[], object]:
    example = {"image": random_image(), "instances": objects()}

    def run():
        model.zero_grad()
        sum(model.train()([example]).values()).backward()
    return run


def random_image() -> torch.Tensor:
    return torch.randint(0, 256, (3, SIZE, SIZE), dtype=torch.uint8)


def objects() -> Instances:
    """Overlapping rectangles of one class each."""
    instances = Instances((SIZE, SIZE))
    instances.gt_masks = torch.zeros(OBJECTS, SIZE, SIZE, dtype=torch.bool)
    corners = [(40 * i, 50 * i, 40 * i + 150, 50 * i + 120) for i in range(OBJECTS)]
    for mask, (x0, y0, x1, y1) in zip(instances.gt_masks, corners):
        mask[y0:y1, x0:x1] = True
    instances.gt_boxes = Boxes(torch.tensor(corners, dtype=torch.float32))
    instances.gt_classes = torch.arange(OBJECTS)
    return instances

"""One iteration of training at 512 × 512, batch 2, under what saves memory: SOLVER.ACCUMULATE, checkpointing, freezing.

The peak is what an iteration allocates beyond weights, gradients and the optimiser's state: above all activations.
"""
import itertools
from collections.abc import Callable, Iterator

import torch
from detectron2.utils.events import EventStorage

from freqdino.analysis.benchmarks.measure import Case
from freqdino.analysis.benchmarks.models import objects, random_image
from freqdino.config import load_config
from freqdino.engine.accumulation import AccumulatingTrainer
from freqdino.engine.solver import build_optimizer
from freqdino.engine.trainer import Trainer

LEAVES = ("mask2former_r50", "mask2former_swin_t", "maskdino_r50_3s")
CHECKPOINTING = ("SOLVER.ACTIVATION_CHECKPOINTING", True)
VARIANTS = {"as it is": (), "SOLVER.ACCUMULATE 2": ("SOLVER.ACCUMULATE", 2),
            "SOLVER.ACTIVATION_CHECKPOINTING True": CHECKPOINTING, "both": ("SOLVER.ACCUMULATE", 2, *CHECKPOINTING),
            "both, MODEL.BACKBONE.FREEZE_AT 5": ("SOLVER.ACCUMULATE", 2, *CHECKPOINTING, "MODEL.BACKBONE.FREEZE_AT", 5)}


def cases(device: torch.device) -> Iterator[Case]:
    batch = [{"image": random_image(), "instances": objects()} for _ in range(2)]
    for leaf in LEAVES:
        yield Case(f"{leaf}, iteration", {name: iteration(leaf, options, batch, device)
                                          for name, options in VARIANTS.items()}, "as it is")


def iteration(leaf: str, options: tuple, batch: list[dict], device: torch.device) -> Callable[[], object]:
    """A training step of a model of its own, in float32."""
    cfg = load_config(f"coco/instance/{leaf}.yaml", [
        "MODEL.WEIGHTS", "", "MODEL.DEVICE", str(device), "SOLVER.AMP.ENABLED", False, "SOLVER.IMS_PER_BATCH", 2,
        *options])
    model = Trainer.build_model(cfg)
    trainer = AccumulatingTrainer(model, itertools.repeat(batch), build_optimizer(cfg, model),
                                  parts=cfg.SOLVER.ACCUMULATE)

    def run():
        with EventStorage():
            trainer.run_step()
    return run

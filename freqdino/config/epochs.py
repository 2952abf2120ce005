"""Lengths in epochs, rounds through the training pictures: which key they stand for, and what wins over them.

An epoch has as many iterations as its pictures fill batches, the last one perhaps with pictures of the next.
"""
import logging
from collections.abc import Collection

from detectron2.config import CfgNode

from freqdino.config.keys import lookup

# Key in epochs -> the key in iterations that it sets once the data are read.
IN_ITERATIONS = {"SOLVER.EPOCHS": "SOLVER.MAX_ITER", "SOLVER.CHECKPOINT_EPOCHS": "SOLVER.CHECKPOINT_PERIOD",
                 "TEST.EVAL_EPOCHS": "TEST.EVAL_PERIOD"}
# Where the rate falls in SOLVER.STEPS, as in Mask2Former's 50 epochs of COCO (arXiv 2112.01527), and how much of the
# training the warm-up takes at most.
FALLS = ((8, 9), (26, 27))
WARMUP_SHARE = 10
logger = logging.getLogger(__name__)


def set_key(cfg: CfgNode, key: str, value: object) -> None:
    """Give a dotted key a value."""
    section, _, name = key.rpartition(".")
    lookup(cfg, section)[name] = value


def let_iterations_win(cfg: CfgNode, merged: Collection[str], origin: str) -> None:
    """Of keys that ``origin`` has set, those in iterations set the keys in epochs of earlier files to 0, said once."""
    for epochs, iterations in IN_ITERATIONS.items():
        if iterations in merged and epochs not in merged and lookup(cfg, epochs):
            logger.warning("%s: %s %s takes the place of %s %s", origin, iterations, lookup(cfg, iterations), epochs,
                           lookup(cfg, epochs))
            set_key(cfg, epochs, 0)


def in_epochs(cfg: CfgNode) -> bool:
    """Whether any length is given in epochs."""
    return any([lookup(cfg, key) for key in IN_ITERATIONS])


def with_iterations(cfg: CfgNode, pictures: int) -> CfgNode:
    """``cfg`` with the lengths that it has in epochs of so many pictures in iterations; SOLVER.EPOCHS also sets
    SOLVER.STEPS, and limits SOLVER.WARMUP_ITERS to a tenth of the training.
    """
    if not in_epochs(cfg):
        return cfg
    frozen, cfg = cfg.is_frozen(), cfg.clone()
    cfg.defrost()
    epoch = -(-pictures // cfg.SOLVER.IMS_PER_BATCH)
    changed = [iterations for epochs, iterations in IN_ITERATIONS.items() if lookup(cfg, epochs)]
    for epochs, iterations in IN_ITERATIONS.items():
        if lookup(cfg, epochs):
            set_key(cfg, iterations, lookup(cfg, epochs) * epoch)
    if cfg.SOLVER.EPOCHS:
        length = cfg.SOLVER.MAX_ITER
        falls = [length * part // whole for part, whole in FALLS]
        cfg.SOLVER.STEPS = tuple(dict.fromkeys(step for step in falls if step))
        cfg.SOLVER.WARMUP_ITERS = min(cfg.SOLVER.WARMUP_ITERS, length // WARMUP_SHARE)
        changed += ["SOLVER.STEPS", "SOLVER.WARMUP_ITERS"]
    logger.info("An epoch has %d iterations: %d pictures in batches of %d. %s", epoch, pictures,
                cfg.SOLVER.IMS_PER_BATCH, ", ".join(f"{key} {lookup(cfg, key)}" for key in changed))
    if frozen:
        cfg.freeze()
    return cfg

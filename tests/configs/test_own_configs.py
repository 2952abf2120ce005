"""configs/own/: the models are those of the published recipes, and all that a user adds is the data."""
import re
import shlex

import pytest

from freqdino.commands.train import parse_arguments
from freqdino.config import load_config, lookup
from freqdino.config.effects import flat_keys
from helpers.config_leaves import OWN, resolved
from helpers.paths import CONFIGS

SIBLINGS = {f"own/{task}/{model}_{backbone}.yaml": leaf for task, leaves in {
    "instance": ["coco/instance/mask2former_r50", "coco/instance/mask2former_swin_t",
                 "coco/instance/maskdino_r50_12ep"],
    "panoptic": ["coco/panoptic/mask2former_r50", "coco/panoptic/mask2former_swin_t",
                 "coco/panoptic/maskdino_r50_12ep"],
    "semantic": ["ade20k/semantic/mask2former_r50", "ade20k/semantic/mask2former_swin_t",
                 "ade20k/semantic/mask2former_convnext_t", "ade20k/semantic/maskdino_r50"],
}.items() for leaf in leaves for model, backbone in [re.findall(r"(mask\w+?)_(r50|swin_t|convnext_t)", leaf)[0]]}
BEST = {"instance": "segm/AP", "panoptic": "panoptic_seg/PQ", "semantic": "sem_seg/mIoU"}


def test_every_combination_is_there():
    assert OWN == sorted(f"own/{task}/{model}_{backbone}.yaml" for task in BEST for model in ("mask2former", "maskdino")
                         for backbone in ("r50", "swin_t", "convnext_t"))
    assert SIBLINGS.keys() < set(OWN) and len(SIBLINGS) == 10


@pytest.mark.parametrize("leaf", SIBLINGS)
def test_the_model_is_the_published_one(leaf):
    own, published = resolved(leaf), resolved(f"{SIBLINGS[leaf]}.yaml")
    differ = {key for key in own if key.startswith("MODEL.") and own[key] != published[key]}
    assert differ == {"MODEL.SEM_SEG_HEAD.NUM_CLASSES"}


@pytest.mark.parametrize("leaf", OWN)
def test_the_command_in_the_first_line_is_all(leaf):
    command, *_ = (CONFIGS / leaf).read_text().splitlines()
    words = shlex.split(command.removeprefix("# "))
    assert words[:2] == ["python", "train_net.py"]
    args = parse_arguments(words[2:])
    cfg = load_config(args.config_file, args.opts)
    assert cfg.DATASETS.TRAIN and (cfg.DATASETS.TEST or cfg.DATASETS.SPLIT)
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 0 and cfg.MODEL_EMA.ENABLED
    assert (cfg.SOLVER.EPOCHS, cfg.SOLVER.CHECKPOINT_EPOCHS, cfg.TEST.EVAL_EPOCHS) == (50, 1, 1)
    assert cfg.TEST.KEEP_BEST == BEST[leaf.split("/")[1]]
    assert cfg.SOLVER.IMS_PER_BATCH == (2 if "maskdino" in leaf else 4)


@pytest.mark.parametrize("leaf", OWN)
def test_the_line_for_a_cpu_changes_what_it_names(leaf):
    _, line, *_ = (CONFIGS / leaf).read_text().splitlines()
    options = shlex.split(line.removeprefix("# On a CPU, to try it: ").removesuffix(" besides."))
    before, after = load_config(CONFIGS / leaf), load_config(CONFIGS / leaf, options)
    changed = {key for key in flat_keys(before) if lookup(before, key) != lookup(after, key)}
    assert changed == set(options[::2])

"""Command lines that cannot work on a machine, and the file of a configuration that is found."""

import pytest
import torch
from detectron2.engine import DefaultTrainer

from freqdino.commands.train import parse_arguments
from freqdino.engine.launch import load_checked_config, set_up
from freqdino.engine.trainer import Trainer
from freqdino.errors import ArgumentError, ConfigError
from helpers.paths import CONFIGS
from helpers.refusals import refuses


@pytest.mark.parametrize("words, message", [
    (["--num-gpus", "0"], "--num-gpus 0 .*needs a process or more"),
    (["--machine-rank", "1"], "--machine-rank 1: .*and a rank"),
    (["--num-machines", "2"], "--num-machines 2 with --dist-url tcp://127.0.0.1.*: the machines would wait"),
    (["--num-gpus", "2", "SOLVER.IMS_PER_BATCH", "3"], "IMS_PER_BATCH 3 cannot be shared equally by 2 processes"),
    (["--eval-only", "DATASETS.TEST", "()"], "DATASETS.TEST is empty"),
    ([], "DATASETS.TRAIN is empty"),
    (["DATASETS.TRAIN", "('a',)", "MODEL_EMA.DECAY", "1.0"], "MODEL_EMA.DECAY must be at least 0 and below 1, got 1.0"),
    (["DATASETS.TRAIN", "('a',)", "TEST.AUG.ENABLED", "True", "MODEL.META_ARCHITECTURE", "MaskFormer",
      "MODEL.MASK_FORMER.TEST.PANOPTIC_ON", "True"], "TEST.AUG.ENABLED: .* set PANOPTIC_ON of"),
    (["DATASETS.TRAIN", "('a',)", "TEST.AUG.ENABLED", "True", "TEST.AUG.MAX_SIZE", "600"],
     "TEST.AUG.MIN_SIZES must be positive and at most max_size 600, got"),
    (["DATASETS.TRAIN", "('a',)", "TEST.SLIDING_WINDOW.ENABLED", "True"], "GeneralizedRCNN predicts instance: windows"),
    (["DATASETS.TRAIN", "('a',)", "MODEL.META_ARCHITECTURE", "MaskDINO", "TEST.SLIDING_WINDOW.ENABLED", "True",
      "TEST.SLIDING_WINDOW.SIZE", "64", "TEST.SLIDING_WINDOW.STRIDE", "65"],
     r"TEST.SLIDING_WINDOW.STRIDE \(65, 65\) exceeds size"),
])
def test_command_lines_that_cannot_work(words, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=message):
        load_checked_config(parse_arguments(words))


def test_gpus_that_are_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match="--num-gpus 4, but this machine has 2"):
        load_checked_config(parse_arguments(["--num-gpus", "4"]))
    with pytest.raises(ConfigError, match="MODEL.DEVICE cpu with 2 processes: hide the GPUs"):
        load_checked_config(parse_arguments(["--num-gpus", "2", "MODEL.DEVICE", "cpu"]))


def test_the_log_names_the_file_that_was_found(tmp_path, monkeypatch):
    """Detectron2 opens ``config_file`` again to write it into the log."""
    monkeypatch.chdir(tmp_path)
    args = parse_arguments(["--config-file", "quickstart/mask2former.yaml"])
    _, predictions = load_checked_config(args)
    assert args.config_file == str(CONFIGS / "quickstart" / "mask2former.yaml")
    assert predictions.tasks == ("semantic", "instance", "panoptic") and predictions.masks


def test_what_a_batch_shows_to_be_wrong_is_told_by_its_key(monkeypatch):
    def train(trainer):
        raise ArgumentError("num_classes", "is 3, but a.jpg has a class index of 7")

    monkeypatch.setattr(DefaultTrainer, "train", train)
    trainer = object.__new__(Trainer)
    trainer.stop = None
    with pytest.raises(ConfigError, match="^MODEL.SEM_SEG_HEAD.NUM_CLASSES is 3, but a.jpg has a class index of 7$"):
        trainer.train()


def test_what_the_configuration_says_stands_in_the_log_file_too(tmp_path, monkeypatch):
    """It is said before OUTPUT_DIR is there; of training that is evaluated alone no schedule is said."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = ["DATASETS.TRAIN", "somebodys_train", "DATASETS.TEST", "somebodys_val", "INPUT.IMAGE_SIZE", "64",
             "SOLVER.MAX_ITER", "10", "OUTPUT_DIR", str(tmp_path / "run")]
    args = parse_arguments(words)
    cfg, _ = load_checked_config(args)
    set_up(cfg, args)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.count("without effect in this configuration: INPUT.IMAGE_SIZE (read by the mappers with") == 1
    assert log.count("SOLVER.WARMUP_ITERS 1000 is not below SOLVER.MAX_ITER 10: the learning rate never reaches") == 1
    evaluation = parse_arguments(["--eval-only", *words])
    load_checked_config(evaluation)
    assert not any("WARMUP_ITERS" in remark for remark in evaluation.remarks)


test_runs_that_cannot_work = refuses(lambda words: load_checked_config(parse_arguments(
    ["DATASETS.TRAIN", "a", *words])), [
    (["MODEL.KEYPOINT_ON", "True"], "MODEL.KEYPOINT_ON is True, but the mappers read no keypoints"),
    (["MODEL.META_ARCHITECTURE", "MaskFormr"], "MODEL.META_ARCHITECTURE is 'MaskFormr', which is not registered"),
    (["SOLVER.BASE_LR", "0"], "SOLVER.BASE_LR is 0.0; it must be above 0"),
], error=ConfigError)

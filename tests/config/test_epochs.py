"""Lengths in epochs: what they come to in iterations, and that iterations which are set later win."""
import logging

import pytest

from freqdino.config import load_config
from freqdino.config.bounds import remarks_on
from freqdino.config.epochs import with_iterations
from freqdino.errors import ConfigError


def write(folder, name, text):
    (folder / name).write_text(text)
    return str(folder / name)


@pytest.fixture
def in_epochs(tmp_path):
    return write(tmp_path, "epochs.yaml", "SOLVER: {MAX_ITER: 9, EPOCHS: 20, CHECKPOINT_EPOCHS: 2, IMS_PER_BATCH: 4}\n"
                                          "TEST: {EVAL_EPOCHS: 1}")


def test_epochs_in_iterations(in_epochs, caplog):
    """50 pictures are 12 batches of 4 and a half, so 13 iterations an epoch; 260 in all, 8/9 of which are 231."""
    cfg = load_config(in_epochs)
    cfg.freeze()
    caplog.set_level(logging.INFO, "freqdino")
    settled = with_iterations(cfg, 50)
    assert settled.SOLVER.MAX_ITER == 260 and settled.SOLVER.STEPS == (231, 250) and settled.is_frozen()
    assert settled.SOLVER.WARMUP_ITERS == 26
    assert (settled.SOLVER.CHECKPOINT_PERIOD, settled.TEST.EVAL_PERIOD) == (26, 13)
    assert (settled.SOLVER.EPOCHS, cfg.SOLVER.MAX_ITER) == (20, 9)
    assert "An epoch has 13 iterations: 50 pictures in batches of 4. SOLVER.MAX_ITER 260" in caplog.text
    assert with_iterations(settled, 50) == settled and not remarks_on(cfg)


def test_a_training_of_one_iteration():
    settled = with_iterations(load_config(opts=["SOLVER.EPOCHS", "1", "SOLVER.IMS_PER_BATCH", "8"]), 3)
    assert (settled.SOLVER.MAX_ITER, settled.SOLVER.STEPS, settled.SOLVER.WARMUP_ITERS) == (1, (), 0)


def test_a_shorter_warm_up_stays(in_epochs):
    assert with_iterations(load_config(in_epochs, ["SOLVER.WARMUP_ITERS", "5"]), 50).SOLVER.WARMUP_ITERS == 5


def test_without_epochs_nothing_is_set():
    cfg = load_config()
    assert with_iterations(cfg, 50) is cfg


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if "takes the place" in record.getMessage()]


def test_iterations_that_are_set_later_win(in_epochs, tmp_path, caplog):
    later = write(tmp_path, "later.yaml", "_BASE_: epochs.yaml\nSOLVER: {MAX_ITER: 100}")
    cfg = load_config(later, ["TEST.EVAL_PERIOD=30"])
    assert (cfg.SOLVER.EPOCHS, cfg.TEST.EVAL_EPOCHS, cfg.SOLVER.CHECKPOINT_EPOCHS) == (0, 0, 2)
    assert warnings_of(caplog) == [f"{later}: SOLVER.MAX_ITER 100 takes the place of SOLVER.EPOCHS 20",
                                   "command line: TEST.EVAL_PERIOD 30 takes the place of TEST.EVAL_EPOCHS 1"]
    settled = with_iterations(cfg, 50)
    assert (settled.SOLVER.MAX_ITER, settled.TEST.EVAL_PERIOD, settled.SOLVER.CHECKPOINT_PERIOD) == (100, 30, 26)


@pytest.mark.parametrize("options, epochs", [(["SOLVER.MAX_ITER", "7", "SOLVER.EPOCHS", "3"], 3),
                                             (["SOLVER.EPOCHS", "3", "SOLVER.MAX_ITER", "7"], 0)])
def test_the_last_one_of_a_command_line_counts(options, epochs):
    assert load_config(opts=options).SOLVER.EPOCHS == epochs


def test_no_negative_length():
    with pytest.raises(ConfigError, match="SOLVER.EPOCHS is -1; it must be at least 0"):
        load_config(opts=["SOLVER.EPOCHS", "-1"])

"""What a run left in its folder: differences of the configuration, curves."""
import json

import pytest

from freqdino.analysis.report.run_files import (
    FILE,
    OPTIONS,
    RUN,
    Difference,
    configuration_differences,
    read_curves,
)
from freqdino.config import load_config


def write_run(folder, leaf, *, options=(), changes=(), log=True):
    """The config.yaml and the log.txt that a start with ``leaf`` and ``options`` leaves."""
    folder.mkdir(exist_ok=True)
    cfg = load_config(str(leaf), [*options, *changes])
    (folder / "config.yaml").write_text(cfg.dump())
    if log:
        (folder / "log.txt").write_text(
            "[11/21 01:38:51] detectron2 INFO: Command line arguments: Namespace(config_file="
            f"'{leaf}', resume=False, eval_only=False, num_gpus=1, opts={list(options)})\nnext line\n")
    return folder


def test_differences_to_the_base_files(tmp_path):
    (tmp_path / "base.yaml").write_text("SOLVER: {MAX_ITER: 100, BASE_LR: 0.5}\nMODEL: {DEVICE: cpu}\n")
    (tmp_path / "leaf.yaml").write_text("_BASE_: base.yaml\nSOLVER: {MAX_ITER: 200}\nTEST: {EVAL_PERIOD: 5}\n")
    run = write_run(tmp_path / "run", tmp_path / "leaf.yaml", options=["TEST.EVAL_PERIOD", "7"],
                    changes=["SOLVER.STEPS", "(1, 2)"])
    base, differences = configuration_differences(run)
    assert base == f"base.yaml, on which {tmp_path / 'leaf.yaml'} is built"
    assert sorted(differences, key=lambda item: item.key) == [
        Difference("SOLVER.MAX_ITER", 100, 200, FILE), Difference("SOLVER.STEPS", [30000], [1, 2], RUN),
        Difference("TEST.EVAL_PERIOD", 0, 7, OPTIONS)]


@pytest.mark.parametrize(("log", "reason"), [(True, "is not there any more"), (False, "log.txt does not name")])
def test_without_the_configuration_file_the_base_are_the_defaults(tmp_path, log, reason):
    leaf = tmp_path / "leaf.yaml"
    leaf.write_text("SOLVER: {MAX_ITER: 200}\nMODEL: {DEVICE: cpu}\n")
    run = write_run(tmp_path / "run", leaf, log=log)
    leaf.unlink()
    base, differences = configuration_differences(run)
    assert base.startswith("the defaults") and reason in base
    assert {(item.key, item.set_by) for item in differences} == {("SOLVER.MAX_ITER", RUN), ("MODEL.DEVICE", RUN)}


def test_curves(tmp_path):
    rows = [{"iteration": 9, "total_loss": 5.0, "loss_ce": 2.0, "loss_ce_0": 3.0, "loss_dice_dn": 1.0,
             "loss_mask_interm": 1.0, "loss_rpn_cls": 4.0, "lr": 1.0},
            {"iteration": 19, "total_loss": 9.0}, {"iteration": 19, "total_loss": 4.0, "segm/AP": float("nan")},
            {"iteration": 20, "segm/AP": 30.0, "segm/AP50": 50.0, "other/sem_seg/mIoU": 60.0, "segm/AP-cat": 1.0}]
    (tmp_path / "metrics.json").write_text("\n".join(map(json.dumps, rows)) + "\n")
    assert read_curves(tmp_path) == {
        "Total loss": {"total_loss": [(9, 5.0), (19, 4.0)]},
        "Losses of the last layer": {"loss_ce": [(9, 2.0)], "loss_rpn_cls": [(9, 4.0)]},
        "Evaluation": {"mask AP": [(20, 30.0)], "mIoU other": [(20, 60.0)]}}


def test_damaged_and_absent_curves(tmp_path):
    assert read_curves(tmp_path) == {}
    (tmp_path / "metrics.json").write_text('{"iteration": 1}\n{"iter')
    with pytest.raises(ValueError, match="metrics.json, line 2: expected a JSON object"):
        read_curves(tmp_path)

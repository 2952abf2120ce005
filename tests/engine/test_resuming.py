"""A run that is resumed learns what a straight one learns; what a resumed run takes over, changes and refuses."""
import json
import shutil

import pytest
import torch
from torch import nn

from freqdino.commands.train import run
from freqdino.config import load_config
from freqdino.engine.resuming import (
    changed_settings,
    check_unchanged_classes,
    forget_metrics,
    parameter_names,
    restore_optimizer,
    restore_schedule,
)
from freqdino.engine.solver import build_lr_scheduler, parameter_groups
from freqdino.engine.trainer import Trainer
from freqdino.errors import CheckpointError
from helpers.small_training import fails, options

pytestmark = pytest.mark.usefixtures("loggers_as_before")

# Random draws in the model, an average, and an evaluation between the checkpoint and the end.
LIVELY = ["SOLVER.MAX_ITER", "6", "SOLVER.CHECKPOINT_PERIOD", "3", "TEST.EVAL_PERIOD", "3", "MODEL_EMA.ENABLED", "True",
          "MODEL.MASK_FORMER.DROPOUT", "0.2"]


def tensors(file):
    """Every tensor that a run has learnt: the model's, the average's, the optimiser's."""
    state = torch.load(file, weights_only=True)
    optimizer = state["trainer"]["_trainer"]["optimizer"]["state"]
    return {**state["model"], **state["trainer"]["hooks"]["WeightAveraging"],
            **{(number, name): tensor for number, entry in optimizer.items() for name, tensor in entry.items()}}


def assert_same_run(one, other):
    one, other = tensors(one), tensors(other)
    assert one.keys() == other.keys() and len(one) > 400
    assert [key for key, tensor in one.items() if not torch.equal(tensor, other[key])] == []


@pytest.fixture(scope="module")
def straight(squares, tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    run(options(squares, folder, *LIVELY))
    return folder


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_resumed_run_equals_a_straight_one(straight, squares, tmp_path, workers):
    """Also with other workers than before, and from a file that ``last_checkpoint`` does not name."""
    shutil.copy(straight / "model_0000002.pth", tmp_path)
    run(["--resume", *options(squares, tmp_path, *LIVELY, "DATALOADER.NUM_WORKERS", workers)])
    assert_same_run(straight / "model_0000005.pth", tmp_path / "model_0000005.pth")
    log = (tmp_path / "log.txt").read_text()
    assert "has no file last_checkpoint. Continuing from" in log
    assert ("Resuming at iteration 3 from" in log and "Kept: weights, optimiser, place in the schedule, place in the "
            f"data, random states. New: {'nothing' if workers == '0' else 'DATALOADER.NUM_WORKERS 0 -> 2'}" in log)


def test_a_drawn_seed_is_the_runs(squares, tmp_path):
    for name in ("straight", "resumed"):
        words = options(squares, tmp_path / name, *LIVELY, "SEED", "-1")
        if name == "resumed":
            (tmp_path / name).mkdir()
            shutil.copy(tmp_path / "straight" / "model_0000002.pth", tmp_path / name)
            words = ["--resume", *words]
        run(words)
    assert_same_run(tmp_path / "straight" / "model_0000005.pth", tmp_path / "resumed" / "model_0000005.pth")


def test_two_processes_resume_what_they_began(squares, tmp_path):
    two = ("--num-gpus", "2", "--dist-url", "auto")
    run([*two, *options(squares, tmp_path / "straight", *LIVELY)])
    (tmp_path / "resumed").mkdir()
    shutil.copy(tmp_path / "straight" / "model_0000002.pth", tmp_path / "resumed")
    run([*two, "--resume", *options(squares, tmp_path / "resumed", *LIVELY)])
    assert_same_run(tmp_path / "straight" / "model_0000005.pth", tmp_path / "resumed" / "model_0000005.pth")
    processes = torch.load(tmp_path / "straight" / "model_0000002.pth", weights_only=True)["processes"]
    assert [process["data"]["next"] for process in processes] == [3, 3]     # one of the two pictures of each batch
    assert not torch.equal(processes[0]["random"]["torch"], processes[1]["random"]["torch"])


def test_a_truncated_checkpoint_is_passed_over(straight, squares, tmp_path):
    for name in ("model_0000002.pth", "model_0000005.pth", "model_final.pth"):
        shutil.copy(straight / name, tmp_path)
    shutil.copy(straight / "model_0000005.pth", tmp_path / "model_0000004.pth")
    for name in ("model_0000004.pth", "model_0000005.pth"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:5000])
    (tmp_path / "last_checkpoint").write_text("model_0000005.pth")
    run(["--resume", *options(squares, tmp_path, *LIVELY)])
    log = (tmp_path / "log.txt").read_text()
    assert "model_0000005.pth: cannot be read as a checkpoint" in log and "model_0000004.pth is passed over" in log
    assert f"Continuing from {tmp_path}/model_0000002.pth, after iteration 2" in log
    assert_same_run(straight / "model_0000005.pth", tmp_path / "model_0000005.pth")


def test_what_a_resumed_run_changes_and_refuses(straight, squares, tmp_path, capsys):
    shutil.copy(straight / "model_0000002.pth", tmp_path)
    words = ["--resume", *options(squares, tmp_path, *LIVELY)]
    error = fails(capsys, [*words, "MODEL.MASK_FORMER.NHEADS", "8", "SOLVER.OPTIMIZER", "SGD"])
    assert "--resume cannot change" in error and "MODEL.MASK_FORMER.NHEADS 4 -> 8" in error
    assert "SOLVER.OPTIMIZER 'ADAMW' -> 'SGD'" in error
    run([*words, "SOLVER.BASE_LR", "1e-9", "SOLVER.WEIGHT_DECAY", "0.0", "SOLVER.IMS_PER_BATCH", "3",
         "SOLVER.MAX_ITER", "4"])
    log = (tmp_path / "log.txt").read_text()
    for text in ("SOLVER.BASE_LR 0.001 -> 1e-09", "SOLVER.WEIGHT_DECAY 0.0001 -> 0.0", "SOLVER.IMS_PER_BATCH 2 -> 3"):
        assert text in log
    before, after = (torch.load(tmp_path / f"{name}.pth", weights_only=True)
                     for name in ("model_0000002", "model_0000003"))
    assert after["processes"][0]["data"]["next"] == 2 * 3 + 3
    name = "sem_seg_head.predictor.query_feat.weight"
    # A step of AdamW is about its rate, whose last bit at weights near 1 is 6e-8.
    assert (before["model"][name] - after["model"][name]).abs().max() < 1e-7


def test_a_finished_run_that_is_resumed(straight, squares, tmp_path, capsys, monkeypatch):
    """Its evaluation can fail, its length cannot be cut, an average that is new is the model; a new SEED is said."""
    shutil.copy(straight / "model_0000005.pth", tmp_path)
    words = ["--resume", *options(squares, tmp_path, *LIVELY, "MODEL_EMA.ENABLED", "False")]
    error = fails(capsys, [*words, "SOLVER.MAX_ITER", "5"])
    assert "model_0000005.pth has 6 iterations behind it, SOLVER.MAX_ITER is 5: nothing is left to train" in error
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "test", lambda *_, **__: [][0])
        with pytest.raises(IndexError):
            run(words)
        patch.setattr(Trainer, "test", lambda *_, **__: float("no number"))
        assert "could not convert" in fails(capsys, words)
    run([*words, "SEED", "2"])
    assert "SEED 2 is not used: a resumed run goes on with" in (tmp_path / "log.txt").read_text()
    state = torch.load(straight / "model_0000005.pth", weights_only=True)
    del state["trainer"]["hooks"]["WeightAveraging"]
    torch.save(state, tmp_path / "model_0000005.pth")
    run([*words, "MODEL_EMA.ENABLED", "True"])
    average = torch.load(tmp_path / "model_final.pth", weights_only=True)["model"]
    assert all(torch.equal(average[key], tensor) for key, tensor in state["model"].items())


def test_a_run_without_checkpoint_begins_its_metrics_anew(squares, tmp_path):
    (tmp_path / "metrics.json").write_text('{"iteration": 0}\n{"iteration": 19}\n')
    run(["--resume", *options(squares, tmp_path, "SOLVER.MAX_ITER", "1", "DATASETS.TEST", "()")])
    lines = (tmp_path / "metrics.json").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [0] and "total_loss" in lines[0]


def test_a_used_folder_is_refused(straight, squares, capsys):
    error = fails(capsys, options(squares, straight, *LIVELY))
    assert f"OUTPUT_DIR {straight} has another training (metrics.json, model_0000002.pth" in error
    assert "--resume" in error


def test_metrics_of_iterations_that_come_again_are_forgotten(tmp_path):
    path = tmp_path / "metrics.json"
    forget_metrics(str(path), after=3)
    lines = [json.dumps({"iteration": iteration}) + "\n" for iteration in (1, 3, 5)]
    path.write_text("".join(lines) + '{"iterat')
    forget_metrics(str(path), after=3)
    assert path.read_text() == "".join(lines[:2])
    path.write_text(lines[0] + '{"iterat')
    forget_metrics(str(path), after=3)
    assert path.read_text() == lines[0]


def test_settings_that_change():
    old, new = load_config(), load_config(opts=["SOLVER.STEPS", "(5,)", "SEED", "3", "MODEL.MASK_FORMER.DICE_WEIGHT",
                                                "2.0"])
    assert changed_settings(old.dump(), new) == {
        "SOLVER.STEPS": "SOLVER.STEPS [30000] -> [5]",
        "MODEL.MASK_FORMER.DICE_WEIGHT": "MODEL.MASK_FORMER.DICE_WEIGHT 1.0 -> 2.0"}
    with pytest.raises(CheckpointError, match="cannot change MODEL.SWIN.WINDOW_SIZE 7 -> 8: the weights"):
        changed_settings(old.dump(), load_config(opts=["MODEL.SWIN.WINDOW_SIZE", "8"]))


def test_other_classes():
    check_unchanged_classes({"thing_classes": ["cat", "dog"]},
                            {"thing_classes": ["cat", "dog"], "stuff_classes": ["sky"]})
    with pytest.raises(CheckpointError, match=r"other thing_classes: without \['dog'\], with \['cow'\]"):
        check_unchanged_classes({"thing_classes": ["cat", "dog"]}, {"thing_classes": ["cat", "cow"]})
    with pytest.raises(CheckpointError, match="other stuff_classes: in another order"):
        check_unchanged_classes({"stuff_classes": ["a", "b"]}, {"stuff_classes": ["b", "a"]})


def optimizer_of(model):
    return torch.optim.SGD(parameter_groups(model, lr=0.1, weight_decay=0.0, rules=[]), momentum=0.9)


def test_the_optimiser_is_restored_by_names():
    """The same model with its layers in another order, and one that is new; the rate is the new optimiser's."""
    first, second, third = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    saved = optimizer_of(model := nn.ModuleDict({"a": first, "b": second}))
    for value, layer in enumerate((first, second)):
        layer.weight.grad = torch.full((1, 1), float(value + 1))
    saved.step()
    names = parameter_names(model, saved)
    assert names == ["a.weight", "b.weight"]
    now = optimizer_of(other := nn.ModuleDict({"b": second, "c": third, "a": first}))
    now.param_groups[0]["lr"] = 7.0
    anew = restore_optimizer(now, saved.state_dict(), saved_names=names, names=parameter_names(other, now))
    assert anew == ["c.weight"]
    assert now.state[first.weight]["momentum_buffer"].item() == 1.0     # the first step's momentum is the gradient
    assert now.state[second.weight]["momentum_buffer"].item() == 2.0
    assert now.param_groups[0]["lr"] == 7.0


def test_an_optimiser_of_version_0_1_has_to_have_the_same_groups():
    saved = optimizer_of(nn.ModuleList([nn.Linear(1, 1)])).state_dict()
    model = nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)])
    now = optimizer_of(model)
    with pytest.raises(ValueError, match="its parameter groups are others, and it does not name its parameters"):
        restore_optimizer(now, saved, saved_names=None, names=parameter_names(model, now))
    with pytest.raises(ValueError, match="SOLVER.OPTIMIZER is another one"):
        restore_optimizer(torch.optim.AdamW(model.parameters()), saved, saved_names=None, names=["w"] * 4)


@pytest.mark.parametrize("name", ["WarmupPolyLR", "WarmupMultiStepLR", "WarmupCosineLR"])
def test_a_schedule_goes_on_at_its_place_with_the_rate_of_now(name):
    cfg = load_config(opts=["SOLVER.LR_SCHEDULER_NAME", name, "SOLVER.MAX_ITER", "10", "SOLVER.STEPS", "(4,)",
                            "SOLVER.WARMUP_ITERS", "2"])
    parameter = nn.Parameter(torch.zeros(1))

    def schedule(rate):
        optimizer = torch.optim.SGD([parameter], lr=rate)
        return build_lr_scheduler(cfg, optimizer)

    straight = schedule(0.5)
    for _ in range(6):
        straight.optimizer.step()
        straight.step()
    resumed = schedule(0.5)
    restore_schedule(resumed, 6)
    for _ in range(3):
        assert resumed.optimizer.param_groups[0]["lr"] == straight.optimizer.param_groups[0]["lr"]
        for scheduler in (straight, resumed):
            scheduler.optimizer.step()
            scheduler.step()
    lower = schedule(0.25)
    restore_schedule(lower, 9)
    assert lower.optimizer.param_groups[0]["lr"] == pytest.approx(straight.optimizer.param_groups[0]["lr"] / 2)

"""The moving average of the weights against its formula, what it keeps, and train_net.py with it."""
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from freqdino.commands.train import run
from freqdino.engine.trainer import Trainer
from freqdino.engine.weight_averaging import WeightAveraging, averaged_weights
from helpers.small_training import options, results

pytestmark = pytest.mark.usefixtures("loggers_as_before")


def averaging_of(model, tmp_path, decay=0.75):
    hook = WeightAveraging(model, decay=decay, output_dir=str(tmp_path))
    hook.trainer = SimpleNamespace(iter=2, max_iter=3)
    return hook


def test_average_follows_the_formula_in_weights_and_buffers(tmp_path):
    model = nn.Linear(1, 1, bias=False)
    model.register_buffer("statistic", torch.zeros(()))
    hook = averaging_of(model, tmp_path)
    for value in (8.0, 4.0, 0.0):
        model.weight.data.fill_(value)
        model.statistic.fill_(-value)
        hook.after_step()
    # 8, then 8·¾ + 4·¼ = 7, then 7·¾ + 0 = 5.25
    assert hook.model.weight.item() == 5.25 and hook.model.statistic.item() == -5.25
    assert model.weight.item() == 0.0
    hook.after_train()
    assert torch.load(tmp_path / "model_final_ema.pth", weights_only=True)["model"]["weight"].item() == 5.25


@pytest.mark.parametrize("decay", [0.9, 0.9995, 0.9999])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool])
def test_what_counts_or_names_is_copied(tmp_path, decay, dtype):
    """0.9999 · v + 0.0001 · v is below v in floating point for many v, and would be cut to v − 1."""
    model = nn.Linear(1, 1)
    model.register_buffer("index", torch.arange(169).to(dtype))
    hook = averaging_of(model, tmp_path, decay)
    for shift in (0, 0, 3):
        model.index.copy_((torch.arange(169) + shift).to(dtype))
        hook.after_step()
        assert torch.equal(hook.model.index, model.index)


def test_average_goes_on_from_its_state(tmp_path):
    model = nn.Linear(1, 1, bias=False)
    hook = averaging_of(model, tmp_path)
    model.weight.data.fill_(8.0)
    hook.after_step()
    resumed = averaging_of(model, tmp_path)
    resumed.load_state_dict(hook.state_dict())
    model.weight.data.fill_(4.0)
    resumed.after_step()
    assert resumed.model.weight.item() == 7.0


def test_an_interrupted_training_writes_no_final_average(tmp_path):
    hook = averaging_of(nn.Linear(1, 1), tmp_path)
    hook.trainer.iter = 1
    hook.after_train()
    assert not list(tmp_path.iterdir())


def test_an_average_that_no_step_has_reached_is_the_model_as_loaded(tmp_path):
    model = nn.Linear(2, 1)
    hook = averaging_of(model, tmp_path)
    with torch.no_grad():
        model.weight.fill_(3.0)
    hook.before_train()
    assert hook.model.weight.tolist() == [[3.0, 3.0]]
    hook.after_step()
    with torch.no_grad():
        model.weight.fill_(5.0)
    hook.before_train()                 # a step has been taken: the average goes on
    assert hook.model.weight.tolist() == [[3.0, 3.0]]


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_decay_out_of_range(tmp_path, decay):
    with pytest.raises(ValueError, match=f"decay must be at least 0 and below 1, got {decay}"):
        averaging_of(nn.Linear(1, 1), tmp_path, decay)


def of_a_run(folder, last):
    """The weights of a run and their average, from its last checkpoint; what it wrote as evaluated."""
    checkpoint = torch.load(folder / f"model_{last:07d}.pth", weights_only=True)
    return (checkpoint["model"], averaged_weights(checkpoint),
            torch.load(folder / "model_final.pth", weights_only=True)["model"])


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_averaged_weights_are_evaluated_and_written(squares, tmp_path):
    """A decay of 0 averages nothing: the average is the trained model; with a decay it differs, and resumes."""
    averaging = ("MODEL_EMA.ENABLED", "True", "MODEL_EMA.DECAY")
    run(options(squares, tmp_path / "none", *averaging, "0.0"))
    weights, average, written = of_a_run(tmp_path / "none", 3)
    assert equal(weights, average) and equal(average, written)

    run(options(squares, tmp_path / "all", *averaging, "0.5"))
    weights, average, written = of_a_run(tmp_path / "all", 3)
    assert not equal(weights, average) and equal(average, written)
    run(["--eval-only", *options(squares, tmp_path / "again", "MODEL.WEIGHTS",
                                 str(tmp_path / "all" / "model_final.pth"))])
    assert results(tmp_path / "again") == results(tmp_path / "all")

    run(options(squares, tmp_path / "part", *averaging, "0.5", "SOLVER.MAX_ITER", "2"))
    run(["--resume", *options(squares, tmp_path / "part", *averaging, "0.5", "SOLVER.MAX_ITER", "4")])
    state = torch.load(tmp_path / "part" / "model_0000003.pth", weights_only=True)
    assert state["trainer"]["hooks"]["WeightAveraging"]["n_averaged"] == 4


def test_the_average_in_a_checkpoint_is_evaluated(squares, tmp_path, monkeypatch):
    averaging = ("MODEL_EMA.ENABLED", "True", "MODEL_EMA.DECAY", "0.5", "SOLVER.MAX_ITER", "2")
    run(options(squares, tmp_path, *averaging))
    weights, average, _ = of_a_run(tmp_path, 1)
    evaluated = []
    monkeypatch.setattr(Trainer, "test", lambda cfg, model, **_: evaluated.append(model.state_dict()) or {})
    whole, final = (("MODEL.WEIGHTS", str(tmp_path / f"model_{name}.pth")) for name in ("0000001", "final"))
    for words in ((*averaging, *whole), (*averaging, *final), whole):
        run(["--eval-only", *options(squares, tmp_path / "again", *words)])
    run(["--eval-only", "--resume", *options(squares, tmp_path, *averaging)])
    for state, expected in zip(evaluated, (average, average, weights, average), strict=True):
        assert all(torch.equal(state[key], tensor) for key, tensor in expected.items())
    assert not equal(weights, average)
    assert "keeps no average, its weights are evaluated" in (tmp_path / "again" / "log.txt").read_text()

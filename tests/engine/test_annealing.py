"""Temperatures of dynamic convolutions in training: their values, in checkpoints, averages and resumed runs."""
import shutil
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from freqdino.commands.train import run
from freqdino.engine.annealing import TemperatureAnnealing
from freqdino.errors import ArgumentError
from freqdino.frequency.rivals import DYConv, KernelWarehouse
from helpers.small_training import options

pytestmark = pytest.mark.usefixtures("loggers_as_before")
NAME, ANNEAL = "MODEL.BACKBONE.DYNAMIC_CONV.NAME", "MODEL.BACKBONE.DYNAMIC_CONV.ANNEAL"
RESNET = ["MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.DEPTH", "50", "MODEL.RESNETS.OUT_FEATURES",
          "['res2', 'res3', 'res4', 'res5']", "MODEL.RESNETS.STEM_OUT_CHANNELS", "8",
          "MODEL.RESNETS.RES2_OUT_CHANNELS", "16", "MODEL.RESNETS.WIDTH_PER_GROUP", "4",
          "MODEL.BACKBONE.FREEZE_AT", "0"]
RUN = [*RESNET, NAME, "kernel_warehouse", ANNEAL, "0.8", "SOLVER.MAX_ITER", "6", "SOLVER.CHECKPOINT_PERIOD", "3",
       "MODEL_EMA.ENABLED", "True", "DATASETS.TEST", "()"]


def values_of(models, share, iterations):
    """The temperatures in each iteration, before and after its step."""
    hook, values = TemperatureAnnealing(models, share), []
    for iteration in iterations:
        hook.trainer = SimpleNamespace(iter=iteration, max_iter=20)
        for moment in (hook.before_step, hook.after_step):
            moment()
            values.append([float(model.attention.temperature) for model in models])
    return values


def test_values_of_the_iterations():
    """Half of 20 iterations: a tenth of the way each; T from 30 to 1, τ from 1 to 0."""
    models = [DYConv(4, 4, 1), KernelWarehouse(4, 4, 1)]
    values = values_of(models, 0.5, [0, 1, 5, 9, 10, 11, 19])
    assert values[::2] == values[1::2]
    expected = [[30, 1], [27.1, 0.9], [15.5, 0.5], [3.9, 0.1], [1, 0], [1, 0], [1, 0]]
    assert [pytest.approx(pair, abs=1e-5) for pair in expected] == values[::2]
    assert values_of([DYConv(4, 4, 1)], 0.0, [0, 7]) == [[1]] * 4
    with pytest.raises(ArgumentError, match="share must be from 0 to 1, got 2"):
        TemperatureAnnealing([], 2)


def test_an_average_has_the_temperature_itself():
    """Whatever averaging has made of it in the step."""
    trained, average = DYConv(4, 4, 1), DYConv(4, 4, 1)
    hook = TemperatureAnnealing([trained, average], 0.5)
    hook.trainer = SimpleNamespace(iter=5, max_iter=20)
    hook.before_step()
    average.attention.temperature.fill_(29)
    hook.after_step()
    assert float(average.attention.temperature) == float(trained.attention.temperature) == 15.5


def test_a_model_without_temperatures():
    assert values_of([], 0.5, [0]) == [[], []]
    hook = TemperatureAnnealing([nn.Conv2d(4, 4, 1)], 0.5)
    hook.trainer = SimpleNamespace(iter=0, max_iter=20)
    hook.before_step()


def tensors(file, *, ending=""):
    state = torch.load(file, weights_only=True)
    averaged = state.get("trainer", {}).get("hooks", {}).get("WeightAveraging", {})
    found = {**state["model"], **{f"average {key}": value for key, value in averaged.items()}}
    return {key: value for key, value in found.items() if key.endswith(ending)}


def temperatures(file):
    found = tensors(file, ending=".temperature")
    assert found
    return {round(float(value), 5) for value in found.values()}


def test_a_resumed_run_has_the_temperatures_of_a_straight_one(squares, tmp_path):
    """τ falls over 4.8 of 6 iterations; evaluation reads the file of the last one, whose weights are the average's."""
    run(options(squares, tmp_path / "straight", *RUN))
    assert temperatures(tmp_path / "straight" / "model_0000002.pth") == {round(1 - 2 / 4.8, 5)}
    assert temperatures(tmp_path / "straight" / "model_0000005.pth") == {0}
    assert temperatures(tmp_path / "straight" / "model_final.pth") == {0}
    (tmp_path / "resumed").mkdir()
    shutil.copy(tmp_path / "straight" / "model_0000002.pth", tmp_path / "resumed")
    run(["--resume", *options(squares, tmp_path / "resumed", *RUN)])
    straight, resumed = (tensors(tmp_path / name / "model_0000005.pth") for name in ("straight", "resumed"))
    assert straight.keys() == resumed.keys()
    assert [key for key, value in straight.items() if not torch.equal(value, resumed[key])] == []
    # One image a step, gradients in two parts.
    run(options(squares, tmp_path / "parts", *RUN, "SOLVER.MAX_ITER", "1", "SOLVER.ACCUMULATE", "2", ANNEAL, "0.0",
                "MODEL_EMA.ENABLED", "False"))
    assert temperatures(tmp_path / "parts" / "model_final.pth") == {0}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["condconv", "odconv", "kernel_warehouse"])
def test_two_processes_train_the_same_model(squares, tmp_path, name):
    """Of one image each; every parameter has its part in each step, or the processes would wait for it."""
    run(["--num-gpus", "2", "--dist-url", "auto", *options(squares, tmp_path, *RUN, NAME, name)])
    final = tensors(tmp_path / "model_0000005.pth")
    assert all(value.isfinite().all() for value in final.values() if value.is_floating_point())

"""What shows a training's progress: the bar, gradient norm and memory among the metrics, pictures in TensorBoard."""
import logging
from types import SimpleNamespace

import pytest
import torch
from detectron2.utils.events import EventStorage
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from freqdino.commands.train import run
from freqdino.config import load_config
from freqdino.engine import pictures
from freqdino.engine.progress import PeakMemory, ProgressBar
from freqdino.engine.solver import build_optimizer
from helpers.small_training import options

pytestmark = pytest.mark.usefixtures("loggers_as_before")


@pytest.mark.parametrize("iteration, noted", [(18, False), (19, True)])
@pytest.mark.parametrize("clipped", [True, False])
def test_the_norm_of_the_gradient_before_it_is_clipped(iteration, noted, clipped):
    """Of gradients 3 and 4 in two parameters it is 5."""
    cfg = load_config(opts=["SOLVER.CLIP_GRADIENTS.ENABLED", clipped, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model",
                            "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "0.1"])
    model = nn.Linear(1, 1)
    model.weight.grad, model.bias.grad = torch.full((1, 1), 3.0), torch.full((1,), 4.0)
    optimizer = build_optimizer(cfg, model)
    with EventStorage(iteration) as storage:
        optimizer.step()
    assert storage.latest() == ({"grad_norm": (5.0, 19)} if noted else {})
    assert model.bias.grad.item() == pytest.approx(0.08 if clipped else 4.0)
    optimizer.step()                        # outside a training there is nothing to note it in


def test_the_peak_of_the_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * 2 ** 20)
    hook = PeakMemory()
    with EventStorage(0) as storage:
        for iteration in range(20):
            hook.trainer = SimpleNamespace(iter=iteration, storage=storage)
            storage.iter = iteration
            assert not storage.latest()
            hook.after_step()
    assert storage.latest() == {"max_mem": (3.0, 19)}


def test_a_bar_in_a_terminal_and_lines_in_the_log(squares, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pictures, "in_a_terminal", lambda: True)
    run(options(squares, tmp_path))
    shown = capsys.readouterr()
    assert "training: 100%" in shown.err and "4/4" in shown.err and "loss=" in shown.err
    assert "eta: " not in shown.out and "eta: " in (tmp_path / "log.txt").read_text()
    assert "Evaluation results written to" in shown.out         # other messages are not lost


def test_a_bar_leaves_the_loggers_as_they_were(monkeypatch, capsys):
    logger = logging.getLogger("detectron2")
    handler = logging.StreamHandler()
    logger.addHandler(handler)
    before = list(logger.handlers)
    bar = ProgressBar()
    with EventStorage(0) as storage:
        bar.trainer = SimpleNamespace(start_iter=0, max_iter=1, storage=storage)
        bar.before_train()
        assert logger.handlers != before
        bar.after_step()
        bar.after_train()
    assert logger.handlers == before and not handler.filters


def test_without_a_terminal_plain_lines(squares, tmp_path, capsys):
    run(options(squares, tmp_path, "SOLVER.MAX_ITER", "1"))
    shown = capsys.readouterr()
    assert "eta: " in shown.out or "iter: 0" in shown.out
    assert "training:" not in shown.err


def test_pictures_in_tensorboard_change_nothing(squares, tmp_path):
    """At iteration 1 and 3: four training samples, of 64 x 48 beside 64 x 64, and four predictions beside the truth."""
    for name, period in (("with", "2"), ("without", "0")):
        run(options(squares, tmp_path / name, "VIS_PERIOD", period, "MODEL.MASK_FORMER.DROPOUT", "0.2"))
    one, other = (torch.load(tmp_path / name / "model_final.pth", weights_only=True)["model"]
                  for name in ("with", "without"))
    assert all(torch.equal(one[key], other[key]) for key in one)
    events = EventAccumulator(str(tmp_path / "with")).Reload()
    assert sorted(events.Tags()["images"]) == [f"{kind}/{number}" for kind in ("predictions", "training")
                                               for number in range(4)]
    for kind, size in (("training", (128, 64)), ("predictions", (128, 48))):
        shown = events.Images(f"{kind}/0")
        assert (shown[-1].width, shown[-1].height) == size

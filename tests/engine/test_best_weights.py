"""The best evaluation's weights are kept, a training ends once none is better; both go on where a run is resumed."""
import math
import shutil

import pytest
import torch

from freqdino.checkpoint import StrictCheckpointer
from freqdino.commands.train import run
from freqdino.engine.best_weights import BestWeights
from freqdino.engine.trainer import Trainer
from freqdino.errors import ConfigError
from helpers.small_training import fails, options

pytestmark = pytest.mark.usefixtures("loggers_as_before")
BEST = ["TEST.KEEP_BEST", "segm/AP", "TEST.EVAL_PERIOD", "1", "SOLVER.MAX_ITER", "6", "MODEL_EMA.ENABLED", "True"]


@pytest.fixture
def scored(monkeypatch):
    """Has evaluations give these values of segm/AP, by the number of the evaluated average's updates."""
    def score(values):
        asked = []

        def test(cfg, model, **_):
            asked.append({key: tensor.clone() for key, tensor in model.state_dict().items()})
            return {"segm": {"AP": values[len(asked) - 1]}}
        monkeypatch.setattr(Trainer, "test", staticmethod(test))
        return asked
    return score


def saved(path):
    return torch.load(path, weights_only=True)


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_the_best_evaluation_s_weights_are_kept(squares, tmp_path, scored):
    """The average's, at the third of six evaluations; an equal and an undefined value are no better ones."""
    asked = scored([10.0, 5.0, 30.0, 30.0, math.nan, 20.0])
    run(options(squares, tmp_path, *BEST, "SOLVER.CHECKPOINT_PERIOD", "2"))
    best, final = saved(tmp_path / "model_best.pth"), saved(tmp_path / "model_final.pth")
    assert (best["iteration"], best["metric"]) == (2, {"segm/AP": 30.0}) and "trainer" not in best
    assert best["classes"]["thing_classes"] == ["bright", "dark"]
    assert len(asked) == 6 and equal(best["model"], asked[2]) and equal(final["model"], asked[5])
    assert not equal(best["model"], final["model"])
    assert "Best segm/AP: 30, after iteration 2, in model_best.pth" in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize("at", [1, 2])
def test_what_is_best_survives_resuming(squares, tmp_path, scored, at):
    """From a checkpoint of before the evaluation of the same iteration, which then comes first."""
    scored([10.0, 40.0, 30.0, 30.0, 20.0, 20.0])
    words = [*BEST, "SOLVER.CHECKPOINT_PERIOD", "1"]
    run(options(squares, tmp_path / "straight", *words))
    (tmp_path / "resumed").mkdir()
    shutil.copy(tmp_path / "straight" / f"model_{at:07d}.pth", tmp_path / "resumed")
    scored([10.0, 40.0, 30.0, 30.0, 20.0, 20.0][at:])
    run(["--resume", *options(squares, tmp_path / "resumed", *words)])
    states = [saved(tmp_path / name / "model_0000005.pth")["trainer"]["hooks"]["BestWeights"]
              for name in ("straight", "resumed")]
    assert states[0] == states[1] == {"metric": "segm/AP", "best": 40.0, "best_after": 2, "judged_after": 5, "since": 3}
    assert (tmp_path / "resumed" / "model_best.pth").is_file() == (at == 1)


def test_a_training_ends_early_and_has_ended_when_it_is_resumed(squares, tmp_path, scored):
    words = [*BEST, "SOLVER.EARLY_STOP_PATIENCE", "2"]
    asked = scored([10.0, 20.0, 20.0, 5.0])
    run(options(squares, tmp_path, *words))
    assert len(asked) == 4                      # the last one is not made again at the end
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000003.pth"
    assert equal(saved(tmp_path / "model_final.pth")["model"], asked[3])
    assert equal(saved(tmp_path / "model_best.pth")["model"], asked[1])
    log = (tmp_path / "log.txt").read_text()
    assert "2 evaluations without a better one than that after iteration 1; the training ends" in log
    asked = scored([5.0])
    run(["--resume", *options(squares, tmp_path, *words)])
    assert len(asked) == 1 and "had ended early" in (tmp_path / "log.txt").read_text()
    asked = scored([30.0, 30.0])
    run(["--resume", *options(squares, tmp_path, *words, "SOLVER.EARLY_STOP_PATIENCE", "3")])
    assert len(asked) == 2 and saved(tmp_path / "model_best.pth")["iteration"] == 4


def test_two_processes_end_early_together(squares, tmp_path):
    """A metric that cannot rise: AP of an untrained model is 0 each time."""
    run(["--num-gpus", "2", "--dist-url", "auto", *options(
        squares, tmp_path, *BEST, "SOLVER.EARLY_STOP_PATIENCE", "1", "SOLVER.BASE_LR", "1e-12")])
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"


def test_less_of_a_loss_is_better():
    saves = []
    best = BestWeights(1, dict, metric="validation/total_loss", save=lambda name, **entries: saves.append(entries))
    best.trainer = type("At", (), {"iter": 0, "max_iter": 9})
    for iteration, value in enumerate([3.0, 2.0, 4.0]):
        best.trainer.iter = iteration
        best._judge(value, ["validation/total_loss"])
    assert [entries["iteration"] for entries in saves] == [0, 1] and (best.best, best.since) == (2.0, 1)
    with pytest.raises(ConfigError, match="TEST.KEEP_BEST is 'validation/total_loss', .* these are segm/AP"):
        best._judge(None, ["segm/AP"])


def test_a_metric_of_something_else_is_refused_before_training(squares, tmp_path, capsys):
    error = fails(capsys, options(squares, tmp_path, *BEST, "TEST.KEEP_BEST", "sem_seg/mIoU"))
    assert "TEST.KEEP_BEST is 'sem_seg/mIoU'; expected a metric of what is evaluated, bbox/..., segm/..." in error
    with pytest.raises(SystemExit):             # of weights, for the metric is training's alone
        run(["--eval-only", *options(squares, tmp_path, *BEST, "TEST.KEEP_BEST", "sem_seg/mIoU")])
    assert "--eval-only needs weights" in capsys.readouterr().err
    assert "names no metric" in fails(capsys, options(squares, tmp_path, "SOLVER.EARLY_STOP_PATIENCE", "2"))


def test_only_the_newest_checkpoints_are_kept(squares, tmp_path, scored):
    scored([1.0] * 7)
    run(options(squares, tmp_path, *BEST, "SOLVER.CHECKPOINT_PERIOD", "1", "SOLVER.CHECKPOINT_KEEP", "2"))
    assert sorted(path.name for path in tmp_path.glob("*.pth")) == [
        "model_0000004.pth", "model_0000005.pth", "model_best.pth", "model_final.pth"]


def test_later_and_other_files_are_not_deleted(tmp_path):
    """As where a run was resumed from an earlier checkpoint."""
    for name in ("model_0000001", "model_0000003", "model_0000009", "model_12", "model_mine"):
        (tmp_path / f"{name}.pth").touch()
    StrictCheckpointer(torch.nn.Linear(1, 1), str(tmp_path)).keep_newest(1, iteration=5)
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["model_0000003", "model_0000009", "model_12",
                                                                "model_mine"]

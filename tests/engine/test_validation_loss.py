"""The losses of a test set's pictures: their mean, the same each time, and a model that is left as it was."""
import json

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import nn

from freqdino.commands.train import run
from freqdino.config import load_config
from freqdino.data import register_custom_datasets
from freqdino.engine.validation_loss import ValidationLoss
from freqdino.errors import DataError
from helpers import small_mask_dino, small_models
from helpers.small_training import fails, options

pytestmark = pytest.mark.usefixtures("loggers_as_before")


def settings(squares, tmp_path, *more):
    register_custom_datasets([squares])
    return load_config(opts=options(squares, tmp_path, *more))


class Brightness(nn.Module):
    """Its loss is a picture's largest value; it drops nothing and keeps no statistics, though it gives losses."""

    def __init__(self):
        super().__init__()
        self.drop, self.norm = nn.Dropout(0.9), nn.BatchNorm1d(1)

    def forward(self, batch):
        assert self.training and not self.drop.training and not self.norm.training
        (sample,) = batch
        value = sample["image"].max().float()
        return {"loss": self.drop(value), "loss_0": value, "drawn": torch.rand(())}


def test_the_mean_over_all_pictures(squares, tmp_path):
    """Bright squares are 230 on a ground of 128, dark ones below: two pictures of either kind."""
    model = Brightness().train()
    model.norm.eval()
    random = torch.get_rng_state()
    losses, again = (ValidationLoss(settings(squares, tmp_path))(model)["validation"] for _ in range(2))
    assert losses == again and losses.keys() == {"loss", "drawn", "total_loss"}
    assert losses["loss"] == (230 + 128) / 2
    assert losses["total_loss"] == pytest.approx(2 * losses["loss"] + losses["drawn"], rel=1e-6)
    assert model.training and model.drop.training and not model.norm.training
    assert torch.equal(random, torch.get_rng_state())


def test_mask_dino_s_are_those_of_training(squares, tmp_path):
    """Those of the denoising queries too; without dropout and with one picture a batch they are what training gives."""
    model_words = [str(word) for item in {**small_models.OPTIONS, **small_mask_dino.OPTIONS}.items() for word in item]
    cfg = settings(squares, tmp_path, *model_words, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "2", "MODEL.WEIGHTS", "")
    model = build_model(cfg).eval()
    validation = ValidationLoss(cfg)
    losses = validation(model)["validation"]
    assert not model.training and all(value >= 0 for value in losses.values())
    with EventStorage(), torch.no_grad():
        expected = model.train()([validation._mapper(validation._records[0])])
    assert losses.keys() - {"total_loss"} == {key for key in expected if not key[-1].isdigit()}
    assert any("_dn" in key for key in losses)


def test_a_training_notes_it_and_keeps_the_best_by_it(squares, tmp_path):
    run(options(squares, tmp_path, "TEST.VALIDATION_LOSS", "True", "TEST.KEEP_BEST", "validation/total_loss",
                "TEST.EVAL_PERIOD", "2"))
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    values = [line["validation/total_loss"] for line in lines if "validation/total_loss" in line]
    assert values and all(value > 0 for value in values)
    assert "validation/loss_mask" in lines[-1] or "validation/loss_mask" in lines[0]
    best = torch.load(tmp_path / "model_best.pth", weights_only=True)
    assert best["metric"]["validation/total_loss"] <= min(values) + 1e-6


def test_two_processes_agree(squares, tmp_path):
    run(["--num-gpus", "2", "--dist-url", "auto", *options(
        squares, tmp_path / "two", "TEST.VALIDATION_LOSS", "True", "SOLVER.MAX_ITER", "1", "SOLVER.BASE_LR", "1e-12")])
    run(options(squares, tmp_path / "one", "TEST.VALIDATION_LOSS", "True", "SOLVER.MAX_ITER", "1", "SOLVER.BASE_LR",
                "1e-12"))
    one, two = (json.loads((tmp_path / name / "metrics.json").read_text().splitlines()[-1])
                for name in ("one", "two"))
    assert two["validation/total_loss"] == pytest.approx(one["validation/total_loss"], rel=0.05)


def test_data_of_another_kind_are_refused(squares, tmp_path, capsys):
    cfg = settings(squares, tmp_path, "INPUT.DATASET_MAPPER_NAME", "mask_former_semantic")
    with pytest.raises(DataError, match="mask_former_semantic does not read the data set"):
        ValidationLoss(cfg)
    error = fails(capsys, options(squares, tmp_path, "TEST.KEEP_BEST", "validation/total_loss"))
    assert "TEST.KEEP_BEST is 'validation/total_loss'; expected a metric of what is evaluated" in error

"""SOLVER.ACCUMULATE: parts of a batch teach what the batch does, an iteration is one step of the optimiser."""
import shutil
from unittest.mock import patch

import pytest
import torch
from torch import nn

from freqdino.commands.train import run
from freqdino.config import load_config
from freqdino.engine.accumulation import AccumulatingAMPTrainer, AccumulatingTrainer
from freqdino.engine.solver import build_optimizer
from freqdino.errors import ConfigError
from helpers.small_mask_dino import OPTIONS as MASK_DINO
from helpers.small_models import RESNET18, example, small_model
from helpers.small_training import fails, options
from helpers.two_processes import fixed_rand

pytestmark = pytest.mark.usefixtures("loggers_as_before")


class Slope(nn.Module):
    """loss = mean over the images of w · x: the gradient is the mean of x."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))

    def forward(self, batch):
        return {"loss": (self.w * torch.tensor(batch)).mean()}


def gradient(model, batch, parts):
    """Gradients by name after the passes of one iteration, and the losses that it reports."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    trainer = AccumulatingTrainer(model, [batch], optimizer, parts=parts)
    reported = {}
    trainer._write_metrics = lambda losses, time: reported.update(losses)
    with patch("torch.rand", fixed_rand):
        trainer.run_step()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()
            if parameter.requires_grad}, reported


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_the_gradient_and_the_loss_are_those_of_the_batch(parts):
    model = Slope()
    model.w.data.fill_(2.0)
    found, reported = gradient(model, [1.0, 2.0, 3.0, 6.0], parts)
    assert found["w"].item() == 3.0 and reported["loss"].item() == 6.0


def test_a_batch_that_cannot_be_shared():
    for batch in ([1.0, 2.0, 3.0], []):
        with pytest.raises(ConfigError, match=f"SOLVER.ACCUMULATE is 2, which does not divide the {len(batch)} images"):
            gradient(Slope(), batch, 2)


def test_the_clip_acts_on_the_sum_and_a_step_follows_all_parts():
    """The mean is 3, the parts' gradients 1.5 and 4.5 before they are halved: clipped to a norm of 1, once."""
    cfg = load_config(opts=["SOLVER.CLIP_GRADIENTS.ENABLED", "True", "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model",
                            "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "1.0", "SOLVER.OPTIMIZER", "SGD", "SOLVER.MOMENTUM",
                            "0.0", "SOLVER.WEIGHT_DECAY", "0.0", "SOLVER.BASE_LR", "1.0"])
    model = Slope()
    trainer = AccumulatingTrainer(model, [[1.0, 2.0, 3.0, 6.0]], build_optimizer(cfg, model), parts=2)
    trainer._write_metrics = lambda losses, time: None
    trainer.run_step()
    assert model.w.item() == pytest.approx(-1.0)


@pytest.mark.parametrize("bad, after, scale", [(False, -3.0, 8.0), (True, 0.0, 4.0)])
def test_the_loss_scale_is_one_for_all_parts(bad, after, scale):
    """An infinite gradient of one part leaves out the step of all; the scale is halved once."""
    model = Slope()
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, backoff_factor=0.5)
    trainer = AccumulatingAMPTrainer(model, [[float("inf") if bad else 1.0, 2.0, 3.0, 6.0]],
                                     torch.optim.SGD(model.parameters(), lr=1.0), grad_scaler=scaler,
                                     precision=torch.bfloat16, parts=2)
    trainer._write_metrics = lambda losses, time: None
    trainer.run_step()
    assert model.w.item() == after and scaler.get_scale() == scale


def crowded(*counts):
    """Images of one size with so many objects each."""
    torch.manual_seed(5)
    return [example(64, 64, [index % 3 for index in range(count)]) for count in counts]


@pytest.mark.parametrize("options", [{}, {"MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 2},
                                     {**MASK_DINO, "MODEL.MaskDINO.DN": "no"}])
def test_images_with_other_numbers_of_objects_weigh_as_in_the_batch(options):
    """Also where objects are more than queries, or none: the batch's number of objects normalises, not the part's."""
    torch.manual_seed(0)
    model = small_model(options)
    batch = crowded(3, 0, 1, 0)
    whole, loss = gradient(model, batch, 1)
    for parts in (2, 4):
        found, reported = gradient(model, batch, parts)
        assert {name: value.item() for name, value in reported.items()} == pytest.approx(
            {name: value.item() for name, value in loss.items()}, rel=1e-4, abs=1e-6)
        assert [name for name in whole if not torch.allclose(
            found[name], whole[name], rtol=1e-3, atol=1e-4 * float(whole[name].abs().max() + 1e-6))] == []


def test_batch_normalisation_is_said_to_differ(caplog):
    model = small_model({**RESNET18, "MODEL.RESNETS.NORM": "BN"})
    AccumulatingTrainer(model, [], None, parts=1)
    assert "SOLVER.ACCUMULATE" not in caplog.text
    AccumulatingTrainer(model, [], None, parts=2)
    assert ("SOLVER.ACCUMULATE 2: 20 batch normalisations that learn, the first is backbone.stem.conv1.norm, see one "
            "part") in caplog.text


RUN = ["SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "2", "MODEL_EMA.ENABLED", "True", "DATASETS.TEST", "()",
       "SOLVER.IMS_PER_BATCH", "4", "MODEL.MASK_FORMER.DROPOUT", "0.2"]


def test_a_run_in_parts_resumes_where_it_was(squares, tmp_path):
    """Weights, average, optimiser and rate of four steps; a step reads IMS_PER_BATCH images, whatever the parts."""
    words = [*RUN, "SOLVER.ACCUMULATE", "2"]
    run(options(squares, tmp_path / "straight", *words))
    (tmp_path / "resumed").mkdir()
    shutil.copy(tmp_path / "straight" / "model_0000001.pth", tmp_path / "resumed")
    run(["--resume", *options(squares, tmp_path / "resumed", *words)])
    one, other = (torch.load(tmp_path / name / "model_0000003.pth", weights_only=True)
                  for name in ("straight", "resumed"))
    assert one["processes"][0]["data"]["next"] == other["processes"][0]["data"]["next"] == 16
    steps = {entry["step"].item() for entry in one["trainer"]["_trainer"]["optimizer"]["state"].values()}
    assert steps == {4.0} and one["trainer"]["hooks"]["LRScheduler"]["last_epoch"] == 4
    for states in ((one["model"], other["model"]),
                   tuple(state["trainer"]["hooks"]["WeightAveraging"] for state in (one, other))):
        assert [name for name, tensor in states[0].items() if not torch.equal(tensor, states[1][name])] == []
    run(["--resume", *options(squares, tmp_path / "resumed", *RUN, "SOLVER.MAX_ITER", "5", "SOLVER.ACCUMULATE", "4")])
    assert "New: SOLVER.ACCUMULATE 2 -> 4; SOLVER.MAX_ITER 4 -> 5" in (
        tmp_path / "resumed" / "log.txt").read_text()


def test_numbers_that_do_not_divide(squares, tmp_path, capsys):
    for words, message in ((["SOLVER.ACCUMULATE", "3"], "SOLVER.ACCUMULATE is 3; it must divide SOLVER.IMS_PER_BATCH, "
                            "4\n"),
                           (["SOLVER.ACCUMULATE", "0"], "SOLVER.ACCUMULATE is 0; it must be at least 1"),
                           (["SOLVER.ACCUMULATE", "2", "SOLVER.REFERENCE_WORLD_SIZE", "4"],
                            "SOLVER.IMS_PER_BATCH, 4, of each of SOLVER.REFERENCE_WORLD_SIZE 4 processes: 1"),
                           (["SOLVER.ACCUMULATE", "4", "--num-gpus", "2"],
                            "SOLVER.IMS_PER_BATCH 4 cannot be shared equally by 2 processes in SOLVER.ACCUMULATE 4 "
                            "parts each; set a multiple of 8")):
        arguments, keys = (words[2:], words[:2]) if "--num-gpus" in words else ([], words)
        assert message in fails(capsys, [*arguments, *options(squares, tmp_path, *RUN, *keys)])

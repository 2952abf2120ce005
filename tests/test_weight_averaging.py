"""The moving average of the weights against its formula, and what it keeps."""
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from freqdino.weight_averaging import WeightAveraging


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


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_decay_out_of_range(tmp_path, decay):
    with pytest.raises(ValueError, match=f"decay must be at least 0 and below 1, got {decay}"):
        averaging_of(nn.Linear(1, 1), tmp_path, decay)

"""How frequency modules take a plain network's entries: what they add, convert, keep and refuse, without changing."""
import copy

import pytest
import torch
from torch import nn

from freqdino.frequency import FDAMBlock, FDConv, FrequencyScale, InversionGates, ResidualFrequencyScale
from helpers.modules import randomised


def test_a_plain_convolution_becomes_a_neutral_fdconv_and_the_module_stays():
    plain, layer = nn.Conv2d(20, 24, 3, padding=1), randomised(FDConv(20, 24, 3, padding=1, kernel_num=4), std=1.0)
    before = copy.deepcopy(layer.state_dict())
    state = {f"a.{name}": tensor for name, tensor in plain.state_dict().items()}
    neutral = layer.adapt_plain_state(state, "a.")
    assert {f"a.{name}" for name in before} == set(state)
    assert set(neutral) == set(state) - {"a.dft_weight", "a.bias"}
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())
    layer.load_state_dict({name.removeprefix("a."): tensor for name, tensor in state.items()})
    x = torch.randn(2, 20, 9, 12)
    torch.testing.assert_close(layer(x), plain(x), rtol=1e-4, atol=1e-4)


def test_entries_of_the_module_itself_stay():
    for module in (FDConv(20, 24, 3, kernel_num=4), FrequencyScale(32), InversionGates(32, 2),
                   FDAMBlock(dim=32, num_heads=2)):
        state = {f"a.{name}": tensor for name, tensor in randomised(module, std=1.0).state_dict().items()}
        expected = dict(state)
        assert module.adapt_plain_state(state, "a.") == []
        assert state.keys() == expected.keys() and all(state[name] is tensor for name, tensor in expected.items())


def test_a_weight_of_another_shape_is_refused_and_nothing_changes():
    state = nn.Conv2d(20, 24, 1).state_dict()
    names = list(state)
    with pytest.raises(ValueError, match=r"size mismatch for weight.*\(24, 20, 1, 1\).*\(24, 20, 3, 3\)"):
        FDConv(20, 24, 3, kernel_num=4).adapt_plain_state(state, "")
    assert list(state) == names


def test_an_inactive_fdconv_is_the_plain_layer():
    state = nn.Conv2d(3, 24, 3).state_dict()
    assert FDConv(3, 24, 3).adapt_plain_state(state, "") == [] and set(state) == {"weight", "bias"}


def test_residual_frequency_scale_is_the_scale_of_fdams_blocks():
    residual = randomised(ResidualFrequencyScale(32), std=1.0)
    block = FDAMBlock(dim=32, num_heads=2)
    block.freq_scale_1.load_state_dict(residual.state_dict())
    x = torch.randn(2, 32, 5, 7)
    torch.testing.assert_close(residual(x), x + block.freq_scale_1(x), rtol=1e-4, atol=1e-4)

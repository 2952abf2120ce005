"""A linear layer converted to FDLinear: the same function, what stays frozen, bad input."""

import pytest
import torch
from torch import nn

from freqdino.frequency import FDLinear
from freqdino.frequency.fdconv.conversion import fdlinear_from_linear


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("features", [(32, 48), (48, 17), (8, 64)])
def test_function_and_settings_are_kept(features, bias):
    torch.manual_seed(0)
    plain = nn.Linear(*features, bias=bias, dtype=torch.float64).eval()
    converted = fdlinear_from_linear(plain, kernel_num=8)
    tokens = torch.randn(2, 9, features[0], dtype=torch.float64)
    assert type(converted) is FDLinear and converted.active == (min(features) > 16) and not converted.training
    torch.testing.assert_close(converted(tokens), plain(tokens), rtol=1e-6, atol=1e-6)


def test_modulation_of_a_frozen_layer_learns():
    converted = fdlinear_from_linear(nn.Linear(32, 32).requires_grad_(False), kernel_num=8)
    assert {name.partition(".")[0] for name, parameter in converted.named_parameters() if parameter.requires_grad} == {
        "KSM_Global", "KSM_Local"}
    assert not converted.dft_weight.requires_grad and not converted.bias.requires_grad


def test_bad_input():
    with pytest.raises(ValueError, match="kernel_num must be at least 1, got 0"):
        fdlinear_from_linear(nn.Linear(32, 32), kernel_num=0)
    with pytest.raises(ValueError, match="NonDynamicallyQuantizableLinear may compute something else than nn.Linear"):
        fdlinear_from_linear(nn.MultiheadAttention(32, 2).out_proj, kernel_num=8)

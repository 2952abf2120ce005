"""Attention inversion: the equation by hand, no N × N memory, bad input."""

import pytest
import torch

from freqdino.frequency.fdam.attention_inversion import AttentionInversion, InversionGates, attention_inversion
from freqdino.ops import blocking
from helpers.refusals import refuses


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5)
    return module


def inverted_by_hand(layer: AttentionInversion, x: torch.Tensor) -> torch.Tensor:
    """Head by head with the attention matrix, straight from the equations."""
    dim, width = layer.dim, layer.dim // layer.num_heads
    q, k, v = (x @ layer.qkv.weight.T + layer.qkv.bias).split(dim, -1)
    features = layer.dy_freq_starrelu.scale * x.clamp(min=0) ** 2 + layer.dy_freq_starrelu.bias
    low = (features @ layer.dy_freq_2.weight.T + layer.dy_freq_2.bias).tanh()
    strength = (1 + (features @ layer.dy_freq.weight.T + layer.dy_freq.bias).exp()).log() ** 2
    high = 2 * strength / (strength + 0.3678)
    heads = []
    for head in range(layer.num_heads):
        part = slice(head * width, (head + 1) * width)
        o = (q[..., part] @ k[..., part].mT / width**0.5).softmax(-1) @ v[..., part]
        heads.append(o + o * low[..., head:head + 1] * layer.lf_gamma[part]
                     + (v[..., part] - o) * high[..., head:head + 1] * layer.hf_gamma[part])
    return torch.cat(heads, -1) @ layer.proj.weight.T + layer.proj.bias


def test_equation_34():
    value, attended = torch.tensor([[3.0, -1.0]]), torch.tensor([[1.0, 2.0]])
    low, high = torch.tensor([[0.5, 0.1]]), torch.tensor([[2.0, 0.25]])
    both = attention_inversion(value, attended, low, high)
    torch.testing.assert_close(both, torch.tensor([[1 + 0.5 + 4, 2 + 0.2 - 0.75]]))
    torch.testing.assert_close(attention_inversion(value, attended, low=low), torch.tensor([[1.5, 2.2]]))
    torch.testing.assert_close(attention_inversion(value, attended, high=high), torch.tensor([[5.0, 1.25]]))
    assert torch.equal(attention_inversion(value, attended), attended)


@pytest.mark.parametrize("tokens", [1, 7, 700])
@pytest.mark.parametrize("gradient", [True, False])
def test_agrees_with_the_attention_matrix(tokens, gradient, monkeypatch):
    monkeypatch.setitem(blocking.BUDGET, "cpu", 4 * 12 * 8 * 50)
    layer = randomised(AttentionInversion(12, 3, qkv_bias=True)).double()
    x = torch.randn(2, tokens, 12, dtype=torch.float64)
    with torch.set_grad_enabled(gradient):
        torch.testing.assert_close(layer(x), inverted_by_hand(layer, x))


@pytest.mark.parametrize("half", ["lf", "hf"])
def test_a_half_that_is_switched_off_has_no_parameters_and_no_effect(half):
    layer = randomised(AttentionInversion(12, 3, qkv_bias=True))
    reduced = AttentionInversion(12, 3, qkv_bias=True, **{f"{half}_dy_weight": False})
    left_out = {"lf": {"lf_gamma", "dy_freq_2.weight", "dy_freq_2.bias"},
                "hf": {"hf_gamma", "dy_freq.weight", "dy_freq.bias"}}[half]
    assert set(layer.state_dict()) - set(reduced.state_dict()) == left_out
    reduced.load_state_dict(layer.state_dict(), strict=False)
    getattr(layer, f"{half}_gamma").data.zero_()
    x = torch.randn(1, 9, 12)
    torch.testing.assert_close(reduced(x), layer(x))


def test_without_both_halves_it_is_plain_attention():
    layer = AttentionInversion(12, 3, lf_dy_weight=False, hf_dy_weight=False)
    assert set(layer.state_dict()) == {"qkv.weight", "proj.weight", "proj.bias"}
    plain = torch.nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        plain.in_proj_weight.copy_(layer.qkv.weight)
        plain.out_proj.load_state_dict(layer.proj.state_dict())
    x = torch.randn(2, 5, 12)
    torch.testing.assert_close(layer(x), plain(x, x, x, need_weights=False)[0])


def test_parameter_count_of_the_deformable_encoder():
    assert sum(parameter.numel() for parameter in InversionGates(256, 8).parameters()) == 4626


def test_starts_as_the_attention_it_replaces():
    gates = InversionGates(16, 4)
    value, attended, query = torch.randn(3, 2, 6, 16)
    assert (gates(value, attended, query) - attended).abs().max() < 1e-3
    assert torch.equal(gates.lf_gamma, torch.full((16,), 1e-5)) and torch.equal(gates.hf_gamma, gates.lf_gamma)


def test_window_layout_and_strided_values():
    gates = randomised(InversionGates(8, 2))
    qkv = torch.randn(3, 2, 5, 24)
    value, attended, query = qkv[..., 16:], qkv[..., :8], qkv[..., 8:16]
    expected = torch.stack([gates(value[i].contiguous(), attended[i].contiguous(), query[i].contiguous())
                            for i in range(3)])
    torch.testing.assert_close(gates(value, attended, query), expected)
    with torch.no_grad():
        torch.testing.assert_close(gates(value, attended, query), expected)


def test_no_token_by_token_matrix_forward_or_backward():
    layer = AttentionInversion(16, 2)
    x = torch.randn(1, 1024, 16, requires_grad=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        layer(x).sum().backward()
    names = {event.name for event in profile.events()}
    assert any("flash_attention_for_cpu" in name for name in names)
    assert any("flash_attention_for_cpu_backward" in name for name in names)
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert 0 < largest < 1024 * 1024 * 4 / 2


def test_a_strong_gate_stays_finite_in_float16():
    gates = InversionGates(4, 1)
    with torch.no_grad():
        gates.dy_freq.bias.fill_(1000.0)
        gates.hf_gamma.fill_(1.0)
    tokens = torch.ones(1, 2, 4, dtype=torch.float16)
    result = gates.half()(value=3 * tokens, attended=tokens, query=-tokens)
    # The gate saturates at 2: attended + 2 (value - attended) = 5.
    torch.testing.assert_close(result, torch.full_like(result, 5.0), atol=2e-2, rtol=0)


@pytest.mark.parametrize("gradient", [True, False])
def test_no_tokens(gradient):
    with torch.set_grad_enabled(gradient):
        assert AttentionInversion(12, 3)(torch.zeros(2, 0, 12)).shape == (2, 0, 12)


test_bad_input = refuses(lambda run: run(), [
    (lambda: AttentionInversion(48, 5), "num_heads must divide the 48 channels, got 5"),
    (lambda: InversionGates(48, 0), "divide the 48 channels, got 0"),
    (lambda: InversionGates(48, 8.0), "divide the 48 channels, got 8.0"),
    (lambda: InversionGates(0, 8), "dim must be at least 1, got 0"),
    (lambda: AttentionInversion(12, 3)(torch.zeros(1, 4, 10)), "x has 10 channels, the layer's dim is 12"),
    (lambda: AttentionInversion(12, 3)(torch.zeros(1, 12, 4, 4)), r"3 dimensions \(B, N, C\), got 4"),
    (lambda: InversionGates(12, 3)(*torch.zeros(3, 1, 4, 10)), "query has 10 channels, the layer's dim is 12"),
    (lambda: InversionGates(12, 3)(torch.zeros(1, 5, 12), *torch.zeros(2, 1, 4, 12)), r"value \(1, 5, 12\)"),
    (lambda: attention_inversion(torch.zeros(2, 3), torch.zeros(2, 4)), r"\(2, 3\), attended \(2, 4\)"),
])

"""Attention against torch's own with the same weights; the residual frames written out."""
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from freqdino.layers.transformer import CrossAttentionLayer, FeedForwardLayer, MultiheadAttention, SelfAttentionLayer

HEADS, DIM = 2, 8


def attention_pair():
    ours = MultiheadAttention(DIM, HEADS)
    theirs = nn.MultiheadAttention(DIM, HEADS, batch_first=True)
    nn.init.normal_(ours.in_proj_bias)
    nn.init.normal_(ours.out_proj.bias)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def random_mask(*shape):
    blocked = torch.rand(shape) < 0.5
    blocked[..., 0] = False
    return blocked


@pytest.mark.parametrize("mask", [None, "shared", "per image"])
def test_cross_attention_equals_torch(mask):
    ours, theirs = attention_pair()
    query, key, value = torch.randn(3, 5, DIM), torch.randn(3, 7, DIM), torch.randn(3, 7, DIM)
    blocked = {None: None, "shared": random_mask(5, 7), "per image": random_mask(3, 5, 7)}[mask]
    repeated = blocked.repeat_interleave(HEADS, dim=0) if mask == "per image" else blocked
    expected, _ = theirs(query, key, value, attn_mask=repeated, need_weights=False)
    assert torch.allclose(ours(query, key, value, blocked), expected, atol=1e-6)


def test_self_attention_equals_torch():
    # The same tensor as query and key takes one projection for both.
    ours, theirs = attention_pair()
    placed, value = torch.randn(2, 5, DIM), torch.randn(2, 5, DIM)
    expected, _ = theirs(placed, placed, value, need_weights=False)
    assert torch.allclose(ours(placed, placed, value), expected, atol=1e-6)
    assert torch.allclose(ours(placed, placed.clone(), value), expected, atol=1e-6)


def test_blocked_keys_have_no_influence():
    ours, _ = attention_pair()
    query, memory = torch.randn(2, 3, DIM), torch.randn(2, 4, DIM)
    blocked = torch.zeros(2, 3, 4, dtype=torch.bool)
    blocked[0, 1, 2] = True
    before = ours(query, memory, memory, blocked)
    memory[0, 2] += 1
    changed = (ours(query, memory, memory, blocked) - before).abs().sum(dim=-1) > 1e-4
    assert changed.tolist() == [[True, False, True], [False, False, False]]


def test_attention_gradient():
    ours = attention_pair()[0].double()
    query, memory = (torch.randn(1, n, DIM, dtype=torch.float64, requires_grad=True) for n in (2, 3))
    blocked = torch.tensor([[[False, True, False], [False, False, True]]])
    assert torch.autograd.gradcheck(lambda q, m: ours(q, m, m, blocked), (query, memory))


def test_attention_of_no_queries():
    ours, _ = attention_pair()
    assert ours(torch.zeros(2, 0, DIM), torch.randn(2, 4, DIM), torch.randn(2, 4, DIM)).shape == (2, 0, DIM)


def test_published_keys():
    attention = {"in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"}
    norm = {"norm.weight", "norm.bias"}
    assert set(SelfAttentionLayer(DIM, HEADS).state_dict()) == {f"self_attn.{key}" for key in attention} | norm
    assert set(CrossAttentionLayer(DIM, HEADS).state_dict()) == {f"multihead_attn.{key}" for key in attention} | norm
    assert set(FeedForwardLayer(DIM, 4).state_dict()) == {
        f"{linear}.{part}" for linear in ("linear1", "linear2") for part in ("weight", "bias")} | norm


def perturbed(layer):
    """The layer with a LayerNorm that is not the identity on normalised input, so that its place shows."""
    nn.init.uniform_(layer.norm.weight, 0.5, 2)
    nn.init.normal_(layer.norm.bias)
    return layer


def framed(layer, x, sublayer):
    """The residual sum in the order that pre_norm asks for."""
    return x + sublayer(layer.norm(x)) if layer.pre_norm else layer.norm(x + sublayer(x))


@pytest.mark.parametrize("pre_norm", [False, True])
def test_self_attention_layer(pre_norm):
    layer = perturbed(SelfAttentionLayer(DIM, HEADS, pre_norm=pre_norm))
    x, position = torch.randn(2, 5, DIM), torch.randn(1, 5, DIM)
    expected = framed(layer, x, lambda t: nn.MultiheadAttention.forward(
        layer.self_attn, t + position, t + position, t, need_weights=False)[0])
    assert torch.allclose(layer(x, position), expected, atol=1e-6)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_cross_attention_layer(pre_norm):
    layer = perturbed(CrossAttentionLayer(DIM, HEADS, pre_norm=pre_norm))
    x, memory = torch.randn(2, 5, DIM), torch.randn(2, 6, DIM)
    position, memory_position = torch.randn(1, 5, DIM), torch.randn(1, 6, DIM)
    blocked = random_mask(2, 5, 6)
    expected = framed(layer, x, lambda t: nn.MultiheadAttention.forward(
        layer.multihead_attn, t + position, memory + memory_position, memory, need_weights=False,
        attn_mask=blocked.repeat_interleave(HEADS, dim=0))[0])
    assert torch.allclose(layer(x, memory, position, memory_position, blocked), expected, atol=1e-6)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_feed_forward_layer(pre_norm):
    layer = perturbed(FeedForwardLayer(DIM, 16, pre_norm=pre_norm))
    x = torch.randn(2, 5, DIM)
    expected = framed(layer, x, lambda t: F.linear(
        F.linear(t, layer.linear1.weight, layer.linear1.bias).clamp(min=0), layer.linear2.weight, layer.linear2.bias))
    assert torch.allclose(layer(x), expected, atol=1e-6)

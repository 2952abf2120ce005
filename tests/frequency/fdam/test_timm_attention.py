"""Inverted attention of timm's classes against attention written out, token by token; the scaling of a branch."""
import math

import pytest
import torch
import torch.nn.functional as F
from timm.layers.attention import Attention, AttentionRope
from timm.layers.diff_attention import DiffAttention
from timm.models.beit import Attention as BeitAttention
from timm.models.eva import EvaAttention
from timm.models.vision_transformer_relpos import RelPosAttention
from torch import nn

from freqdino.frequency import FrequencyScale, InversionGates
from freqdino.frequency.fdam.timm_attention import GridTeller, ScaledBranch, TokenGrid
from freqdino.frequency.fdam.timm_attention_variants import inverted_class
from freqdino.ops.modules import put_before
from helpers.modules import randomised

DIM, HEADS, TOKENS, PREFIX = 24, 3, 11, 2
NORM = nn.LayerNorm


def inverted(attention):
    """With random gates, far from neutral."""
    put_before(inverted_class(attention), attention)
    attention.invert = InversionGates(DIM, HEADS)
    return randomised(attention, std=0.5).double().eval()


def written_out(attention, queries, keys, values, x, *, bias=0.0):
    """Equations 31 to 34 with A as a matrix, head by head. queries, keys, values: (B, h, N, d)."""
    return of_matrices(attention, (queries @ keys.mT / math.sqrt(queries.shape[-1]) + bias).softmax(-1), values, x)


def of_matrices(attention, matrices, values, x):
    gates, width = attention.invert, values.shape[-1]
    star = gates.dy_freq_starrelu.scale * x.relu() ** 2 + gates.dy_freq_starrelu.bias
    results = []
    for head in range(HEADS):
        A = matrices[:, head]
        low = torch.tanh(star @ gates.dy_freq_2.weight[head] + gates.dy_freq_2.bias[head])[..., None]
        strength = F.softplus(star @ gates.dy_freq.weight[head] + gates.dy_freq.bias[head])[..., None] ** 2
        high = 2 * strength / (strength + 0.3678)
        channels = slice(head * width, (head + 1) * width)
        value, attended = values[:, head], A @ values[:, head]
        results.append(attended + attended * low * gates.lf_gamma[channels]
                       + (value - attended) * high * gates.hf_gamma[channels])
    return torch.cat(results, dim=-1)


def heads(tokens):
    return torch.stack(tokens.split(DIM // HEADS, dim=-1), dim=1)


@pytest.fixture
def x():
    return torch.randn(2, TOKENS, DIM, dtype=torch.float64)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("mask", ["none", "bool", "added", "causal"])
@torch.no_grad()
def test_plain_attention(x, mask, fused):
    attention = inverted(Attention(DIM, HEADS, qkv_bias=True, qk_norm=True, scale_norm=True, norm_layer=NORM))
    attention.fused_attn = fused
    queries, keys, values = map(heads, F.linear(x, attention.qkv.weight, attention.qkv.bias).split(DIM, dim=-1))
    allowed = torch.rand(TOKENS, TOKENS) < 0.6
    allowed.fill_diagonal_(True)
    added = torch.randn(TOKENS, TOKENS, dtype=torch.float64)
    options, bias = {"none": ({}, 0.0), "bool": ({"attn_mask": allowed}, torch.where(allowed, 0.0, -torch.inf)),
                     "added": ({"attn_mask": added}, added),
                     "causal": ({"is_causal": True}, torch.full((TOKENS, TOKENS), -torch.inf).triu(1))}[mask]
    expected = written_out(attention, attention.q_norm(queries), attention.k_norm(keys), values, x, bias=bias)
    torch.testing.assert_close(attention(x, **options), attention.proj(attention.norm(expected)))


def turned(tokens, angles, *, halves):
    """Pairs of channels as complex numbers, times exp(i · angle); the first tokens have no position."""
    prefix, patches = tokens[:, :, :PREFIX], tokens[:, :, PREFIX:]
    width = patches.shape[-1]
    pairs = [(i, i + width // 2) if halves else (2 * i, 2 * i + 1) for i in range(width // 2)]
    result = patches.clone()
    for index, (real, imaginary) in enumerate(pairs):
        number = torch.complex(patches[..., real], patches[..., imaginary]) * torch.exp(1j * angles[:, index])
        result[..., real], result[..., imaginary] = number.real, number.imag
    return torch.cat((prefix, result), dim=2)


def rope_of(angles, *, halves):
    """As timm hands it over: the sines of all channels, then the cosines."""
    by_channel = torch.cat((angles, angles), dim=-1) if halves else angles.repeat_interleave(2, dim=-1)
    return torch.cat((by_channel.sin(), by_channel.cos()), dim=-1)


@pytest.mark.parametrize("halves", [True, False])
@pytest.mark.parametrize("kind", ["one projection", "three projections", "bias beside", "bias apart"])
@torch.no_grad()
def test_rotary_attention(x, kind, halves):
    options = {"num_prefix_tokens": PREFIX, "norm_layer": NORM, "scale_norm": True, "rotate_half": halves,
               "qkv_fused": kind != "three projections", "qkv_bias": "bias" in kind}
    attention = inverted(EvaAttention(DIM, HEADS, qkv_bias_separate=kind == "bias apart", **options))
    if kind == "three projections":
        projected = attention.q_proj(x), attention.k_proj(x), attention.v_proj(x)
    else:
        projected = (x @ attention.qkv.weight.mT).split(DIM, dim=-1)
        if "bias" in kind:
            projected = projected[0] + attention.q_bias, projected[1], projected[2] + attention.v_bias
    angles = torch.randn(TOKENS - PREFIX, DIM // HEADS // 2, dtype=torch.float64)
    queries, keys, values = map(heads, projected)
    expected = written_out(attention, *(turned(t, angles, halves=halves) for t in (queries, keys)), values, x)
    torch.testing.assert_close(attention(x, rope=rope_of(angles, halves=halves)),
                               attention.proj(attention.norm(expected)))


@torch.no_grad()
def test_fewer_heads_of_keys_and_values_and_a_gate(x):
    attention = inverted(AttentionRope(DIM, HEADS, qkv_fused=False, num_kv_heads=1, gated=True))
    queries, key, value = heads(attention.q_proj(x)), attention.k_proj(x)[:, None], attention.v_proj(x)[:, None]
    expected = written_out(attention, queries, key.expand_as(queries), value.expand_as(queries), x)
    torch.testing.assert_close(attention(x), attention.proj(expected * attention.gate(x).sigmoid()))


@torch.no_grad()
def test_biases_by_relative_position():
    x, shared = torch.randn(2, 7, DIM, dtype=torch.float64), torch.randn(1, HEADS, 7, 7, dtype=torch.float64)
    beit = inverted(BeitAttention(DIM, HEADS, qkv_bias=True, window_size=(2, 3)))
    relative = inverted(RelPosAttention(DIM, HEADS))
    for attention, own in ((beit, beit.relative_position_bias_table[beit.relative_position_index].permute(2, 0, 1)),
                           (relative, torch.zeros(HEADS, 7, 7))):
        queries, keys, values = (x @ attention.qkv.weight.mT).split(DIM, dim=-1)
        if attention is beit:
            queries, values = queries + beit.q_bias, values + beit.v_bias
        queries, keys, values = heads(queries), heads(keys), heads(values)
        bias = own + shared[0]
        expected = written_out(attention, queries, keys, values, x, bias=bias)
        torch.testing.assert_close(attention(x, shared), attention.proj(expected))


@pytest.mark.parametrize("fused", [True, False])
@torch.no_grad()
def test_differential_attention(x, fused):
    """A is the difference of two, of queries and keys of half a head's channels; then each head is normalised."""
    attention = inverted(DiffAttention(DIM, HEADS, depth=2))
    attention.fused_attn = fused
    projected = (x @ attention.qkv.weight.mT).split(DIM, dim=-1)
    queries, keys, values = map(heads, projected)
    first, second = ((queries[..., part] @ keys[..., part].mT / 2).softmax(-1) for part in (slice(0, 4), slice(4, 8)))
    start = 0.8 - 0.6 * math.exp(-0.3 * 2)
    share = (start + (attention.lambda_q1 @ attention.lambda_k1).exp()
             - (attention.lambda_q2 @ attention.lambda_k2).exp())
    result = heads(of_matrices(attention, first - share * second, values, x))
    normed = result / (result.square().mean(-1, keepdim=True) + 1e-5).sqrt() * attention.sub_norm.weight * (1 - start)
    torch.testing.assert_close(attention(x), attention.proj(normed.transpose(1, 2).flatten(2)), rtol=1e-5, atol=1e-6)


class Patches(nn.Identity):
    """As timm's patch embedding says it, with patches of 2 × 2."""

    def dynamic_feat_size(self, size):
        return size[0] // 2, size[1] // 2


def scaled_branch(prefix_tokens):
    patches, branch = Patches(), nn.Identity()
    for module, addition in ((patches, GridTeller), (branch, ScaledBranch)):
        put_before(addition, module)
    patches.token_grid = branch.token_grid = TokenGrid()
    branch.prefix_tokens = prefix_tokens
    branch.freq_scale = randomised(FrequencyScale(16, group=16, reweight_expansion_ratio=1 / 16), std=1.0)
    return patches, branch


@pytest.mark.parametrize("prefix_tokens", [0, 3])
@torch.no_grad()
def test_a_branch_is_scaled_as_the_map_that_its_patches_are(prefix_tokens):
    patches, branch = scaled_branch(prefix_tokens)
    for height, width in ((3, 5), (4, 2)):
        patches(torch.zeros(1, 3, 2 * height, 2 * width))
        tokens = torch.randn(2, prefix_tokens + height * width, 16)
        result = branch(tokens)
        feature_map = tokens[:, prefix_tokens:].reshape(2, height, width, 16).permute(0, 3, 1, 2)
        expected = feature_map + branch.freq_scale(feature_map)
        assert torch.equal(result[:, :prefix_tokens], tokens[:, :prefix_tokens])
        torch.testing.assert_close(result[:, prefix_tokens:].reshape(2, height, width, 16).permute(0, 3, 1, 2),
                                   expected, rtol=1e-4, atol=1e-4)
        assert (expected - feature_map).abs().max() > 0.1


def test_tokens_that_are_no_map_of_the_last_image():
    patches, branch = scaled_branch(1)
    with pytest.raises(ValueError, match="reads a map of 15 tokens, but no image has been embedded: call the whole"):
        branch(torch.zeros(1, 16, 16))
    patches(torch.zeros(1, 3, 6, 10))
    with pytest.raises(ValueError, match="a map of 14 tokens, but the last image has 3 × 5 patches: blocks cannot be "):
        branch(torch.zeros(1, 15, 16))

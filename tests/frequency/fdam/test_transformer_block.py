"""The plain transformer block and stochastic depth: their equations, bad input."""

import torch
import torch.nn.functional as F

from freqdino.frequency.fdam.transformer_block import DropPath, TransformerBlock
from helpers.refusals import refuses


def test_plain_block_is_its_equation():
    torch.manual_seed(0)
    block = TransformerBlock(dim=16, num_heads=2, mlp_ratio=2.0, init_values=0.5)
    x = torch.randn(2, 15, 16)

    def attention(tokens):
        q, k, v = F.linear(tokens, block.attn.qkv.weight, block.attn.qkv.bias).split(16, dim=-1)
        heads = [(q[..., part] @ k[..., part].mT / 8 ** 0.5).softmax(-1) @ v[..., part]
                 for part in (slice(0, 8), slice(8, 16))]
        return F.linear(torch.cat(heads, -1), block.attn.proj.weight, block.attn.proj.bias)

    expected = x + 0.5 * attention(F.layer_norm(x, (16,), eps=1e-6))
    hidden = F.gelu(F.linear(F.layer_norm(expected, (16,), eps=1e-6), block.mlp.fc1.weight, block.mlp.fc1.bias))
    expected = expected + 0.5 * F.linear(hidden, block.mlp.fc2.weight, block.mlp.fc2.bias)
    torch.testing.assert_close(block(x, (3, 5)), expected)


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    drop = DropPath(0.25)
    x = torch.ones(4000, 2, 3)
    y = drop(x)
    assert torch.equal(y, y[:, :1, :1].expand_as(y))
    assert set(y.unique().tolist()) == {0.0, x.new_tensor(1 / 0.75).item()}
    assert abs(y.mean().item() - 1) < 0.05
    assert drop.eval()(x) is x


test_bad_input = refuses(lambda run: run(), [
    (lambda: TransformerBlock(dim=40, num_heads=3), "divide the 40 channels, got 3"),
    (lambda: TransformerBlock(dim=-16, num_heads=2), "dim must be at least 1, got -16"),
    (lambda: TransformerBlock(dim=16, num_heads=2, mlp_ratio=0), "mlp_ratio must .* got 0 for dim 16"),
    (lambda: TransformerBlock(dim=16, num_heads=2, drop_path=1.0), "below 1, got 1.0"),
    (lambda: TransformerBlock(dim=16, num_heads=2)(torch.zeros(1, 7, 16), (2, 3)),
     r"\(B, 6, 16\).*2 × 3.*\(1, 7, 16\)"),
    (lambda: TransformerBlock(dim=16, num_heads=2)(torch.zeros(1, 6, 8), (2, 3)), r"\(B, 6, 16\).*got \(1, 6, 8\)"),
])

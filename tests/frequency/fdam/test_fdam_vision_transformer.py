"""FDAM's block and vision transformer: their equations, keys, start values, bad input."""
import torch

from freqdino.frequency import FDAMBlock, FDAMVisionTransformer
from freqdino.frequency.fdam.vision_transformer import VisionTransformer
from helpers.refusals import refuses


def small_backbone(**arguments) -> FDAMVisionTransformer:
    torch.manual_seed(0)
    return FDAMVisionTransformer(**{"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2,
                                    "mlp_ratio": 2.0, "init_values": 0.5, "out_indices": (0, 1), **arguments})


def randomised_block(dim: int = 16) -> FDAMBlock:
    block = FDAMBlock(dim=dim, num_heads=2, mlp_ratio=2.0)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_(std=0.5)
    return block


def test_block_is_its_equation():
    block = randomised_block()
    x = torch.randn(2, 15, 16)

    def branch(tokens, scale, gamma):
        scaled = scale(tokens.transpose(1, 2).reshape(2, 16, 3, 5)).reshape(2, 16, 15).transpose(1, 2)
        return gamma * (scaled + tokens)
    expected = x + branch(block.attn(block.norm1(x)), block.freq_scale_1, block.gamma_1)
    expected = expected + branch(block.mlp(block.norm2(expected)), block.freq_scale_2, block.gamma_2)
    torch.testing.assert_close(block(x, (3, 5)), expected, rtol=1e-4, atol=1e-4)


def test_plain_keys_are_fdams_without_its_own():
    arguments = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 1, "num_heads": 2, "out_indices": (0,)}
    plain, fdam = (set(transformer(**arguments).state_dict()) for transformer in
                   (VisionTransformer, FDAMVisionTransformer))
    layers = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    assert plain == {"pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias", "blocks.0.gamma_1",
                     "blocks.0.gamma_2",
                     *(f"blocks.0.{layer}.{kind}" for layer in layers for kind in ("weight", "bias"))}
    assert plain < fdam
    assert all(key.startswith(("blocks.0.freq_scale_", "blocks.0.attn.dy_freq", "blocks.0.attn.lf_gamma",
                               "blocks.0.attn.hf_gamma")) for key in fdam - plain)


def test_start_values():
    block = FDAMBlock(dim=32, num_heads=2)
    for gamma, start in ((block.gamma_1, 1e-4), (block.gamma_2, 1e-4), (block.attn.lf_gamma, 1e-5),
                         (block.attn.hf_gamma, 1e-5)):
        assert torch.equal(gamma, torch.full((32,), start))
    assert block.norm1.eps == block.norm2.eps == 1e-6
    assert 0 < block.freq_scale_1.complex_weights.abs().max() <= 2e-5


test_bad_input = refuses(lambda run: run(), [
    (lambda: small_backbone(embed_dim=40), "group 16 and dim 40"),
])

"""The plain and FDAM's block and vision transformer: published numbers, position embeddings, image sizes, bad input."""
import doctest
from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from golden_files import assert_agrees, load_golden, subset
from torch.autograd import gradcheck

from freqdino.frequency import FDAMBlock, FDAMVisionTransformer
from freqdino.frequency.fdam_block import DropPath, TransformerBlock
from freqdino.frequency.fdam_vit import VisionTransformer, adapt_position_embedding, resize_position_embedding


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


def published_backbone():
    tensors, case = load_golden("modules/fdam_vit")
    arguments = case["args"]
    arguments["init_values"] = arguments.pop("init_scale")
    del arguments["use_simple_fpn"]
    return FDAMVisionTransformer(**arguments).eval(), tensors


def test_published_numbers():
    backbone, tensors = published_backbone()
    backbone.load_state_dict(subset(tensors, "param."))
    image = tensors["input.x"].requires_grad_()
    feature_maps = backbone(image)
    torch.autograd.backward(feature_maps, [tensors["cotangent.f0"], tensors["cotangent.f1"]])
    for index, feature_map in enumerate(feature_maps):
        assert_agrees(feature_map, tensors[f"output.f{index}"], f"output {index}")
    assert_agrees(image.grad, tensors["grad.input.x"], "gradient of the image")
    for name, parameter in backbone.named_parameters():
        assert_agrees(parameter.grad, tensors[f"grad.param.{name}"], f"gradient of {name}")
    with torch.no_grad():
        for index, feature_map in enumerate(backbone(image)):
            assert_agrees(feature_map, tensors[f"output.f{index}"], f"output {index} without gradient")


def test_block_is_its_equation():
    block = randomised_block()
    x = torch.randn(2, 15, 16)

    def branch(tokens, scale, gamma):
        scaled = scale(tokens.transpose(1, 2).reshape(2, 16, 3, 5)).reshape(2, 16, 15).transpose(1, 2)
        return gamma * (scaled + tokens)
    expected = x + branch(block.attn(block.norm1(x)), block.freq_scale_1, block.gamma_1)
    expected = expected + branch(block.mlp(block.norm2(expected)), block.freq_scale_2, block.gamma_2)
    torch.testing.assert_close(block(x, (3, 5)), expected, rtol=1e-4, atol=1e-4)


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


def test_block_gradcheck():
    block = randomised_block().double()
    x = torch.randn(1, 6, 16, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: block(x, (2, 3)), (x,))


def test_start_values():
    block = FDAMBlock(dim=32, num_heads=2)
    for gamma, start in ((block.gamma_1, 1e-4), (block.gamma_2, 1e-4), (block.attn.lf_gamma, 1e-5),
                         (block.attn.hf_gamma, 1e-5)):
        assert torch.equal(gamma, torch.full((32,), start))
    assert block.norm1.eps == block.norm2.eps == 1e-6
    assert 0 < block.freq_scale_1.complex_weights.abs().max() <= 2e-5


@pytest.mark.parametrize("height, width, grid", [(16, 16, (4, 4)), (8, 28, (2, 7)), (13, 18, (4, 5)), (3, 1, (1, 1))])
def test_maps_of_any_image_size(height, width, grid):
    backbone = small_backbone().eval()
    image = torch.randn(2, 3, height, width)
    feature_maps = backbone(image)
    assert [feature_map.shape for feature_map in feature_maps] == [(2, 32, *grid)] * 2
    padded = F.pad(image, (0, 4 * grid[1] - width, 0, 4 * grid[0] - height))
    for feature_map, expected in zip(feature_maps, backbone(padded)):
        torch.testing.assert_close(feature_map, expected)


def test_out_indices_give_order_and_blocks():
    backbone = small_backbone(depth=3, out_indices=(2, 0)).eval()
    image = torch.randn(1, 3, 16, 16)
    x = backbone.patch_embed(image).flatten(2).transpose(1, 2) + backbone.pos_embed
    outputs = []
    for block in backbone.blocks:
        x = block(x, (4, 4))
        outputs.append(x.transpose(1, 2).reshape(1, 32, 4, 4))
    for feature_map, expected in zip(backbone(image), (outputs[2], outputs[0])):
        torch.testing.assert_close(feature_map, expected)


def test_position_embedding_is_resized_as_pytorch_does():
    embedding = torch.randn(1, 16, 8)
    expected = F.interpolate(embedding.reshape(1, 4, 4, 8).permute(0, 3, 1, 2), size=(2, 7), mode="bicubic",
                             align_corners=False).permute(0, 2, 3, 1).reshape(1, 14, 8)
    torch.testing.assert_close(resize_position_embedding(embedding, (4, 4), (2, 7)), expected)
    assert resize_position_embedding(embedding, (4, 4), (4, 4)) is embedding


@pytest.mark.parametrize("class_tokens", [0, 1, 2])
@pytest.mark.parametrize("side", [4, 7])
def test_position_embedding_of_another_checkpoint_is_adapted_on_load(class_tokens, side):
    embedding = torch.randn(1, class_tokens + side**2, 32)
    backbone = small_backbone()
    state = backbone.state_dict() | {"pos_embed": embedding}
    torch.nn.Sequential(backbone).load_state_dict({f"0.{key}": value for key, value in state.items()})
    expected = resize_position_embedding(embedding[:, class_tokens:], (side, side), (4, 4))
    torch.testing.assert_close(backbone.pos_embed.data, expected)
    assert state["pos_embed"] is embedding


def test_position_embedding_of_a_grid_that_is_not_square():
    embedding = torch.randn(1, 13, 32)
    assert torch.equal(adapt_position_embedding(embedding, (3, 4)), embedding[:, 1:])
    backbone = small_backbone(img_size=(12, 16))
    backbone.load_state_dict(backbone.state_dict() | {"pos_embed": embedding})
    assert torch.equal(backbone.pos_embed.data, embedding[:, 1:])
    with pytest.raises(ValueError, match="0.pos_embed: 24 tokens are neither a grid of 4 × 4"):
        module = torch.nn.Sequential(small_backbone())
        module.load_state_dict(module.state_dict() | {"0.pos_embed": torch.zeros(1, 24, 32)})


def test_activation_checkpointing_gives_the_same_gradients():
    image = torch.randn(2, 3, 12, 20)
    gradients = []
    for activation_checkpointing in (False, True):
        backbone = small_backbone(drop_path_rate=0.3, activation_checkpointing=activation_checkpointing).train()
        torch.manual_seed(1)
        sum(feature_map.square().mean() for feature_map in backbone(image)).backward()
        gradients.append([parameter.grad for parameter in backbone.parameters()])
    torch.testing.assert_close(*gradients)


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    drop = DropPath(0.25)
    x = torch.ones(4000, 2, 3)
    y = drop(x)
    assert torch.equal(y, y[:, :1, :1].expand_as(y))
    assert set(y.unique().tolist()) == {0.0, x.new_tensor(1 / 0.75).item()}
    assert abs(y.mean().item() - 1) < 0.05
    assert drop.eval()(x) is x
    assert all(block.drop_path.probability == 0.15 for block in small_backbone(drop_path_rate=0.15).blocks)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    backbone = small_backbone()
    image = torch.randn(1, 3, 14, 20)
    expected = backbone(image)[-1]
    with torch.autocast("cpu", dtype):
        y = backbone(image)[-1]
    assert_agrees(y.float(), expected, "autocast", relative=5e-2)
    y.float().square().mean().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in backbone.parameters())
    pure = backbone.to(dtype)(image.to(dtype))[-1]
    assert pure.dtype == dtype
    assert_agrees(pure.float(), expected, "half weights", relative=5e-2)


def test_no_images():
    assert [feature_map.shape for feature_map in small_backbone()(torch.zeros(0, 3, 16, 16))] == [(0, 32, 4, 4)] * 2


@pytest.mark.parametrize("run, message", [
    (lambda: small_backbone(out_indices=(0, 2)), r"from 0 to 1 \(depth 2\), got \(0, 2\)"),
    (lambda: small_backbone(out_indices=()), r"got \(\)"),
    (lambda: small_backbone(num_heads=5), "num_heads 5 and dim 32"),
    (lambda: small_backbone(embed_dim=40), "group 16 and dim 40"),
    (lambda: small_backbone(drop_path_rate=1.0), "below 1, got 1.0"),
    (lambda: small_backbone(patch_size=0), "patch_size must be at least 1, got 0"),
    (lambda: small_backbone(img_size=32.5), "img_size must be an integer, got 32.5"),
    (lambda: small_backbone()(torch.zeros(1, 3, 16, 16, dtype=torch.uint8)), "image must have the type .*torch.uint8"),
    (lambda: FDAMBlock(dim=-16, num_heads=2), "dim must be at least 1, got -16"),
    (lambda: FDAMBlock(dim=16, num_heads=2, mlp_ratio=0), "mlp_ratio must .* got 0 for dim 16"),
    (lambda: FDAMBlock(dim=16, num_heads=2)(torch.zeros(1, 6, 8), (2, 3)), r"\(B, 6, 16\).*got \(1, 6, 8\)"),
    (lambda: small_backbone()(torch.zeros(1, 4, 16, 16)), r"\(B, 3, H, W\).*\(1, 4, 16, 16\)"),
    (lambda: small_backbone()(torch.zeros(3, 16, 16)), r"\(B, 3, H, W\).*\(3, 16, 16\)"),
    (lambda: small_backbone()(torch.zeros(1, 3, 0, 16)), r"H and W above 0.*\(1, 3, 0, 16\)"),
    (lambda: TransformerBlock(dim=40, num_heads=3), "num_heads 3 and dim 40"),
    (lambda: FDAMBlock(dim=16, num_heads=2)(torch.zeros(1, 7, 16), (2, 3)), r"\(B, 6, 16\).*2 × 3.*\(1, 7, 16\)"),
])
def test_bad_input(run, message):
    with pytest.raises(ValueError, match=message):
        run()


def test_documented_examples():
    for name in ("fdam_block", "fdam_vit"):
        result = doctest.testmod(import_module(f"freqdino.frequency.{name}"))
        assert result.attempted > 0 and result.failed == 0

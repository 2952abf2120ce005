"""V, A·V and Y as recorded from every kind of transformer block, against definitions of the attention."""
import pytest
import timm
import torch
from torch import nn

from freqdino.analysis.frequency import responses
from freqdino.analysis.frequency.attention_maps import attention_maps, belongs_to_blocks, unread_backbones
from freqdino.analysis.frequency.recording import recorded_calls
from freqdino.frequency import FDAMVisionTransformer, InversionGates
from freqdino.frequency.fdam.vision_transformer import VisionTransformer
from freqdino.layers.deformable_attention import DeformableEncoder
from freqdino.modeling.backbones.mit import MixTransformer
from freqdino.modeling.backbones.swin import D2SwinTransformer, use_frequency_blocks
from freqdino.modeling.backbones.token_block import add_fdam
from helpers.small_timm_vits import small_timm_vit, small_vit


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def record(model, *inputs):
    model.eval()
    with recorded_calls(model, belongs_to_blocks(model)) as calls:
        model(*inputs)
    assert not any(module._forward_hooks for module in model.modules())
    return attention_maps(model, calls)


def shaken(module):
    for parameter in module.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    return module


def vit(kind):
    return shaken(kind(img_size=(48, 64), embed_dim=32, depth=2, num_heads=2, out_indices=(1,), init_values=0.5))


def assert_kernels_give_attended(item):
    """A·V at every token is the token's kernel, head by head, over V."""
    heads, grid = len(item.queries), item.value.shape[1:]
    value = item.value.unflatten(0, (heads, -1))
    for y in range(grid[0]):
        for x in range(grid[1]):
            kernel = responses.attention_kernel(item.queries, item.keys, (y, x), grid)
            expected = (kernel[:, None] * value).sum((2, 3)).flatten()
            torch.testing.assert_close(item.attended[:, y, x], expected, atol=1e-5, rtol=1e-4)


def assert_inverted(item):
    """Equation 34."""
    expected = item.low * item.attended + item.high * (item.value - item.attended)
    torch.testing.assert_close(item.output, expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(item.output, item.attended, atol=1e-3)


def test_plain_transformer():
    first, second = record(vit(VisionTransformer), torch.randn(1, 3, 48, 64))
    assert (first.name, second.name, first.group) == ("blocks.0", "blocks.1", "blocks")
    assert first.value.shape == first.features.shape == (32, 3, 4)
    for item in (first, second):
        assert item.high is None and torch.equal(item.output, item.attended)
        assert_kernels_give_attended(item)


def test_features_are_the_blocks_results():
    model, image = vit(VisionTransformer), torch.randn(1, 3, 48, 64)
    torch.testing.assert_close(record(model, image)[1].features, model(image)[0][0])


def test_inverted_transformer():
    for item in record(vit(FDAMVisionTransformer), torch.randn(1, 3, 48, 64)):
        assert_kernels_give_attended(item)
        assert_inverted(item)


def test_timm_transformer_without_class_token():
    model = shaken(timm.create_model("deit3_small_patch16_224", img_size=64, embed_dim=32, depth=2, num_heads=2,
                                     class_token=False, global_pool="avg", no_embed_class=True))
    items = record(model, torch.randn(1, 3, 64, 64))
    assert [item.name for item in items] == ["blocks.0", "blocks.1"] and items[0].value.shape == (32, 4, 4)
    for item in items:
        assert_kernels_give_attended(item)


def test_timm_class_token_is_left_out():
    """A·V has its share; the kernel is the row of the full attention matrix without it, made to sum to one again."""
    model = shaken(timm.create_model("deit_tiny_patch16_224", img_size=64, embed_dim=32, depth=1, num_heads=2)).eval()
    image = torch.randn(1, 3, 64, 64)
    item, = record(model, image)
    attention = model.blocks[0].attn
    tokens = model.blocks[0].norm1(model._pos_embed(model.patch_embed(image)))
    queries, keys, values = attention.qkv(tokens).view(17, 3, 2, 16).permute(1, 2, 0, 3)
    rows = (queries @ keys.mT / 4).softmax(-1)
    expected = (rows @ values).transpose(0, 1).flatten(1)[1:].mT.view(32, 4, 4)
    torch.testing.assert_close(item.attended, expected, atol=1e-5, rtol=1e-4)
    row = rows[:, 1 + 6, 1:]
    kernel = responses.attention_kernel(item.queries, item.keys, (1, 2), (4, 4))
    torch.testing.assert_close(kernel.flatten(1), row / row.sum(-1, keepdim=True))


def small_swin():
    return shaken(D2SwinTransformer(
        out_features=("res2", "res5"), pretrain_img_size=64, patch_size=4, embed_dim=16, depths=(2, 2, 1, 1),
        num_heads=(1, 2, 2, 2), window_size=3, mlp_ratio=2, qkv_bias=True, qk_scale=None, drop_rate=0.0,
        attn_drop_rate=0.0, drop_path_rate=0.0, ape=False, patch_norm=True, use_checkpoint=False))


def test_timm_transformers_in_a_model_are_named_as_unread():
    assert unread_backbones(nn.ModuleDict({"backbone": small_timm_vit(), "head": nn.Identity()})) == ["backbone"]
    assert unread_backbones(small_vit("small_augreg")) == []


def test_windows_of_both_kinds_of_swin_block():
    """Detectron2's block projects windows, ours the map: what is recorded must be the same, shifts and padding gone."""
    model, image = small_swin(), torch.randn(1, 3, 44, 68)
    from_windows = record(model, image)
    use_frequency_blocks(model)
    from_maps = record(model, image)
    assert [item.name for item in from_windows][:3] == ["layers.0.blocks.0", "layers.0.blocks.1", "layers.1.blocks.0"]
    assert from_windows[0].group == "layers.0.blocks" and from_windows[0].value.shape == (16, 11, 17)
    for first, second in zip(from_windows, from_maps, strict=True):
        assert first.name == second.name
        for key in ("value", "attended", "output", "features"):
            torch.testing.assert_close(getattr(first, key), getattr(second, key), atol=1e-4, rtol=1e-4)


def small_mit():
    return MixTransformer(in_chans=3, embed_dims=(16, 32, 80, 128), depths=(1, 1, 1, 1), drop_path_rate=0.0,
                          activation_checkpointing=False)


@pytest.mark.parametrize("network", ["swin", "mit"])
def test_inversion_in_windows_and_with_reduced_keys(network):
    if network == "swin":
        model = small_swin()
        use_frequency_blocks(model)
    else:
        model = small_mit()
    add_fdam(model)
    shaken(model)
    for item in record(model, torch.randn(1, 3, 66, 64)):
        assert_inverted(item)


def test_value_of_reduced_attention_is_the_tokens_own():
    model = shaken(small_mit())
    image = torch.randn(1, 3, 64, 64)
    item = record(model, image)[0]
    block = model.block1[0]
    tokens, grid = model.patch_embed1(image)
    expected = block.attn.kv(block.norm1(tokens))[..., 16:]
    torch.testing.assert_close(item.value, expected[0].mT.unflatten(1, grid))
    assert item.queries is None and item.high is None


SIZES = [(3, 4), (6, 8)]


def encoder(**options):
    return DeformableEncoder(num_layers=2, dim=16, num_heads=2, num_levels=len(SIZES), dim_feedforward=8, dropout=0.0,
                             **options)


def test_deformable_attention_that_stays_at_its_token():
    """No offsets and all weight on the own level: Y is V on each level, where queries of one level are its own."""
    model = encoder()
    for layer in model.layers:
        layer.self_attn.sampling_offsets.bias.zero_()
    tokens = torch.randn(1, 12, 16)
    alone = DeformableEncoder(num_layers=1, dim=16, num_heads=2, num_levels=1, dim_feedforward=8, dropout=0.0)
    alone.layers[0].self_attn.sampling_offsets.bias.zero_()
    item, = record(alone, tokens, torch.zeros(1, 12, 16), SIZES[:1])
    torch.testing.assert_close(item.output, item.value, atol=1e-5, rtol=1e-4)
    items = record(model, torch.randn(1, 60, 16), torch.zeros(1, 60, 16), SIZES)
    assert [(item.name, item.group) for item in items] == [
        (f"layers.{layer}, level {level}", f"layers, level {level}") for layer in (0, 1) for level in (0, 1)]
    assert [item.value.shape for item in items[:2]] == [(16, 3, 4), (16, 6, 8)]


def test_inverted_deformable_attention():
    model = shaken(encoder(make_modulation=lambda: {"invert": InversionGates(16, 2)}))
    for item in record(model, torch.randn(1, 60, 16), torch.zeros(1, 60, 16), SIZES):
        assert_inverted(item)


def test_nothing_is_recorded_of_a_model_without_attention():
    assert record(nn.Sequential(nn.Conv2d(3, 3, 1)), torch.zeros(1, 3, 4, 4)) == []

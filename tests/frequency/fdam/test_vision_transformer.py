"""The vision transformer, with plain blocks and FDAM's: image sizes, levels, position embeddings, bad input."""

import pytest
import torch
import torch.nn.functional as F

from freqdino.frequency import FDAMVisionTransformer
from freqdino.frequency.fdam.vision_transformer import (
    VisionTransformer,
    adapt_position_embedding,
    resize_position_embedding,
)


@pytest.fixture(params=[VisionTransformer, FDAMVisionTransformer])
def small_backbone(request):
    def build(**arguments):
        torch.manual_seed(0)
        return request.param(**{"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2,
                                "mlp_ratio": 2.0, "init_values": 0.5, "out_indices": (0, 1), **arguments})
    return build


@pytest.mark.parametrize("height, width, grid", [(16, 16, (4, 4)), (8, 28, (2, 7)), (13, 18, (4, 5)), (3, 1, (1, 1))])
def test_maps_of_any_image_size(small_backbone, height, width, grid):
    backbone = small_backbone().eval()
    image = torch.randn(2, 3, height, width)
    feature_maps = backbone(image)
    assert [feature_map.shape for feature_map in feature_maps] == [(2, 32, *grid)] * 2
    padded = F.pad(image, (0, 4 * grid[1] - width, 0, 4 * grid[0] - height))
    for feature_map, expected in zip(feature_maps, backbone(padded)):
        torch.testing.assert_close(feature_map, expected)


def test_out_indices_give_order_and_blocks(small_backbone):
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
def test_position_embedding_of_another_checkpoint_is_adapted_on_load(small_backbone, class_tokens, side):
    embedding = torch.randn(1, class_tokens + side**2, 32)
    backbone = small_backbone()
    state = backbone.state_dict() | {"pos_embed": embedding}
    torch.nn.Sequential(backbone).load_state_dict({f"0.{key}": value for key, value in state.items()})
    expected = resize_position_embedding(embedding[:, class_tokens:], (side, side), (4, 4))
    torch.testing.assert_close(backbone.pos_embed.data, expected)
    assert state["pos_embed"] is embedding


def test_position_embedding_of_a_grid_that_is_not_square(small_backbone):
    embedding = torch.randn(1, 13, 32)
    assert torch.equal(adapt_position_embedding(embedding, (3, 4)), embedding[:, 1:])
    backbone = small_backbone(img_size=(12, 16))
    backbone.load_state_dict(backbone.state_dict() | {"pos_embed": embedding})
    assert torch.equal(backbone.pos_embed.data, embedding[:, 1:])
    with pytest.raises(ValueError, match="0.pos_embed: 24 tokens are neither a grid of 4 × 4"):
        module = torch.nn.Sequential(small_backbone())
        module.load_state_dict(module.state_dict() | {"0.pos_embed": torch.zeros(1, 24, 32)})


def test_activation_checkpointing_gives_the_same_gradients(small_backbone):
    image = torch.randn(2, 3, 12, 20)
    gradients = []
    for activation_checkpointing in (False, True):
        backbone = small_backbone(drop_path_rate=0.3, activation_checkpointing=activation_checkpointing).train()
        torch.manual_seed(1)
        sum(feature_map.square().mean() for feature_map in backbone(image)).backward()
        gradients.append([parameter.grad for parameter in backbone.parameters()])
    torch.testing.assert_close(*gradients)


def test_one_drop_rate_for_all_blocks(small_backbone):
    assert all(block.drop_path.probability == 0.15 for block in small_backbone(drop_path_rate=0.15).blocks)


@pytest.mark.parametrize("run, message", [
    (lambda build: build(out_indices=(0, 2)), r"from 0 to 1 \(depth 2\), got \(0, 2\)"),
    (lambda build: build(out_indices=()), r"got \(\)"),
    (lambda build: build(num_heads=5), "divide the 32 channels, got 5"),
    (lambda build: build(drop_path_rate=1.0), "below 1, got 1.0"),
    (lambda build: build(patch_size=0), "patch_size must be at least 1, got 0"),
    (lambda build: build(img_size=32.5), "img_size must be an integer, got 32.5"),
    (lambda build: build()(torch.zeros(1, 3, 16, 16, dtype=torch.uint8)), "image must have the type .*torch.uint8"),
    (lambda build: build()(torch.zeros(1, 4, 16, 16)), r"\(B, 3, H, W\).*\(1, 4, 16, 16\)"),
    (lambda build: build()(torch.zeros(3, 16, 16)), r"\(B, 3, H, W\).*\(3, 16, 16\)"),
    (lambda build: build()(torch.zeros(1, 3, 0, 16)), r"H and W above 0.*\(1, 3, 0, 16\)"),
])
def test_bad_input(small_backbone, run, message):
    with pytest.raises(ValueError, match=message):
        run(small_backbone)

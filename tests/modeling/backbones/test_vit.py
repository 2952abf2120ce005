"""A vision transformer as a backbone, plain and FDAM's: levels, their sizes and origin, settings, FDLinear in it."""
import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec

from freqdino.frequency import FDAMBlock, FDLinear
from freqdino.frequency.fdam.transformer_block import TransformerBlock
from freqdino.frequency.fdam.vision_transformer import VisionTransformer
from freqdino.modeling.backbones.vit import ViTBackbone, add_fdlinear
from helpers.refusals import refuses

BLOCKS = pytest.mark.parametrize("block", [TransformerBlock, FDAMBlock])
ARGUMENTS = {"img_size": 64, "in_chans": 3, "embed_dim": 32, "depth": 4, "num_heads": 2, "init_values": 0.5,
             "drop_path_rate": 0.0, "out_indices": (0, 1, 2, 3), "neck_norm": "LN", "activation_checkpointing": False}


def backbone(block=TransformerBlock, **arguments):
    torch.manual_seed(0)
    return ViTBackbone(**{**ARGUMENTS, "block": block, **arguments}).eval()


@BLOCKS
@pytest.mark.parametrize(("height", "width"), [(64, 96), (48, 80), (16, 16), (50, 70)])
@torch.no_grad()
def test_levels(height, width, block):
    maps = backbone(block)(torch.randn(2, 3, height, width))
    h, w = -(-height // 16), -(-width // 16)
    assert {name: tuple(feature_map.shape) for name, feature_map in maps.items()} == {
        "res2": (2, 32, 4 * h, 4 * w), "res3": (2, 32, 2 * h, 2 * w), "res4": (2, 32, h, w),
        "res5": (2, 32, (h + 1) // 2, (w + 1) // 2)}


def test_shapes_are_announced():
    model = backbone()
    assert model.output_shape() == {name: ShapeSpec(channels=32, stride=stride)
                                    for name, stride in (("res2", 4), ("res3", 8), ("res4", 16), ("res5", 32))}
    assert model.size_divisibility == 32


def test_normalisation_of_the_neck():
    assert type(backbone(neck_norm="SyncBN").neck["res2"][1]).__name__ in ("SyncBatchNorm", "NaiveSyncBatchNorm")
    assert isinstance(backbone(neck_norm="BN").neck["res2"][1], torch.nn.BatchNorm2d)
    with pytest.raises(ValueError, match="neck_norm must be one of LN, BN, SyncBN, GN, got 'ln'"):
        backbone(neck_norm="ln")


def test_fdam_adds_keys():
    assert set(backbone().state_dict()) < set(backbone(FDAMBlock).state_dict())


@BLOCKS
@torch.no_grad()
def test_fdlinear_in_every_block_keeps_the_function(block):
    model = backbone(block)
    image = torch.randn(2, 3, 64, 48)
    expected = model(image)
    add_fdlinear(model, kernel_num=8)
    assert [name for name, module in model.named_modules() if isinstance(module, FDLinear)] == [
        f"blocks.{i}.{name}" for i in range(4) for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]
    for name, feature_map in model(image).items():
        torch.testing.assert_close(feature_map, expected[name], rtol=1e-4, atol=1e-5)


@BLOCKS
@torch.no_grad()
def test_levels_come_from_the_blocks_in_their_order(block):
    model = backbone(block)
    image = torch.randn(1, 3, 64, 96)
    first, second, third, fourth = VisionTransformer.forward(model, image)
    maps = model(image)
    assert torch.equal(maps["res4"], third)
    assert torch.equal(maps["res5"], F.max_pool2d(fourth, 2))
    # A transposed convolution without overlap: pixel (2y + i, 2x + j) is the matrix of (i, j) times pixel (y, x).
    weight, bias = model.neck["res3"].weight, model.neck["res3"].bias
    assert torch.allclose(maps["res3"][0, :, 5, 2], second[0, :, 2, 1] @ weight[:, :, 1, 0] + bias, atol=1e-5)
    assert torch.allclose(maps["res2"], model.neck["res2"](first))


test_bad_settings = refuses(lambda arguments: backbone(**arguments), [
    ({"out_indices": (0, 1, 3)}, r"four blocks in ascending order, the last of them 3 \(depth 4\), got \(0, 1, 3\)"),
    ({"out_indices": (1, 0, 2, 3)}, "ascending order"),
    ({"depth": 5}, r"the last of them 4 \(depth 5\), got \(0, 1, 2, 3\)"),
    ({"num_heads": 5}, "divide the 32 channels, got 5"),
])

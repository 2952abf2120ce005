"""FDAM's vision transformer as a backbone: levels, their sizes and origin, its settings."""
import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec

from freqdino.frequency import FDAMVisionTransformer
from freqdino.modeling.backbones.fdam_vit import FDAMViTBackbone

ARGUMENTS = {"img_size": 64, "embed_dim": 32, "depth": 4, "num_heads": 2, "init_values": 0.5, "drop_path_rate": 0.0,
             "out_indices": (0, 1, 2, 3), "activation_checkpointing": False}


def backbone(**arguments):
    torch.manual_seed(0)
    return FDAMViTBackbone(**{**ARGUMENTS, **arguments}).eval()


@pytest.mark.parametrize(("height", "width"), [(64, 96), (48, 80), (16, 16), (50, 70)])
@torch.no_grad()
def test_levels(height, width):
    maps = backbone()(torch.randn(2, 3, height, width))
    h, w = -(-height // 16), -(-width // 16)
    assert {name: tuple(feature_map.shape) for name, feature_map in maps.items()} == {
        "res2": (2, 32, 4 * h, 4 * w), "res3": (2, 32, 2 * h, 2 * w), "res4": (2, 32, h, w),
        "res5": (2, 32, (h + 1) // 2, (w + 1) // 2)}


def test_shapes_are_announced():
    model = backbone()
    assert model.output_shape() == {name: ShapeSpec(channels=32, stride=stride)
                                    for name, stride in (("res2", 4), ("res3", 8), ("res4", 16), ("res5", 32))}
    assert model.size_divisibility == 32


@torch.no_grad()
def test_levels_come_from_the_blocks_in_their_order():
    model = backbone()
    image = torch.randn(1, 3, 64, 96)
    first, second, third, fourth = FDAMVisionTransformer.forward(model, image)
    maps = model(image)
    assert torch.equal(maps["res4"], third)
    assert torch.equal(maps["res5"], F.max_pool2d(fourth, 2))
    # A transposed convolution without overlap: pixel (2y + i, 2x + j) is the matrix of (i, j) times pixel (y, x).
    weight, bias = model.neck["res3"].weight, model.neck["res3"].bias
    assert torch.allclose(maps["res3"][0, :, 5, 2], second[0, :, 2, 1] @ weight[:, :, 1, 0] + bias, atol=1e-5)
    assert torch.allclose(maps["res2"], model.neck["res2"](first))


@pytest.mark.parametrize(("arguments", "message"), [
    ({"out_indices": (0, 1, 3)}, r"four blocks in ascending order, the last of them 3 \(depth 4\), got \(0, 1, 3\)"),
    ({"out_indices": (1, 0, 2, 3)}, "ascending order"),
    ({"depth": 5}, r"the last of them 4 \(depth 5\), got \(0, 1, 2, 3\)"),
    ({"num_heads": 5}, "num_heads 5 and dim 32"),
])
def test_bad_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        backbone(**arguments)

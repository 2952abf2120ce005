"""Mask DINO's pixel decoder: three to five levels in both orders, written out level by level."""
import pytest
import torch
import torch.nn.functional as F

from freqdino.layers.position_encoding import sine_position_map
from helpers.golden_models import STAGES
from helpers.small_mask_dino import mask_dino_model

SIZES = {"res2": (32, 48), "res3": (16, 24), "res4": (8, 12), "res5": (4, 6)}
EXTRAS = [(2, 3), (1, 2)]                   # each halves the one before, the first halves res5
DIM = 64


def pixel_decoder(names, num_levels, order, encoder_layers=0):
    return mask_dino_model({
        "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES": names,
        "MODEL.SEM_SEG_HEAD.TOTAL_NUM_FEATURE_LEVELS": num_levels, "MODEL.SEM_SEG_HEAD.FEATURE_ORDER": order,
        "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": encoder_layers}).sem_seg_head.pixel_decoder.eval()


def features():
    return {name: torch.randn(2, STAGES[name][0], *size) for name, size in SIZES.items()}


def projected(module, index, x, **geometry):
    convolution, norm = module.input_proj[index]
    return F.group_norm(F.conv2d(x, convolution.weight, convolution.bias, **geometry), 32, norm.weight, norm.bias)


THREE, FOUR = ["res3", "res4", "res5"], ["res2", "res3", "res4", "res5"]
VARIANTS = [(names, total, order) for order in ("high2low", "low2high")
            for names, total in ((THREE, 3), (THREE, 4), (THREE, 5), (FOUR, 4), (FOUR, 5))]


@pytest.mark.parametrize(("names", "total", "order"), VARIANTS)
def test_levels_before_the_encoder(names, total, order):
    module, maps = pixel_decoder(names, total, order), features()
    listed = names if order == "low2high" else names[::-1]
    expected = [projected(module, index, maps[name]) for index, name in enumerate(listed)]
    extras, x = [], maps["res5"]
    for index in range(len(names), total):
        x = projected(module, index, x, stride=2, padding=1)
        extras.insert(0, x)
    expected = expected + extras if order == "low2high" else extras + expected
    mask_features, finest, levels = module.forward_features(maps)
    assert len(levels) == total
    for level, own in zip(levels, expected, strict=True):
        assert torch.allclose(level, own, atol=1e-5)
    assert finest.shape[-2:] == SIZES[names[0]]
    adapter, layer = module.adapter_1, module.layer_1           # one step on res2, also where the encoder reads it
    x = F.group_norm(F.conv2d(maps["res2"], adapter.weight), 32, adapter.norm.weight, adapter.norm.bias)
    x = x + F.interpolate(finest, size=SIZES["res2"], mode="bilinear", align_corners=False)
    x = F.group_norm(F.conv2d(x, layer.weight, padding=1), 32, layer.norm.weight, layer.norm.bias).relu()
    own = F.conv2d(x, module.mask_features.weight, module.mask_features.bias)
    assert torch.allclose(mask_features, own, atol=1e-4)


@pytest.mark.parametrize(("order", "position_sizes"), [
    # With two extra levels the published code turns their maps round but not their positions.
    ("high2low", [*EXTRAS, SIZES["res5"], SIZES["res4"], SIZES["res3"]]),
    ("low2high", [SIZES["res3"], SIZES["res4"], SIZES["res5"], *EXTRAS])])
def test_positions_of_two_extra_levels_are_exchanged(order, position_sizes):
    module, seen = pixel_decoder(THREE, 5, order, encoder_layers=1), []
    module.transformer.encoder.register_forward_pre_hook(lambda _, arguments: seen.append(arguments))
    levels = module.forward_features(features())[2]
    _, position, sizes = seen[0]
    maps = [SIZES[name] for name in THREE]
    assert sizes == (maps + EXTRAS[::-1] if order == "low2high" else EXTRAS[::-1] + maps[::-1])
    assert [tuple(level.shape[-2:]) for level in levels] == sizes
    expected = torch.cat([sine_position_map(*size, DIM) + module.transformer.level_embed[index]
                          for index, size in enumerate(position_sizes)])
    assert torch.allclose(position[0], expected, atol=1e-6)


@pytest.mark.parametrize("order", ["high2low", "low2high"])
def test_positions_of_one_extra_level(order):
    module, seen = pixel_decoder(THREE, 4, order, encoder_layers=1), []
    module.transformer.encoder.register_forward_pre_hook(lambda _, arguments: seen.append(arguments))
    module.forward_features(features())
    _, position, sizes = seen[0]
    expected = torch.cat([sine_position_map(*size, DIM) + embedding
                          for size, embedding in zip(sizes, module.transformer.level_embed, strict=True)])
    assert torch.allclose(position[0], expected, atol=1e-6)


@pytest.mark.parametrize(("names", "total", "order"), VARIANTS)
def test_whole_model_with_that_decoder(names, total, order):
    model = mask_dino_model({
        "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES": names,
        "MODEL.SEM_SEG_HEAD.TOTAL_NUM_FEATURE_LEVELS": total, "MODEL.SEM_SEG_HEAD.FEATURE_ORDER": order}).eval()
    with torch.no_grad():
        result, = model([{"image": torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8)}])
    assert result["sem_seg"].shape == (3, 50, 70) and result["sem_seg"].isfinite().all()

"""MODEL.VIT.* and the checkpoints of timm's DeiT and DeiT III: every key finds its place, the function stays."""
import pytest
import torch
from torch import nn

from freqdino.checkpoint import StrictCheckpointer
from freqdino.errors import CheckpointError, ConfigError
from freqdino.frequency import AttentionInversion, FDAMBlock, FDLinear, FrequencyScale
from freqdino.frequency.fdam.transformer_block import Attention
from freqdino.frequency.fdam.vision_transformer import VisionTransformer, resize_position_embedding
from helpers.modules import randomised
from helpers.small_models import BackboneModel

timm = pytest.importorskip("timm")

DEPTH = 4
PLAIN = {"MODEL.BACKBONE.NAME": "build_vit_backbone", "MODEL.VIT.DEPTH": DEPTH, "MODEL.VIT.OUT_INDICES": [0, 1, 2, 3],
         "MODEL.VIT.IMG_SIZE": 224, "MODEL.BACKBONE.FDCONV.KERNEL_NUM": 16}
SWITCHES = {"plain": {}, "FDAM": {"MODEL.BACKBONE.FDAM.ENABLED": True},
            "FDLinear": {"MODEL.BACKBONE.FDCONV.ENABLED": True},
            "FDAM and FDLinear": {"MODEL.BACKBONE.FDAM.ENABLED": True, "MODEL.BACKBONE.FDCONV.ENABLED": True}}
# timm's name -> width and heads of the model, made narrow to be quick where the width does not matter.
DEIT = {"deit_small_patch16_224": (384, 6), "deit_small_distilled_patch16_224": (192, 3),
        "deit3_base_patch16_384": (192, 3)}
DISTILLED = {"dist_token", "head_dist.weight", "head_dist.bias"}


def deit(name):
    """timm's model, shallow, with random values everywhere, and the options of a backbone of its size."""
    width, heads = DEIT[name]
    torch.manual_seed(0)
    source = timm.create_model(name, depth=DEPTH, embed_dim=width, num_heads=heads).eval()
    return randomised(source), {"MODEL.VIT.EMBED_DIM": width, "MODEL.VIT.NUM_HEADS": heads}


def loaded(path, options):
    model = BackboneModel({**PLAIN, **options})
    StrictCheckpointer(model).load(str(path))
    return model.backbone.eval()


def parts(backbone, *kinds):
    return {kind.__name__ for kind in kinds if any(isinstance(module, kind) for module in backbone.modules())}


@pytest.mark.parametrize(("options", "expected"), [
    ({}, set()),
    (SWITCHES["FDAM"], {"FDAMBlock", "FrequencyScale"}),
    ({"MODEL.BACKBONE.NAME": "build_fdam_vit_backbone"}, {"FDAMBlock", "FrequencyScale"}),
    (SWITCHES["FDLinear"], {"FDLinear"}),
    (SWITCHES["FDAM and FDLinear"], {"FDAMBlock", "FrequencyScale", "FDLinear"}),
])
def test_switches(options, expected):
    backbone = BackboneModel({**PLAIN, "MODEL.VIT.EMBED_DIM": 32, "MODEL.VIT.NUM_HEADS": 2, **options}).backbone
    assert parts(backbone, FDAMBlock, FrequencyScale, FDLinear) == expected
    assert {type(block.attn) for block in backbone.blocks} == {
        AttentionInversion if "FDAMBlock" in expected else Attention}
    if "FDLinear" in expected:
        assert backbone.blocks[0].mlp.fc1.KSM_Global.kernel_fc.out_channels == 16


@pytest.mark.parametrize("switches", SWITCHES)
@pytest.mark.parametrize("name", DEIT)
@torch.no_grad()
def test_a_timm_checkpoint_keeps_its_function(tmp_path, name, switches):
    """Through plain blocks and FDLinear as it was; FDAM starts next to it."""
    source, sizes = deit(name)
    torch.save(source.state_dict(), tmp_path / "deit.pth")
    backbone = loaded(tmp_path / "deit.pth", {**sizes, **SWITCHES[switches]})
    side = source.patch_embed.grid_size[0]
    position = resize_position_embedding(source.pos_embed[:, -side * side:], (side, side), (14, 14))
    image = torch.randn(1, 3, 224, 224)
    tokens = patch_tokens(source, image) + position
    tolerance = 1e-2 if "FDAM" in switches else 1e-4
    for feature_map, block in zip(VisionTransformer.forward(backbone, image), source.blocks):
        tokens = block(tokens)
        torch.testing.assert_close(feature_map.flatten(2).transpose(1, 2), tokens, rtol=tolerance, atol=tolerance)


def patch_tokens(source, image):
    projection = source.patch_embed.proj
    return nn.functional.conv2d(image, projection.weight, projection.bias, stride=16).flatten(2).transpose(1, 2)


@pytest.mark.parametrize("name", DEIT)
def test_every_entry_is_used_or_named(tmp_path, name, caplog):
    source, sizes = deit(name)
    state = source.state_dict()
    torch.save({"model": state}, tmp_path / "deit.pth")
    with caplog.at_level("INFO"):
        backbone = loaded(tmp_path / "deit.pth", sizes)
    own = backbone.state_dict()
    renamed = {"ls1.gamma": "gamma_1", "ls2.gamma": "gamma_2"}
    left_out = set()
    for key, tensor in state.items():
        for timm_name, ours in renamed.items():
            key = key.replace(timm_name, ours)
        if key not in own:
            left_out.add(key)
        elif key != "pos_embed":
            assert torch.equal(own[key], tensor), key
    assert left_out - DISTILLED == {"cls_token", "norm.weight", "norm.bias", "head.weight", "head.bias"}
    assert left_out & DISTILLED == (DISTILLED if "distilled" in name else set())
    said, = (record.getMessage() for record in caplog.records if "Left out" in record.getMessage())
    assert all(f"backbone.{key}" in said for key in left_out)


def test_images_of_other_channels():
    grey = {"MODEL.PIXEL_MEAN": [120.0], "MODEL.PIXEL_STD": [60.0], "MODEL.VIT.EMBED_DIM": 32, "MODEL.VIT.NUM_HEADS": 2}
    assert BackboneModel({**PLAIN, **grey}).backbone.patch_embed.proj.weight.shape == (32, 1, 16, 16)


def test_a_checkpoint_of_another_width(tmp_path):
    source, sizes = deit("deit3_base_patch16_384")
    torch.save(source.state_dict(), tmp_path / "deit3.pth")
    with pytest.raises(CheckpointError, match=r"blocks.0.norm1.weight \(checkpoint \(192,\), model \(64,\)\)"):
        loaded(tmp_path / "deit3.pth", {"MODEL.VIT.EMBED_DIM": 64, "MODEL.VIT.NUM_HEADS": 2})


@pytest.mark.parametrize(("options", "message"), [
    ({"MODEL.VIT.DEPTH": 5}, r"MODEL.VIT.OUT_INDICES must name four blocks.* 4 \(depth 5\)"),
    ({"MODEL.VIT.NUM_HEADS": 5}, "MODEL.VIT.NUM_HEADS must divide the 384 channels, got 5"),
    ({"MODEL.VIT.EMBED_DIM": 40, "MODEL.VIT.NUM_HEADS": 4, **SWITCHES["FDAM"]},
     "MODEL.VIT.EMBED_DIM must be a multiple of group, got group 16 and dim 40"),
    ({**SWITCHES["FDLinear"], "MODEL.BACKBONE.FDCONV.KERNEL_NUM": 0},
     r"MODEL.BACKBONE.FDCONV.KERNEL_NUM must be at least 1, got 0 \(in .*qkv\)"),
    ({"MODEL.VIT.DROP_PATH_RATE": 1.0}, "MODEL.VIT.DROP_PATH_RATE must be at least 0 and below 1, got 1.0"),
    ({"MODEL.VIT.NECK_NORM": "InstanceNorm"}, "MODEL.VIT.NECK_NORM must be one of .*, got 'InstanceNorm'"),
])
def test_bad_settings(options, message):
    with pytest.raises(ConfigError, match=message):
        BackboneModel({**PLAIN, **options})

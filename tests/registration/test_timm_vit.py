"""timm's plain vision transformers by configuration: a checkpoint of timm's, the log, settings, what is refused."""
import pytest
import torch

from freqdino.checkpoint import StrictCheckpointer
from freqdino.engine.solver import build_optimizer
from freqdino.errors import CheckpointError, ConfigError
from freqdino.registration.backbones import build_backbone
from helpers.modules import randomised
from helpers.small_models import BackboneModel, example, small_config, small_model
from helpers.small_timm_vits import register_small, small_vit

FDAM = {"MODEL.BACKBONE.FDAM.ENABLED": True}
FDCONV = {"MODEL.BACKBONE.FDCONV.ENABLED": True, "MODEL.BACKBONE.FDCONV.KERNEL_NUM": 8}
register_small("small_narrow", "vit_small_patch16_224", 80, embed_dim=24)
SWITCHES = {"plain": {}, "FDAM": FDAM, "both": {**FDCONV, **FDAM}}


def options(name):
    return {"MODEL.BACKBONE.NAME": "build_timm_backbone", "MODEL.TIMM.NAME": name}


@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize("name", ["small_dino_two", "small_dino_three_bias", "small_eva02", "small_augreg"])
@torch.no_grad()
def test_timm_checkpoints_fill_the_backbone(tmp_path, caplog, name, switch):
    source = randomised(small_vit(name))
    torch.save(source.state_dict(), tmp_path / "timm.pth")
    plain = build_backbone(small_config(options(name)))
    model = small_model({**options(name), **SWITCHES[switch]}).eval()
    neck = {key: value.clone() for key, value in model.backbone.neck.state_dict().items()}
    caplog.clear()
    with caplog.at_level("INFO"):
        StrictCheckpointer(model).load(str(tmp_path / "timm.pth"))
    said = [record.getMessage() for record in caplog.records]
    assert sum("patches of 14 × 14 pixels are resampled" in line for line in said) == (name in ("small_dino_two",
                                                                                             "small_eva02"))
    assert any("frequency modules start neutral" in line for line in said) == (switch != "plain")
    assert any("Left out, as it should be: " in line and "head.weight" in line for line in said) == (
        "head.weight" in source.state_dict())
    assert all(torch.equal(value, neck[key]) for key, value in model.backbone.neck.state_dict().items())
    plain.load_state_dict({**plain.state_dict(), **{f"neck.{key}": value for key, value in neck.items()},
                           **{key: value for key, value in source.state_dict().items()
                              if not key.startswith(("head", "fc_norm"))}})
    image = torch.randn(1, 3, 64, 96)
    for level, feature_map in plain.eval()(image).items():
        scale = feature_map.abs().max()
        torch.testing.assert_close(model.backbone(image)[level] / scale, feature_map / scale, rtol=1e-3, atol=1e-3)


def test_a_checkpoint_of_another_transformer(tmp_path):
    torch.save(small_vit("small_deit3").state_dict(), tmp_path / "other.pth")
    model = small_model(options("small_dino_three"))
    with pytest.raises(CheckpointError, match="(?s)missing from the checkpoint: .*reg_token.*not in the model.*"):
        StrictCheckpointer(model).load(str(tmp_path / "other.pth"))
    torch.save({**small_vit("small_augreg").state_dict(), "pos_embed": torch.zeros(1, 28, 32)}, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match="cannot be converted: backbone.pos_embed: 28 positions are no square"):
        StrictCheckpointer(small_model(options("small_augreg"))).load(str(tmp_path / "odd.pth"))


def test_settings():
    built = build_backbone(small_config({**options("small_dino_three"), "MODEL.TIMM.DROP_PATH_RATE": 0.4,
                                         "MODEL.TIMM.USE_CHECKPOINT": True}))
    assert [getattr(block.drop_path1, "drop_prob", 0.0) for block in built.network.blocks] == pytest.approx(
        [0.0, 0.2, 0.4])
    assert built.network.grad_checkpointing
    cfg = small_config({**options("small_dino_three"), "MODEL.PIXEL_MEAN": [0.0] * 4, "MODEL.PIXEL_STD": [1.0] * 4})
    assert build_backbone(cfg).eval()(torch.randn(1, 4, 48, 40))["res3"].shape == (1, 32, 6, 5)


def test_layer_decay_by_configuration():
    cfg = small_config({**options("small_dino_three"), **FDAM, "SOLVER.LAYER_DECAY": 0.5, "SOLVER.BASE_LR": 1.0,
                        "SOLVER.BACKBONE_MULTIPLIER": 0.1, "SOLVER.FREQ_SCALE_MULTIPLIER": 2.0})
    model = BackboneModel({**options("small_dino_three"), **FDAM})
    rates = {parameter: group["lr"] for group in build_optimizer(cfg, model).param_groups
             for parameter in group["params"]}
    found = {name: rates[parameter] for name, parameter in model.named_parameters()}
    for name, expected in {"backbone.network.cls_token": 0.1 / 16, "backbone.network.patch_embed.proj.bias": 0.1 / 16,
                           "backbone.network.blocks.0.gamma_1": 0.1 / 8,
                           "backbone.network.blocks.1.attn.invert.dy_freq.weight": 0.1 / 4,
                           "backbone.network.blocks.2.mlp.freq_scale.complex_weights": 0.2 / 2,
                           "backbone.network.norm.weight": 0.1, "backbone.neck.res2.0.weight": 0.1}.items():
        assert found[name] == pytest.approx(expected), name


@torch.no_grad()
def test_pictures_of_several_sizes_run_as_alone():
    model = randomised(small_model({**options("small_dino_two"), **FDAM})).eval()
    pictures = [example(45, 61), example(64, 96), example(33, 130)]
    for together, picture in zip(model(pictures), pictures):
        alone, = model([picture])
        torch.testing.assert_close(together["sem_seg"], alone["sem_seg"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("changed", "message"), [
    (options("vit_tiny_r_s16_p8_224"),
     "MODEL.TIMM: timm's vit_tiny_r_s16_p8_224 makes its patches by HybridEmbed; a plain vision transformer makes"),
    (options("vit_small_patch16_dinov33"),
     "MODEL.TIMM.NAME is unknown: timm .* has no network 'vit_small_patch16_dinov33'; the nearest are vit_small_patch"),
    ({**options("small_narrow"), **FDAM},
     "MODEL.BACKBONE.FDAM with timm's small_narrow: VisionTransformer: blocks.0.attn: dim must be a multiple of group, "
     "got group 16 and dim 24"),
    ({**options("small_dino_two"), **FDCONV, "MODEL.BACKBONE.FDCONV.KERNEL_NUM": 0},
     "MODEL.BACKBONE.FDCONV.KERNEL_NUM must be at least 1, got 0 .in blocks.0.attn.qkv"),
    ({**options("small_dino_two"), "MODEL.BACKBONE.FREEZE_AT": 6}, "MODEL.BACKBONE.FREEZE_AT is 6; it must be from 0"),
    ({**options("small_dino_two"), "MODEL.SEM_SEG_HEAD.IN_FEATURES": ["p2"]},
     r"MODEL.SEM_SEG_HEAD.IN_FEATURES names \['p2'\], but build_timm_backbone gives \['res2', 'res3', 'res4', "),
])
def test_what_makes_no_sense(changed, message):
    with pytest.raises(ConfigError, match=message):
        small_model(changed)

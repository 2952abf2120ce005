"""Swin, MiT, MSCAN and timm's networks by configuration: switches, training, checkpoints, learning rates, errors."""
import pytest
import torch
from detectron2.modeling import build_backbone as build_registered_backbone
from torch import nn

from freqdino.checkpoint import StrictCheckpointer
from freqdino.engine.solver import build_optimizer
from freqdino.errors import CheckpointError, ConfigError
from freqdino.frequency import FDConv, FDLinear, FrequencyScale, InversionGates
from freqdino.modeling.activation_checkpointing import Checkpointed
from freqdino.registration.backbones import build_backbone
from helpers import small_timm_vits  # noqa: F401  registers small_dino_two and small_dino_three
from helpers.modules import randomised
from helpers.small_mask_dino import OPTIONS as MASK_DINO
from helpers.small_models import BackboneModel, example, small_config, small_model

FDCONV = {"MODEL.BACKBONE.FDCONV.ENABLED": True, "MODEL.BACKBONE.FDCONV.KERNEL_NUM": 16}
FDAM = {"MODEL.BACKBONE.FDAM.ENABLED": True}
SWITCHES = {"plain": {}, "FDConv": FDCONV, "FDAM": FDAM, "both": {**FDCONV, **FDAM}}
SWIN = {"MODEL.BACKBONE.NAME": "D2SwinTransformer", "MODEL.SWIN.EMBED_DIM": 32, "MODEL.SWIN.DEPTHS": [1, 2, 1, 1],
        "MODEL.SWIN.NUM_HEADS": [1, 2, 4, 8], "MODEL.SWIN.WINDOW_SIZE": 4}
MIT = {"MODEL.BACKBONE.NAME": "build_mit_backbone", "MODEL.MIT.EMBED_DIMS": [32, 32, 80, 64],
       "MODEL.MIT.DEPTHS": [1, 1, 1, 1]}
MSCAN = {"MODEL.BACKBONE.NAME": "build_mscan_backbone", "MODEL.MSCAN.EMBED_DIMS": [32, 32, 48, 64],
         "MODEL.MSCAN.DEPTHS": [1, 1, 1, 1]}
CONVNEXT = {"MODEL.BACKBONE.NAME": "build_timm_backbone", "MODEL.TIMM.NAME": "test_convnext2"}
RESNET = {"MODEL.BACKBONE.NAME": "build_timm_backbone", "MODEL.TIMM.NAME": "test_resnet"}
DINOV2 = {"MODEL.BACKBONE.NAME": "build_timm_backbone", "MODEL.TIMM.NAME": "small_dino_two"}
DINOV3 = {"MODEL.BACKBONE.NAME": "build_timm_backbone", "MODEL.TIMM.NAME": "small_dino_three"}
BACKBONES = {"Swin": SWIN, "MiT": MIT, "MSCAN": MSCAN, "ConvNeXt": CONVNEXT, "ResNet": RESNET, "DINOv2": DINOV2,
             "DINOv3": DINOV3}
FAMILIES = {"Mask2Former": {}, "Mask DINO": MASK_DINO}
NEW_PARTS = {"Swin": {"FDConv": {"FDLinear"}, "FDAM": {"FrequencyScale", "InversionGates"}},
             "MiT": {"FDConv": {"FDConv", "FDLinear"}, "FDAM": {"FrequencyScale", "InversionGates"}},
             "MSCAN": {"FDConv": {"FDConv"}, "FDAM": {"FrequencyScale"}},
             "ConvNeXt": {"FDConv": {"FDLinear"}, "FDAM": {"FrequencyScale"}},
             "ResNet": {"FDConv": {"FDConv"}, "FDAM": {"FrequencyScale"}},
             **{name: {"FDConv": {"FDLinear"}, "FDAM": {"FrequencyScale", "InversionGates"}}
                for name in ("DINOv2", "DINOv3")}}


def frequency_parts(module):
    kinds = (FDConv, FDLinear, FrequencyScale, InversionGates)
    return {kind.__name__ for kind in kinds if any(isinstance(part, kind) for part in module.modules())}


@pytest.mark.parametrize("name", BACKBONES)
def test_switches(name):
    parts = NEW_PARTS[name]
    expected = {"plain": set(), **parts, "both": parts["FDConv"] | parts["FDAM"]}
    for switch, options in SWITCHES.items():
        # Detectron2's own models build it with Detectron2's function.
        build = build_registered_backbone if switch == "both" else build_backbone
        assert frequency_parts(build(small_config({**BACKBONES[name], **options}))) == expected[switch]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", BACKBONES)
def test_a_training_step_reaches_every_parameter(name, family):
    torch.manual_seed(0)
    model = small_model({**FAMILIES[family], **BACKBONES[name], **SWITCHES["both"]}).train()
    loss = sum(model([example(64, 96, [0, 2]), example(45, 61, [1])]).values())
    assert torch.isfinite(loss)
    loss.backward()
    assert [key for key, parameter in model.named_parameters()
            if parameter.grad is None or not parameter.grad.isfinite().all()] == []


@pytest.mark.parametrize("name", BACKBONES)
@torch.no_grad()
def test_images_of_any_size(name):
    model = small_model({**BACKBONES[name], **FDAM, "MODEL.MASK_FORMER.SIZE_DIVISIBILITY": 0}).eval()
    result, = model([example(45, 61, height=90, width=122)])
    assert result["sem_seg"].shape == (3, 90, 122)


@pytest.mark.parametrize("options", [SWIN, MIT, MSCAN, RESNET], ids=["Swin", "MiT", "MSCAN", "timm"])
@torch.no_grad()
def test_as_many_input_channels_as_means(options):
    cfg = small_config({**options, "MODEL.PIXEL_MEAN": [0.0] * 4, "MODEL.PIXEL_STD": [1.0] * 4})
    assert len(build_backbone(cfg).eval()(torch.randn(1, 4, 32, 32))) == 4


def test_settings():
    mit = build_backbone(small_config({**MIT, "MODEL.MIT.DROP_PATH_RATE": 0.2, "MODEL.MIT.USE_CHECKPOINT": True}))
    assert mit.block4[0].drop_path.probability == pytest.approx(0.2) and mit.embed_dims == (32, 32, 80, 64)
    assert mit.activation_checkpointing
    mscan = build_backbone(small_config({**MSCAN, "MODEL.MSCAN.DROP_PATH_RATE": 0.2, "MODEL.MSCAN.NORM": "SyncBN",
                                         "MODEL.MSCAN.USE_CHECKPOINT": True}))
    assert mscan.block4[0].drop_path.probability == pytest.approx(0.2) and mscan.embed_dims == (32, 32, 48, 64)
    assert isinstance(mscan.block4[0].norm1, nn.SyncBatchNorm) and isinstance(mscan.block4[0], Checkpointed)
    large = {"MODEL.BACKBONE.NAME": "build_mscan_backbone", "MODEL.MSCAN.SIZE": "L", "MODEL.MSCAN.DEPTHS": [1, 1, 1, 1]}
    mscan = build_backbone(small_config(large))
    assert mscan.block4[0].drop_path.probability == pytest.approx(0.3) and mscan.embed_dims == (64, 128, 320, 512)
    convnext = build_backbone(small_config({**CONVNEXT, "MODEL.TIMM.DROP_PATH_RATE": 0.2,
                                            "MODEL.TIMM.USE_CHECKPOINT": True}))
    assert convnext.network.stages[3].blocks[-1].drop_path.drop_prob == pytest.approx(0.2)
    assert convnext.network.stages[0].grad_checkpointing
    number = {**FDCONV, "MODEL.BACKBONE.FDCONV.KERNEL_NUM": 8}
    swin = build_backbone(small_config({**SWIN, **number}))
    assert swin.layers[0].blocks[0].mlp.fc1.KSM_Global.kernel_fc.out_channels == 8


def saved(state, path):
    if path.suffix == ".safetensors":
        pytest.importorskip("safetensors.torch").save_file(state, path)
    else:
        torch.save({"model": state}, path)
    return path


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize("name", ["ConvNeXt", "ResNet"])
@torch.no_grad()
def test_timm_checkpoints(tmp_path, caplog, name, switch, suffix):
    timm = pytest.importorskip("timm")
    source = timm.create_model(BACKBONES[name]["MODEL.TIMM.NAME"]).eval()
    path = saved(randomised(source).state_dict(), tmp_path / f"timm{suffix}")
    model = small_model({**BACKBONES[name], **SWITCHES[switch]}).eval()
    with caplog.at_level("INFO"):
        StrictCheckpointer(model).load(str(path))
    classifier = "head.fc.weight" if name == "ConvNeXt" else "fc.weight"
    assert any("Left out" in record.getMessage() and classifier in record.getMessage() for record in caplog.records)
    image = torch.randn(1, 3, 64, 96)
    expected = source.forward_intermediates(image, intermediates_only=True)[-4:]
    for feature_map, target in zip(model.backbone(image).values(), expected):
        scale = target.abs().max()
        torch.testing.assert_close(feature_map / scale, target / scale, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize("name", ["Swin", "MiT", "MSCAN"])
@torch.no_grad()
def test_plain_checkpoints_keep_their_function(tmp_path, name, switch):
    source = BackboneModel(BACKBONES[name]).backbone.eval()
    state = randomised(source).state_dict()
    classifier = {"head.weight": torch.zeros(10, 64), "head.bias": torch.zeros(10)}
    path = saved({**state, **classifier}, tmp_path / "plain.pth")
    model = small_model({**BACKBONES[name], **SWITCHES[switch]}).eval()
    StrictCheckpointer(model).load(str(path))
    image = torch.randn(2, 3, 50, 70)
    expected = source(image)
    for level, feature_map in model.backbone(image).items():
        torch.testing.assert_close(feature_map, expected[level], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_trained_backbone_comes_back_as_it_was(tmp_path, name):
    source = BackboneModel({**BACKBONES[name], **SWITCHES["both"]}).backbone
    path = saved(randomised(source).state_dict(), tmp_path / "trained.pth")
    model = small_model({**BACKBONES[name], **SWITCHES["both"]})
    StrictCheckpointer(model).load(str(path))
    actual = model.backbone.state_dict()
    assert all(torch.equal(tensor, actual[key]) for key, tensor in source.state_dict().items())


@pytest.mark.parametrize(("options", "other"), [
    (MIT, SWIN), (SWIN, MIT), (MIT, MSCAN), (MSCAN, MIT), (CONVNEXT, RESNET), ({**CONVNEXT, **FDCONV}, MIT)])
def test_a_checkpoint_of_another_family(tmp_path, options, other):
    path = saved(BackboneModel(other).backbone.state_dict(), tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="missing from the checkpoint"):
        StrictCheckpointer(small_model(options)).load(str(path))


@pytest.mark.parametrize("name", BACKBONES)
def test_learning_rates_and_weight_decay(name):
    cfg = small_config({**BACKBONES[name], **SWITCHES["both"], "SOLVER.BASE_LR": 1.0, "SOLVER.WEIGHT_DECAY": 0.5,
                        "SOLVER.BACKBONE_MULTIPLIER": 0.25, "SOLVER.FREQ_SCALE_MULTIPLIER": 2.0})
    model = BackboneModel({**BACKBONES[name], **SWITCHES["both"]})
    names = {parameter: key for key, parameter in model.named_parameters()}
    settings = {names[parameter]: (group["lr"], group["weight_decay"])
                for group in build_optimizer(cfg, model).param_groups for parameter in group["params"]}
    assert settings.keys() == set(names.values())
    scales = [key for key in settings if "freq_scale" in key]
    gammas = [key for key in settings if key.endswith(("lf_gamma", "hf_gamma"))]
    assert scales and all(settings[key] == (0.5, 0.5) for key in scales)
    assert bool(gammas) == ("InversionGates" in NEW_PARTS[name]["FDAM"])
    assert all(settings[key] == (0.25, 0.0) for key in gammas)
    assert all(settings[key] == (0.25, 0.5) for key in settings if key.endswith(("dft_weight", "dy_freq.weight")))
    norms = [key for key, module in ((f"{name}.weight", module) for name, module in model.named_modules())
             if isinstance(module, nn.LayerNorm)]
    assert all(settings[key] == (0.25, 0.0) for key in norms)


@pytest.mark.parametrize("options", [SWIN, MIT, MSCAN, CONVNEXT], ids=["Swin", "MiT", "MSCAN", "timm"])
def test_layer_decay_is_for_other_networks(options):
    cfg = small_config({**options, "SOLVER.LAYER_DECAY": 0.9})
    with pytest.raises(ConfigError, match=f"backbone {options['MODEL.BACKBONE.NAME']} has no layers that it is for"):
        build_optimizer(cfg, BackboneModel(options))


@pytest.mark.parametrize(("options", "message"), [
    ({**SWIN, "MODEL.SWIN.OUT_FEATURES": ["p2"]}, r"MODEL.SWIN.OUT_FEATURES names \['p2'\]"),
    ({**SWIN, "MODEL.SWIN.DEPTHS": [2, 2, 2]}, "MODEL.SWIN.DEPTHS must be four positive numbers"),
    ({**MIT, "MODEL.MIT.DROP_PATH_RATE": 1.0}, "MODEL.MIT.DROP_PATH_RATE must be at least 0 and below 1, got 1.0"),
    ({**SWIN, "MODEL.SWIN.EMBED_DIM": 24, "MODEL.SWIN.NUM_HEADS": [1, 2, 3, 6], **FDAM},
     "MODEL.SWIN, with MODEL.BACKBONE.FDAM.ENABLED: layers.0.blocks.0: dim must be a multiple of group, got group "
     "16 and dim 24"),
    ({**SWIN, **FDCONV, "MODEL.BACKBONE.FDCONV.KERNEL_NUM": 0},
     r"MODEL.BACKBONE.FDCONV.KERNEL_NUM must be at least 1, got 0 \(in layers.0.blocks.0.attn.qkv\)"),
    ({**MIT, "MODEL.MIT.DEPTHS": [1, 1]}, r"MODEL.MIT.DEPTHS must be four positive numbers.* got \(1, 1\)"),
    ({**MIT, **FDCONV, "MODEL.BACKBONE.FDCONV.KERNEL_NUM": 10**6},
     "MODEL.BACKBONE.FDCONV.KERNEL_NUM must lie between 1 and .* got 1000000 .in block1.0.attn.q"),
    ({**MSCAN, "MODEL.MSCAN.SIZE": "XL"}, "MODEL.MSCAN.SIZE must be one of T, S, B, L, got 'XL'"),
    ({**MSCAN, "MODEL.MSCAN.DROP_PATH_RATE": 1.0}, "MODEL.MSCAN.DROP_PATH_RATE must be at least 0 and below 1"),
    ({**MSCAN, "MODEL.MSCAN.DEPTHS": [1, 1]}, r"MODEL.MSCAN.DEPTHS must be four numbers from 1 on.* got \(1, 1\)"),
    ({**MSCAN, "MODEL.MSCAN.EMBED_DIMS": [32, 32, 40, 64], **FDAM},
     "MODEL.MSCAN, with MODEL.BACKBONE.FDAM.ENABLED: block3.0: dim must be a multiple of group, got group 16 and dim "
     "40"),
    ({**MSCAN, **FDCONV, "MODEL.BACKBONE.FDCONV.KERNEL_NUM": 10**6},
     "MODEL.BACKBONE.FDCONV.KERNEL_NUM must lie between 1 and .* got 1000000 .in block1.0.attn.proj_1"),
    ({**MSCAN, "MODEL.MSCAN.NORM": "BatchNorm"}, "MODEL.MSCAN.NORM is 'BatchNorm'; Detectron2 knows BN, SyncBN"),
    ({**CONVNEXT, "MODEL.TIMM.NAME": "convnext_tinny"},
     "MODEL.TIMM.NAME is unknown: timm .* has no network 'convnext_tinny'; the nearest are convnext_tiny"),
    ({**CONVNEXT, "MODEL.TIMM.NAME": "test_vit_relpos"},
     "MODEL.TIMM: timm's test_vit_relpos gives no feature pyramid: .* plain vision transformer of timm's"),
    ({**CONVNEXT, **FDCONV, "MODEL.BACKBONE.FDCONV.KERNEL_NUM": 0},
     "MODEL.BACKBONE.FDCONV.KERNEL_NUM must be at least 1, got 0 .in stages"),
    ({**CONVNEXT, "MODEL.TIMM.NAME": "test_efficientnet", **FDAM},
     "MODEL.BACKBONE.FDAM with timm's test_efficientnet: frequency scaling has a place in ResNets and ConvNeXts"),
])
def test_what_makes_no_sense(options, message):
    with pytest.raises(ConfigError, match=message):
        small_model(options)

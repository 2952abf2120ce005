"""MODEL.BACKBONE.FREEZE_AT on backbones that are no ResNet: which parameters learn, what runs as in evaluation."""
import copy

import pytest
import torch
from torch import nn

from freqdino.registration.backbones import build_backbone
from helpers import small_timm_vits  # noqa: F401  registers small_dino_two
from helpers.small_models import RESNET18, small_config

SWIN = {"MODEL.BACKBONE.NAME": "D2SwinTransformer", "MODEL.SWIN.EMBED_DIM": 16, "MODEL.SWIN.DEPTHS": [1, 1, 1, 1],
        "MODEL.SWIN.NUM_HEADS": [1, 1, 2, 2], "MODEL.SWIN.WINDOW_SIZE": 4, "MODEL.SWIN.APE": True,
        "MODEL.SWIN.PRETRAIN_IMG_SIZE": 32}
MIT = {"MODEL.BACKBONE.NAME": "build_mit_backbone", "MODEL.MIT.EMBED_DIMS": [16, 32, 80, 128],
       "MODEL.MIT.DEPTHS": [1, 1, 1, 1]}
MSCAN = {"MODEL.BACKBONE.NAME": "build_mscan_backbone", "MODEL.MSCAN.EMBED_DIMS": [16, 32, 48, 64],
         "MODEL.MSCAN.DEPTHS": [1, 1, 1, 1]}
VIT = {"MODEL.BACKBONE.NAME": "build_vit_backbone", "MODEL.VIT.IMG_SIZE": 64, "MODEL.VIT.EMBED_DIM": 32,
       "MODEL.VIT.NUM_HEADS": 2, "MODEL.VIT.DEPTH": 6, "MODEL.VIT.OUT_INDICES": [1, 2, 3, 5]}
CONVNEXT = {"MODEL.BACKBONE.NAME": "build_timm_backbone", "MODEL.TIMM.NAME": "convnext_atto"}
RESNET = {"MODEL.BACKBONE.NAME": "build_timm_backbone", "MODEL.TIMM.NAME": "resnet18"}
DINO = {"MODEL.BACKBONE.NAME": "build_timm_backbone", "MODEL.TIMM.NAME": "small_dino_two"}
# Backbone, FREEZE_AT, beginnings of the names of the parameters that do not learn, written down by hand.
FROZEN = [
    (SWIN, 1, ("patch_embed.", "absolute_pos_embed")),
    (SWIN, 2, ("patch_embed.", "absolute_pos_embed", "layers.0.")),
    (SWIN, 3, ("patch_embed.", "absolute_pos_embed", "layers.0.", "layers.1.")),
    (MIT, 1, ("patch_embed1.",)),
    (MIT, 3, ("patch_embed1.", "block1.", "norm1.", "patch_embed2.", "block2.", "norm2.")),
    (MSCAN, 1, ("patch_embed1.",)),
    (MSCAN, 3, ("patch_embed1.", "block1.", "norm1.", "patch_embed2.", "block2.", "norm2.")),
    (VIT, 1, ("patch_embed.", "pos_embed")),
    (VIT, 2, ("patch_embed.", "pos_embed", "blocks.0.", "blocks.1.")),
    (VIT, 5, ("patch_embed.", "pos_embed", "blocks.")),
    (CONVNEXT, 1, ("stem.",)),
    (CONVNEXT, 2, ("stem.", "stages.0.")),
    (CONVNEXT, 5, ("stem.", "stages.")),
    (RESNET, 1, ("conv1.", "bn1.")),
    (RESNET, 3, ("conv1.", "bn1.", "layer1.", "layer2.")),
    # Three blocks: quarters end after 3/4, 6/4, 9/4 and 3 of them, rounded: 1, 2, 2, 3.
    (DINO, 1, ("patch_embed.", "pos_embed", "cls_token", "reg_token")),
    (DINO, 2, ("patch_embed.", "pos_embed", "cls_token", "reg_token", "blocks.0.")),
    (DINO, 4, ("patch_embed.", "pos_embed", "cls_token", "reg_token", "blocks.0.", "blocks.1.")),
    (DINO, 5, ("patch_embed.", "pos_embed", "cls_token", "reg_token", "blocks.", "norm.")),
]


def built(options, freeze_at, **more):
    return build_backbone(small_config({**options, "MODEL.BACKBONE.FREEZE_AT": freeze_at, **more}))


@pytest.mark.parametrize("options, freeze_at, frozen", FROZEN,
                         ids=[f"{next(reversed(o.values()))}-{n}" for o, n, _ in FROZEN])
def test_parameters_of_the_first_stages_do_not_learn(options, freeze_at, frozen):
    for name, tensor in built(options, freeze_at).state_dict(keep_vars=True).items():
        assert not isinstance(tensor, nn.Parameter) or tensor.requires_grad != name.startswith(frozen), name


@pytest.mark.parametrize("options", [SWIN, MIT, VIT, CONVNEXT, DINO], ids=["swin", "mit", "vit", "convnext", "dino"])
@pytest.mark.parametrize("freeze_at", [0, -1])
def test_nothing_is_frozen_by_0(options, freeze_at):
    backbone = built(options, freeze_at).train()
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    assert all(module.training for module in backbone.modules())


def test_normalisations_of_frozen_stages_keep_their_statistics():
    backbone = built(RESNET, 2).train()
    copied = copy.deepcopy(backbone).train()            # as the average of weights does
    before = {name: value.clone() for name, value in copied.named_buffers() if name.endswith("running_mean")}
    copied(torch.randn(2, 3, 64, 64) + 1)
    for name, value in copied.named_buffers():
        if name.endswith("running_mean"):
            assert torch.equal(value, before[name]) == name.startswith(("network.bn1.", "network.layer1.")), name


def test_stochastic_depth_of_frozen_stages_is_off():
    backbone = built(SWIN, 5, **{"MODEL.SWIN.DROP_PATH_RATE": 0.9}).train()
    image = torch.randn(4, 3, 64, 64)
    for name, feature_map in backbone(image).items():
        torch.testing.assert_close(feature_map, backbone.eval()(image)[name])
        backbone.train()


@pytest.mark.parametrize("options", [{**SWIN, "MODEL.SWIN.USE_CHECKPOINT": True},
                                     {**MIT, "MODEL.MIT.USE_CHECKPOINT": True},
                                     {**VIT, "MODEL.VIT.USE_CHECKPOINT": True},
                                     {**CONVNEXT, "MODEL.TIMM.USE_CHECKPOINT": True},
                                     {**DINO, "MODEL.TIMM.USE_CHECKPOINT": True}],
                         ids=["swin", "mit", "vit", "convnext", "dino"])
@pytest.mark.parametrize("freeze_at", [1, 3])
def test_what_is_not_frozen_learns_with_activation_checkpointing_too(options, freeze_at):
    backbone = built(options, freeze_at).train()
    sum(feature_map.square().sum() for feature_map in backbone(torch.randn(2, 3, 64, 64)).values()).backward()
    for name, parameter in backbone.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


@pytest.mark.parametrize("options", [SWIN, MIT, VIT, DINO], ids=["swin", "mit", "vit", "dino"])
@pytest.mark.parametrize("switch", ["FDAM", "FDCONV"])
def test_frequency_modules_learn_in_frozen_stages(options, switch):
    """As in a ResNet's: the plain weights keep still, what the modules add to them learns."""
    plain = dict(built(options, 0).named_parameters())
    added = {f"MODEL.BACKBONE.{switch}.ENABLED": True, "MODEL.BACKBONE.FDCONV.KERNEL_NUM": 4}
    for name, parameter in built(options, 5, **added).named_parameters():
        if name in plain and not name.startswith(("norm", "neck")) and plain[name].shape == parameter.shape:
            assert not parameter.requires_grad, name
        if "freq_scale" in name or "KSM" in name or "_gamma" in name:
            assert parameter.requires_grad, name


def test_the_stages_of_a_network_that_timm_describes_otherwise():
    """EfficientNet's maps of stride 16 and 32 come from its fifth and seventh group of blocks."""
    backbone = built({**CONVNEXT, "MODEL.TIMM.NAME": "efficientnet_b0"}, 4)
    learning = {name[:8] for name, tensor in backbone.state_dict(keep_vars=True).items() if tensor.requires_grad}
    assert learning == {"blocks.5", "blocks.6"}


@pytest.mark.parametrize("options, frozen", [
    ({**RESNET18}, "stem, res2 of build_resnet_backbone"), (SWIN, "stem, res2 of D2SwinTransformer")])
def test_the_log_names_what_is_frozen_and_the_key(options, frozen, caplog):
    with caplog.at_level("INFO", "freqdino"):
        backbone = built(options, 2)
    [line] = [record.getMessage() for record in caplog.records if "FREEZE_AT" in record.getMessage()]
    count = sum(p.numel() for p in backbone.parameters() if not p.requires_grad)
    assert line == f"MODEL.BACKBONE.FREEZE_AT is 2: {frozen} are frozen ({count:,} parameters); 0 freezes nothing"


def test_state_dicts_stay():
    for options in (SWIN, MIT, VIT, RESNET):
        assert list(built(options, 5).state_dict()) == list(built(options, 0).state_dict())
    assert isinstance(built(RESNET, 5).network.bn1, nn.BatchNorm2d)

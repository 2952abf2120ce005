"""FDConv and FDAM by configuration: which backbone reads which key, what it costs, what is refused."""
import pickle

import pytest
import torch
from detectron2.modeling import build_backbone as build_registered_backbone

from freqdino.checkpoint import StrictCheckpointer
from freqdino.errors import ConfigError
from freqdino.frequency import FDAMBlock, FDConv, FrequencyScale, InversionGates
from freqdino.modeling.backbones.vit import ViTBackbone
from freqdino.registration.backbones import build_backbone
from helpers.small_mask_dino import OPTIONS as MASK_DINO
from helpers.small_models import RESNET18, small_config, small_model

FDCONV = {"MODEL.BACKBONE.FDCONV.ENABLED": True}
FDAM = {"MODEL.BACKBONE.FDAM.ENABLED": True}
ENCODER_FDAM = {"MODEL.SEM_SEG_HEAD.FDAM.ENABLED": True}
SMALL_VIT = {"MODEL.BACKBONE.NAME": "build_fdam_vit_backbone", "MODEL.VIT.IMG_SIZE": 64, "MODEL.VIT.EMBED_DIM": 32,
             "MODEL.VIT.DEPTH": 4, "MODEL.VIT.NUM_HEADS": 2, "MODEL.VIT.OUT_INDICES": [0, 1, 2, 3]}
FAMILIES = {"Mask2Former": {}, "Mask DINO": MASK_DINO}


def kinds(module, *classes):
    return {cls.__name__ for cls in classes if any(isinstance(part, cls) for part in module.modules())}


def frequency_modules(backbone):
    return kinds(backbone, FDConv, FrequencyScale)


@pytest.mark.parametrize(("options", "expected"), [
    ({}, set()),
    (FDCONV, {"FDConv"}),
    (FDAM, {"FrequencyScale"}),
    ({**FDCONV, **FDAM}, {"FDConv", "FrequencyScale"}),
    ({"MODEL.BACKBONE.NAME": "build_fdconv_resnet_backbone"}, {"FDConv"}),
    ({"MODEL.BACKBONE.NAME": "build_fdam_resnet_backbone"}, {"FrequencyScale"}),
    ({"MODEL.BACKBONE.NAME": "build_fdam_resnet_backbone", **FDCONV}, {"FDConv", "FrequencyScale"}),
])
def test_resnets_by_key_and_by_name(options, expected):
    cfg = small_config({**RESNET18, **options})
    assert frequency_modules(build_backbone(cfg)) == expected
    if "MODEL.BACKBONE.NAME" in options:
        assert frequency_modules(build_registered_backbone(cfg)) == expected


def test_number_of_groups():
    backbone = build_backbone(small_config({**RESNET18, **FDCONV, "MODEL.BACKBONE.FDCONV.KERNEL_NUM": 8}))
    assert backbone.res2[0].conv1.KSM_Global.kernel_fc.out_channels == 8
    default = build_backbone(small_config({**RESNET18, **FDCONV}))
    assert default.res2[0].conv1.KSM_Global.kernel_fc.out_channels == 64


@torch.no_grad()
def test_a_plain_r50_is_converted_on_load_and_keeps_its_function(tmp_path):
    narrow = {**RESNET18, "MODEL.RESNETS.DEPTH": 50, "MODEL.RESNETS.STEM_OUT_CHANNELS": 32,
              "MODEL.RESNETS.RES2_OUT_CHANNELS": 64, "MODEL.RESNETS.WIDTH_PER_GROUP": 32}
    plain = build_backbone(small_config(narrow)).eval()
    arrays = {name: tensor.numpy() for name, tensor in plain.state_dict().items()}
    contents = {"model": arrays, "__author__": "torchvision", "matching_heuristics": True}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(contents))
    model = small_model({**narrow, **FDCONV, "MODEL.BACKBONE.FDCONV.KERNEL_NUM": 4}).eval()
    StrictCheckpointer(model).load(str(tmp_path / "R-50.pkl"))
    converted = {name for name, module in model.backbone.named_modules() if isinstance(module, FDConv)}
    assert converted == {f"res{stage}.{block}.conv{i}" for stage, blocks in zip((2, 3, 4, 5), (3, 4, 6, 3))
                         for block in range(blocks) for i in (1, 2, 3)} and len(converted) == 48
    image = torch.randn(1, 3, 64, 96)
    for name, expected in plain(image).items():
        torch.testing.assert_close(model.backbone(image)[name], expected, rtol=1e-3, atol=1e-4)


def test_frozen_stages_keep_their_modulation_trainable():
    backbone = build_backbone(small_config({**RESNET18, **FDCONV, "MODEL.BACKBONE.FREEZE_AT": 2}))
    conv = backbone.res2[0].conv1
    assert not conv.dft_weight.requires_grad and not backbone.stem.conv1.weight.requires_grad
    assert conv.KSM_Global.fc.weight.requires_grad and conv.FBM.freq_weight_conv_list[0].weight.requires_grad


def test_settings_of_the_vision_transformer():
    backbone = build_backbone(small_config({**SMALL_VIT, "MODEL.VIT.INIT_VALUES": 0.5, "MODEL.VIT.DROP_PATH_RATE": 0.15,
                                            "MODEL.VIT.USE_CHECKPOINT": True, "MODEL.VIT.IMG_SIZE": 96, **FDAM}))
    assert isinstance(backbone, ViTBackbone) and all(isinstance(block, FDAMBlock) for block in backbone.blocks)
    assert backbone.pos_embed.shape == (1, 6 * 6, 32) and len(backbone.blocks) == 4
    assert backbone.blocks[0].attn.num_heads == 2 and backbone.activation_checkpointing
    assert backbone.blocks[3].drop_path.probability == 0.15 and backbone.blocks[0].gamma_1[0] == 0.5


@pytest.mark.parametrize("family", FAMILIES)
def test_cost_of_fdam_in_the_encoder(family):
    size = {"MODEL.SEM_SEG_HEAD.CONVS_DIM": 256, "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": 6,
            "MODEL.MASK_FORMER.NHEADS": 8, "MODEL.MaskDINO.NHEADS": 8}
    counts = [sum(parameter.numel() for parameter in small_model({**FAMILIES[family], **size, **options}).parameters())
              for options in ({}, ENCODER_FDAM)]
    assert counts[1] - counts[0] == 6 * (4_626 + 2 * 12_290) == 175_236


@pytest.mark.parametrize("family", FAMILIES)
def test_encoder_keys(family):
    plain, with_fdam = (set(small_model({**FAMILIES[family], **options}).state_dict())
                        for options in ({}, ENCODER_FDAM))
    layer = "sem_seg_head.pixel_decoder.transformer.encoder.layers.0"
    scale = ("complex_weights", "reweight.fc1.weight", "reweight.act.scale", "reweight.act.bias", "reweight.fc2.weight")
    gates = ("lf_gamma", "hf_gamma", "dy_freq.weight", "dy_freq.bias", "dy_freq_2.weight", "dy_freq_2.bias",
             "dy_freq_starrelu.scale", "dy_freq_starrelu.bias")
    assert plain < with_fdam
    assert with_fdam - plain == {*(f"{layer}.freq_scale_{i}.{name}" for i in (1, 2) for name in scale),
                                 *(f"{layer}.self_attn.invert.{name}" for name in gates)}


def test_the_encoder_attends_as_before_at_the_start():
    torch.manual_seed(0)
    plain, with_fdam = small_model().eval(), small_model(ENCODER_FDAM).eval()
    with_fdam.load_state_dict(plain.state_dict(), strict=False)
    features = {name: torch.randn(1, shape.channels, 64 // shape.stride, 64 // shape.stride)
                for name, shape in plain.backbone.output_shape().items()}
    with torch.no_grad():
        expected, *_ = plain.sem_seg_head.pixel_decoder.forward_features(features)
        actual, *_ = with_fdam.sem_seg_head.pixel_decoder.forward_features(features)
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)
    assert not torch.equal(actual, expected)
    assert kinds(with_fdam, InversionGates, FrequencyScale) == {"InversionGates", "FrequencyScale"}


@pytest.mark.parametrize(("options", "message"), [
    ({"MODEL.BACKBONE.NAME": "PatchBackbone", **FDCONV},
     "MODEL.BACKBONE.FDCONV.ENABLED is True, but the backbone PatchBackbone does not read it; .*build_resnet_backbone"),
    ({"MODEL.BACKBONE.NAME": "PatchBackbone", **FDAM},
     "MODEL.BACKBONE.FDAM.ENABLED is True, but the backbone PatchBackbone does not read it; .*build_vit_backbone"),
    ({**RESNET18, **FDCONV, "MODEL.BACKBONE.FDCONV.KERNEL_NUM": 0},
     "MODEL.BACKBONE.FDCONV.KERNEL_NUM must be at least 1, got 0 .in res2"),
    ({"MODEL.BACKBONE.NAME": "build_fdconv_resnet_backbone",
      "MODEL.RESNETS.DEFORM_ON_PER_STAGE": [False, False, False, True]},
     r"FDCONV.ENABLED\) cannot replace deformable convolutions; set MODEL.RESNETS.DEFORM_ON_PER_STAGE"),
    ({**ENCODER_FDAM, "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": 0},
     "MODEL.SEM_SEG_HEAD.FDAM.ENABLED is True, but .*MSDeformAttnPixelDecoder with TRANSFORMER_ENC_LAYERS 0 has no"),
])
def test_what_makes_no_sense(options, message):
    with pytest.raises(ConfigError, match=message):
        small_model(options)


HEAD = "MODEL.SEM_SEG_HEAD"
C4 = {"MODEL.META_ARCHITECTURE": "GeneralizedRCNN", "MODEL.BACKBONE.NAME": "build_resnet_backbone"}
FPN = {"MODEL.META_ARCHITECTURE": "PanopticFPN", "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone"}


@pytest.mark.parametrize(("options", "message"), [
    ({**C4, **FDCONV}, "MODEL.BACKBONE.FDCONV.ENABLED is True, but the backbone build_resnet_backbone does not read it "
     "in the meta-architecture GeneralizedRCNN; set it to False, or MODEL.BACKBONE.NAME to one of "
     ".*build_fdconv_resnet_"),
    ({**C4, **FDAM}, "MODEL.BACKBONE.FDAM.ENABLED is True, .* build_resnet_backbone .*build_fdam_resnet_"),
    ({**FPN, **FDCONV}, "MODEL.BACKBONE.FDCONV.ENABLED .* build_resnet_fpn_backbone .*build_resnet_freqfusion_fpn_"),
    ({**C4, f"{HEAD}.FREQFUSION.ENABLED": True}, f"{HEAD}.FREQFUSION.ENABLED is True, but the meta-architecture "
     "GeneralizedRCNN does not read it; set it to False, or .*MaskFormer or MaskDINO; .*build_resnet_freqfusion_fpn_"),
    ({"MODEL.META_ARCHITECTURE": "SemanticSegmentor", **ENCODER_FDAM}, f"{HEAD}.FDAM.ENABLED is True, but the "
     "meta-architecture SemanticSegmentor does not read it; .*build_fdam_resnet_backbone has FDAM in the backbone"),
])
def test_detectron2_models_do_not_pass_over_a_switch(options, message):
    """Said when the configuration is loaded: Detectron2 builds these models without us."""
    with pytest.raises(ConfigError, match=message):
        small_config(options)


@pytest.mark.parametrize("options", [
    {**C4, "MODEL.BACKBONE.NAME": "build_fdconv_resnet_backbone", **FDAM},
    {**FPN, "MODEL.BACKBONE.NAME": "build_resnet_freqfusion_fpn_backbone", **FDCONV},
    C4,
    {**C4, **FDCONV, "MODEL.META_ARCHITECTURE": "SomebodyElses"},
])
def test_detectron2_models_with_a_backbone_that_reads_the_switch(options):
    assert small_config(options).MODEL.META_ARCHITECTURE == options["MODEL.META_ARCHITECTURE"]

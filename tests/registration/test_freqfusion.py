"""MODEL.SEM_SEG_HEAD.FREQFUSION: what it builds in either model, that it learns, and what cannot be built."""
import pytest
import torch
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY

from freqdino.errors import ConfigError
from freqdino.frequency.freqfusion.fusion import FreqFusionSum
from freqdino.modeling.pixel_decoder import UpsampleAndAdd
from helpers.small_mask_dino import OPTIONS as MASK_DINO
from helpers.small_models import example, small_config, small_model

HEAD = "MODEL.SEM_SEG_HEAD."
ON = {f"{HEAD}FREQFUSION.ENABLED": True}
FOUR = ["res2", "res3", "res4", "res5"]
ENCODER_MAPS = f"{HEAD}DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES"


def mask_dino(**options):
    return {**MASK_DINO, **ON, **{HEAD + key: value for key, value in options.items()}}


VARIANTS = {
    "Mask2Former": ON,
    "Mask DINO": mask_dino(),
    "Mask DINO, fine to coarse": mask_dino(FEATURE_ORDER="low2high", TOTAL_NUM_FEATURE_LEVELS=4),
    "Mask DINO, two extra levels": mask_dino(TOTAL_NUM_FEATURE_LEVELS=5),
    "Mask DINO, res2 in the encoder": mask_dino(
        DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES=FOUR, TOTAL_NUM_FEATURE_LEVELS=5, FEATURE_ORDER="low2high"),
}
UNITS = {"Mask2Former": 3, "Mask DINO": 3, "Mask DINO, fine to coarse": 4, "Mask DINO, two extra levels": 5,
         "Mask DINO, res2 in the encoder": 4}


def fusion_keys(model):
    return {key for key in model.state_dict() if ".freqfusions." in key}


@pytest.mark.parametrize("options", [{}, MASK_DINO], ids=["Mask2Former", "Mask DINO"])
def test_off_by_default(options):
    assert not small_config(options).MODEL.SEM_SEG_HEAD.FREQFUSION.ENABLED
    assert not fusion_keys(small_model(options))


@pytest.mark.parametrize("variant", VARIANTS)
def test_units_as_published(variant):
    decoder = small_model(VARIANTS[variant]).sem_seg_head.pixel_decoder
    units = [unit for unit in decoder.freqfusions if isinstance(unit, FreqFusionSum)]
    assert list(decoder.freqfusions)[:UNITS[variant]] == units and len(units) == UNITS[variant]
    for unit in units:
        shapes = {key: tuple(value.shape) for key, value in unit.state_dict().items()}
        assert shapes["hr_channel_compressor.weight"] == shapes["lr_channel_compressor.weight"] == (16, 64, 1, 1)
        assert shapes["content_encoder.weight"] == (25, 16, 3, 3) and shapes["content_encoder2.weight"] == (9, 16, 3, 3)
        assert shapes["dysampler.offset.weight"] == (32, 24, 3, 3) and shapes["dysampler.init_pos"] == (1, 32, 1, 1)
        assert shapes["hamming_lowpass"] == shapes["hamming_highpass"] == (1,)
        assert not any("norm" in key for key in shapes)


def test_levels_of_one_size_add():
    decoder = small_model(VARIANTS["Mask DINO, res2 in the encoder"]).sem_seg_head.pixel_decoder
    assert isinstance(decoder.freqfusions[-1], UpsampleAndAdd)
    assert not any(key.startswith("freqfusions.4") for key in decoder.state_dict())


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_learns(variant):
    torch.manual_seed(0)
    model = small_model(VARIANTS[variant]).train()
    for name, parameter in model.named_parameters():
        # At the start these are zero, so that where a token stands, and on which level, changes nothing.
        if name.endswith(("sampling_offsets.weight", "attention_weights.weight")):
            torch.nn.init.normal_(parameter, std=0.01)
    losses = model([example(100, 70, [0, 2]), example(64, 96, [1])])
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert "freqfusions" not in name or parameter.grad.any(), name


@pytest.mark.parametrize("divisibility", [1, 32])
@pytest.mark.parametrize("variant", VARIANTS)
def test_results_of_an_odd_image(variant, divisibility):
    family = "MASK_FORMER" if variant == "Mask2Former" else "MaskDINO"
    model = small_model({**VARIANTS[variant], f"MODEL.{family}.SIZE_DIVISIBILITY": divisibility,
                         "MODEL.BACKBONE.NAME": "build_resnet_backbone", "MODEL.RESNETS.DEPTH": 18,
                         "MODEL.RESNETS.RES2_OUT_CHANNELS": 64, "MODEL.RESNETS.OUT_FEATURES": FOUR}).eval()
    with torch.no_grad():
        result, = model([example(131, 77)])
    assert result["sem_seg"].shape[1:] == (131, 77) and result["sem_seg"].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("variant", ["Mask2Former", "Mask DINO, fine to coarse"])
def test_autocast_is_near_float32(variant, dtype):
    torch.manual_seed(0)
    model = small_model(VARIANTS[variant]).eval()
    features = model.backbone(torch.randn(1, 3, 64, 96))
    expected = model.sem_seg_head.pixel_decoder.forward_features(features)[0]
    with torch.autocast("cpu", dtype):
        actual = model.sem_seg_head.pixel_decoder.forward_features(features)[0]
    assert (actual.float() - expected).abs().mean() < 0.05 * expected.abs().mean()


@pytest.mark.parametrize("name", ["FreqAwareMSDeformAttnPixelDecoder2", "FreqAwareMSDeformAttnPixelDecoder"])
def test_published_decoder_names_switch_it_on(name):
    assert name in SEM_SEG_HEADS_REGISTRY
    cfg = small_config({f"{HEAD}PIXEL_DECODER_NAME": name})
    assert fusion_keys(small_model({f"{HEAD}PIXEL_DECODER_NAME": name})) == fusion_keys(small_model(ON))
    cfg.freeze()
    assert not cfg.MODEL.SEM_SEG_HEAD.FREQFUSION.ENABLED


def test_options_reach_the_units():
    model = small_model({**ON, f"{HEAD}FREQFUSION.LOWPASS_KERNEL": 3, f"{HEAD}FREQFUSION.HIGHPASS_KERNEL": 5,
                         f"{HEAD}FREQFUSION.COMPRESSED_CHANNELS": 12, f"{HEAD}FREQFUSION.FEATURE_RESAMPLE": False,
                         f"{HEAD}FREQFUSION.CHECKPOINT": True})
    for unit in model.sem_seg_head.pixel_decoder.freqfusions:
        assert unit.content_encoder.weight.shape[:2] == (9, 12)
        assert unit.content_encoder2.weight.shape[:2] == (25, 12)
        assert unit.dysampler is None and unit.checkpoint


@pytest.mark.parametrize(("options", "message"), [
    ({ENCODER_MAPS: ["res3", "res5"]},
     "FREQFUSION.ENABLED .* strides 32 and 8 are neighbours here; leave no map out between those of IN_FEATURES"),
    ({ENCODER_MAPS: ["res2"]},
     r"FREQFUSION.ENABLED needs two neighbouring levels, but the encoder reads \['res2'\] alone .*; name more maps in"),
    ({**MASK_DINO, ENCODER_MAPS: ["res2"], f"{HEAD}TOTAL_NUM_FEATURE_LEVELS": 1},
     r"FREQFUSION.ENABLED needs two neighbouring levels, but the encoder reads \['res2'\]"),
    ({f"{HEAD}FREQFUSION.LOWPASS_KERNEL": 4}, "FREQFUSION.LOWPASS_KERNEL must be odd and positive, got 4"),
    ({f"{HEAD}FREQFUSION.COMPRESSED_CHANNELS": 0}, "FREQFUSION.COMPRESSED_CHANNELS must be at least 1, got 0"),
])
def test_what_cannot_be_built(options, message):
    with pytest.raises(ConfigError, match=f"MODEL.SEM_SEG_HEAD.{message}"):
        small_model({**ON, **options})


def test_a_pixel_decoder_that_does_not_read_the_switch():
    message = "FREQFUSION.ENABLED is True, but SemSegFPNHead does not read it; .* MSDeformAttnPixelDecoder and MaskDINO"
    with pytest.raises(ConfigError, match=message):
        small_model({**ON, f"{HEAD}PIXEL_DECODER_NAME": "SemSegFPNHead"})

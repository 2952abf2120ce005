"""SegNeXt by configuration: what its keys build, FreqFusion in its head, learning rates, scores, bad configurations."""
import pytest
import torch
from detectron2.modeling import SemanticSegmentor
from torch import nn

from freqdino.config import load_config
from freqdino.config.effects import keys_without_effect
from freqdino.engine.solver import build_optimizer
from freqdino.errors import ConfigError
from freqdino.frequency.freqfusion.in_heads import FreqFusionConcat
from helpers.small_conversions import SEGNEXT, words
from helpers.small_models import small_config
from helpers.small_semantic_heads import scene, semantic_segmentor
from helpers.training_step import assert_a_step_reaches_every_parameter

HEAD = "MODEL.SEM_SEG_HEAD."
FREQFUSION = {f"{HEAD}FREQFUSION.ENABLED": True}
FDCONV = {"MODEL.BACKBONE.FDCONV.ENABLED": True, "MODEL.BACKBONE.FDCONV.KERNEL_NUM": 4}


def test_options_reach_the_head():
    model = semantic_segmentor({**SEGNEXT, f"{HEAD}HAM.BASES": 7, f"{HEAD}HAM.FIXED_BASES": False})
    head, ham = model.sem_seg_head, model.sem_seg_head.hamburger.ham
    assert type(model) is SemanticSegmentor and head.freqfusions is None
    assert head.in_features == ["res3", "res4", "res5"] and head.common_stride == 8 and head.dropout.p == 0.1
    assert head.squeeze.conv.weight.shape == (32, 80, 1, 1) and isinstance(head.squeeze.bn, nn.GroupNorm)
    assert (ham.dim, ham.num_bases, ham.train_steps, ham.eval_steps, ham.fixed_bases) == (32, 7, 6, 7, False)
    assert semantic_segmentor(SEGNEXT).sem_seg_head.hamburger.ham.fixed_bases


def test_freqfusion_as_published():
    """No window, normalised guides, offsets from the similarities alone, a quarter of the channels that are fused."""
    units = semantic_segmentor({**SEGNEXT, **FREQFUSION}).sem_seg_head.freqfusions
    assert [type(unit) for unit in units] == [FreqFusionConcat] * 2
    assert [(unit.hr_channels, unit.lr_channels) for unit in units] == [(32, 32), (16, 64)]
    for unit, compressed in zip(units, (16, 20)):
        assert unit.hr_channel_compressor.out_channels == compressed
        assert unit.hamming_lowpass.tolist() == unit.hamming_highpass.tolist() == [1.0]
        assert unit.dysampler.groups == 4 and isinstance(unit.dysampler.norm_hr, nn.GroupNorm)
        assert unit.dysampler.offset.weight.shape == (32, 8, 3, 3)
        assert unit.dysampler.hr_direct_scale.weight.shape == (8, compressed, 3, 3)


def test_freqfusions_options_reach_the_units():
    units = semantic_segmentor({
        **SEGNEXT, **FREQFUSION, f"{HEAD}FREQFUSION.LOWPASS_KERNEL": 3, f"{HEAD}FREQFUSION.COMPRESSED_CHANNELS": 12,
        f"{HEAD}FREQFUSION.FEATURE_RESAMPLE": False, f"{HEAD}FREQFUSION.CHECKPOINT": True}).sem_seg_head.freqfusions
    for unit in units:
        assert unit.content_encoder.weight.shape[:2] == (9, 12)
        assert unit.dysampler is None and unit.checkpoint


@pytest.mark.parametrize("options", [FREQFUSION, {**FREQFUSION, **FDCONV, "MODEL.BACKBONE.FDAM.ENABLED": True}],
                         ids=["FreqFusion", "all"])
def test_learns_and_gives_scores(options):
    cfg = load_config(opts=words({**SEGNEXT, "MODEL.MSCAN.DROP_PATH_RATE": 0.0, **options}))
    model = assert_a_step_reaches_every_parameter(cfg).eval()
    inputs = [{**scene(64, 96), "height": 128, "width": 192}, scene(45, 71)]
    with torch.no_grad():
        results, again = ([output["sem_seg"] for output in model(inputs)] for _ in range(2))
    assert [tuple(result.shape) for result in results] == [(3, 128, 192), (3, 45, 71)]
    assert all(map(torch.equal, results, again))


def test_the_published_evaluation_is_drawn_anew():
    model = semantic_segmentor({**SEGNEXT, f"{HEAD}HAM.FIXED_BASES": False}).eval()
    inputs = [scene(64, 96)]
    with torch.no_grad():
        assert not torch.equal(model(inputs)[0]["sem_seg"], model(inputs)[0]["sem_seg"])


def test_head_and_fusions_learn_ten_times_as_fast():
    rates = {"SOLVER.BASE_LR": 6e-4, "SOLVER.BACKBONE_MULTIPLIER": 0.1, "SOLVER.WEIGHT_DECAY": 0.01,
             "SOLVER.WEIGHT_DECAY_NORM": 0.0}
    model = semantic_segmentor({**SEGNEXT, **FREQFUSION})
    names = {parameter: name for name, parameter in model.named_parameters()}
    for group in build_optimizer(load_config(opts=words({**SEGNEXT, **rates})), model).param_groups:
        for parameter in group["params"]:
            name = names[parameter]
            assert group["lr"] == pytest.approx(6e-5 if name.startswith("backbone.") else 6e-4), name
            assert not (group["weight_decay"] and ("norm" in name or ".bn." in name)), name
            assert group["weight_decay"] or parameter.dim() == 1, name


def test_keys_without_effect():
    segnext = load_config(opts=words(SEGNEXT))
    read = [f"{HEAD}HAM.BASES", f"{HEAD}FREQFUSION.ENABLED", "MODEL.MSCAN.SIZE"]
    assert not keys_without_effect(segnext, read)
    assert keys_without_effect(segnext, [f"{HEAD}LOSS_TYPE"])
    other = small_config({"MODEL.BACKBONE.NAME": "build_mit_backbone"})
    assert set(keys_without_effect(other, read)) == {f"{HEAD}HAM.BASES", "MODEL.MSCAN.SIZE"}


@pytest.mark.parametrize(("options", "message"), [
    ({f"{HEAD}HAM.BASES": 0}, f"{HEAD}HAM.BASES must be at least 1, got 0"),
    ({f"{HEAD}COMMON_STRIDE": 4}, f"{HEAD}COMMON_STRIDE is 4, but the finest map, res3, has stride 8"),
    ({**FREQFUSION, f"{HEAD}IN_FEATURES": ["res3", "res5"]},
     rf"{HEAD}IN_FEATURES must name two maps or more for FreqFusion, .*got \['res3', 'res5'\] of strides \[8, 32\]"),
    ({**FREQFUSION, f"{HEAD}FREQFUSION.COMPRESSED_CHANNELS": 44},
     f"{HEAD}FREQFUSION.COMPRESSED_CHANNELS needs channels that channels // 8 groups divide, got 44 channels"),
    ({**FREQFUSION, f"{HEAD}FREQFUSION.LOWPASS_KERNEL": 4}, f"{HEAD}FREQFUSION.LOWPASS_KERNEL must be odd"),
    ({**FREQFUSION, "MODEL.MSCAN.EMBED_DIMS": [16, 16, 34, 32]},
     f"{HEAD}FREQFUSION.FEATURE_RESAMPLE must divide hr_channels, got feature_resample_group 4, hr_channels 34"),
    ({**FREQFUSION, f"{HEAD}NAME": "SegFormerHead"},
     f"{HEAD}FREQFUSION.ENABLED is True, but .* MODEL.SEM_SEG_HEAD.NAME LightHamHead in a head"),
])
def test_what_cannot_be_built(options, message):
    with pytest.raises(ConfigError, match=message):
        semantic_segmentor({**SEGNEXT, **options})

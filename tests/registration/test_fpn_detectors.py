"""Detectron2's own detectors with frequency modules: what MODEL.FPN.UPSAMPLER builds, that it trains and predicts."""
import pytest
import torch
from detectron2.modeling import build_backbone, build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from freqdino.config import load_config
from freqdino.errors import ConfigError
from freqdino.frequency import FDConv, FrequencyScale
from freqdino.frequency.freqfusion.fusion import FreqFusion
from freqdino.frequency.rivals.upsampler import Upsampler
from freqdino.registration.upsamplers import UPSAMPLERS
from helpers.small_detectors import BACKBONE, DETECTORS, MASK_RCNN

FUSIONS = ["freqfusion", *UPSAMPLERS]
FDCONV = {"MODEL.BACKBONE.FDCONV.ENABLED": True, "MODEL.BACKBONE.FDCONV.KERNEL_NUM": 4}
FDAM = {"MODEL.BACKBONE.FDAM.ENABLED": True}


def config(options=None):
    return load_config(opts=[word for item in {**BACKBONE, **(options or {})}.items() for word in item])


def upsampler(name):
    return {"MODEL.FPN.UPSAMPLER": name}


def scene(height=64, width=96):
    """A random image with two rectangles, as instances and as a semantic map (0: things, 1: the rest)."""
    masks = torch.zeros(2, height, width, dtype=torch.bool)
    masks[0, 4:40, 6:50] = True
    masks[1, 20:60, 40:90] = True
    instances = Instances((height, width))
    instances.gt_classes, instances.gt_masks = torch.tensor([0, 2]), BitMasks(masks)
    instances.gt_boxes = Boxes(torch.tensor([[6., 4., 50., 40.], [40., 20., 90., 60.]]))
    return {"image": torch.randint(0, 256, (3, height, width), dtype=torch.uint8), "instances": instances,
            "sem_seg": (~masks.any(dim=0)).long(), "height": height, "width": width}


def count(cfg):
    return sum(parameter.numel() for parameter in build_backbone(cfg).parameters())


def test_freqfusion_is_the_default():
    assert config().MODEL.FPN.UPSAMPLER == "freqfusion"
    fusions = build_backbone(config()).fpn_fusions
    assert len(fusions) == 3 and all(isinstance(fusion, FreqFusion) for fusion in fusions)
    assert fusions[0].hr_channel_compressor.out_channels == 8 and fusions[0].dysampler is not None
    assert fusions[0].hamming_lowpass.numel() == 1 and isinstance(fusions[0].dysampler.norm_hr, torch.nn.Identity)


def test_cost_of_freqfusion_is_the_published_one():
    """FreqFusion's table of Panoptic FPN R50; only the pyramid's width matters, so R18 does."""
    plain = {"MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone", "MODEL.FPN.OUT_CHANNELS": 256}
    cost = count(config({"MODEL.FPN.OUT_CHANNELS": 256, **upsampler("freqfusion")})) - count(config(plain))
    assert cost == 3 * 104_434 and f"{cost / 1e6:.1f}" == "0.3"


def test_nearest_is_detectron2s_pyramid_with_the_same_weights():
    reference = build_backbone(config({"MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone"})).eval()
    pyramid = build_backbone(config(upsampler("nearest"))).eval()
    pyramid.load_state_dict(reference.state_dict(), strict=True)
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected, levels = reference(image), pyramid(image)
    assert list(levels) == list(expected)
    assert all(torch.equal(levels[name], expected[name]) for name in expected)
    assert pyramid.output_shape() == reference.output_shape()


def test_detectron2s_checkpoints_lack_the_fusions_alone():
    checkpoint = build_model(config({**MASK_RCNN, "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone"})).state_dict()
    missing, unexpected = build_model(config(MASK_RCNN)).load_state_dict(checkpoint, strict=False)
    assert missing and all(key.startswith("backbone.fpn_fusions.") for key in missing)
    assert unexpected == []


@pytest.mark.parametrize("size", [(33, 47), (64, 64), (65, 97), (95, 33)])
@pytest.mark.parametrize("name", FUSIONS)
def test_any_size(name, size):
    levels = build_backbone(config(upsampler(name))).eval()(torch.randn(1, 3, *size))
    for level, stride in zip(("p2", "p3", "p4", "p5", "p6"), (4, 8, 16, 32, 64)):
        assert levels[level].shape == (1, 32, *(-(-edge // stride) for edge in size))


@pytest.mark.parametrize(("switches", "expected"), [
    ({}, (False, False)), (FDCONV, (True, False)), (FDAM, (False, True)), ({**FDCONV, **FDAM}, (True, True)),
])
def test_frequency_modules_of_the_resnet(switches, expected):
    bottom_up = build_backbone(config({**switches, **upsampler("nearest")})).bottom_up
    assert tuple(any(isinstance(module, kind) for module in bottom_up.modules())
                 for kind in (FDConv, FrequencyScale)) == expected


@pytest.mark.parametrize("name", FUSIONS)
def test_a_training_step_of_mask_rcnn_reaches_every_parameter(name):
    check_training_step({**MASK_RCNN, **upsampler(name)}, Upsampler if name != "freqfusion" else FreqFusion)


@pytest.mark.parametrize("detector", DETECTORS)
def test_a_training_step_of_every_detector_with_all_frequency_modules(detector):
    check_training_step({**DETECTORS[detector], **FDCONV, **FDAM}, FreqFusion)


def check_training_step(options, fusion):
    torch.manual_seed(0)
    model = build_model(config({**options, "MODEL.RESNETS.NORM": "BN"})).train()
    assert sum(isinstance(module, fusion) for module in model.modules()) == 3
    with EventStorage():                # Detectron2's heads log into it
        losses = model([scene(), scene(50, 70)])
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert [name for name, parameter in model.named_parameters()
            if parameter.grad is None or not parameter.grad.isfinite().all()] == []


@pytest.mark.parametrize("detector", DETECTORS)
def test_predictions_of_every_detector(detector):
    torch.manual_seed(0)
    model = build_model(config(DETECTORS[detector])).eval()
    picture = {**scene(50, 71), "height": 100, "width": 142}
    with torch.no_grad():
        result, = model([picture])
    assert result["instances"].image_size == (100, 142) and 0 < len(result["instances"]) <= 5
    assert result["instances"].has("pred_masks") == (detector != "Faster R-CNN")
    assert set(result) == ({"instances", "sem_seg", "panoptic_seg"} if detector == "Panoptic FPN" else {"instances"})
    if detector == "Panoptic FPN":
        assert result["sem_seg"].shape == (4, 100, 142) and result["panoptic_seg"][0].shape == (100, 142)


@pytest.mark.parametrize(("options", "message"), [
    (upsampler("pixel_shuffle"), f"MODEL.FPN.UPSAMPLER is 'pixel_shuffle'; known are {', '.join(FUSIONS)}$"),
    ({"MODEL.FPN.FUSE_TYPE": "max"}, "MODEL.FPN.FUSE_TYPE must be one of sum, avg, got 'max'"),
    ({"MODEL.FPN.IN_FEATURES": ["res2", "res4"]}, "MODEL.FPN.IN_FEATURES must name maps of which each has twice"),
    *(({**upsampler(name), "MODEL.FPN.OUT_CHANNELS": 30}, f"^MODEL.FPN.OUT_CHANNELS must be a multiple of {divisor}")
      for name, divisor in (("dysample", "the 4 groups"), ("sapa_d", "the 4 groups"), ("a2u", "32, the groups"),
                            ("sapa_b", "32, the groups"))),
    ({**FDCONV, "MODEL.BACKBONE.FDCONV.KERNEL_NUM": 0}, "^MODEL.BACKBONE.FDCONV.KERNEL_NUM must be at least 1, got 0"),
])
def test_what_makes_no_sense(options, message):
    with pytest.raises(ConfigError, match=message):
        build_backbone(config(options))


@pytest.mark.parametrize("name", ["freqfusion", "nearest"])
def test_a_plain_pyramid_with_what_it_does_anyway(name):
    build_backbone(config({"MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone", **upsampler(name)}))


def test_an_upsampler_that_the_backbone_does_not_read():
    message = ("MODEL.FPN.UPSAMPLER is carafe, but the backbone build_resnet_fpn_backbone does not read it; set "
               "MODEL.BACKBONE.NAME to build_resnet_freqfusion_fpn_backbone")
    with pytest.raises(ConfigError, match=message):
        config({"MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone", **upsampler("carafe")})

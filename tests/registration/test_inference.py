"""TEST.GROUP_BY_SIZE and TEST.SLIDING_WINDOW in every model: a picture's result is its own."""
import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.modeling import SemanticSegmentor, build_model

from freqdino.config import load_config
from freqdino.errors import ConfigError
from freqdino.registration.inference import inference_of
from helpers.small_detectors import BACKBONE, DETECTORS
from helpers.small_mask_dino import SEMANTIC as MASK_DINO_SEMANTIC
from helpers.small_mask_dino import mask_dino_model
from helpers.small_models import OPTIONS, example, small_config, small_model
from helpers.small_semantic_heads import semantic_segmentor

UPERNET = {"MODEL.SEM_SEG_HEAD.NAME": "UPerNetHead"}
SEGFORMER = {"MODEL.SEM_SEG_HEAD.NAME": "SegFormerHead"}
SEMANTIC = {"MODEL.MASK_FORMER.TEST.INSTANCE_ON": False, "MODEL.MASK_FORMER.TEST.PANOPTIC_ON": False}
IMAGE_GUIDED = {"MODEL.META_ARCHITECTURE": "MaskFormerFreqAware", "MODEL.SEM_SEG_HEAD.NAME": "MaskFormerHeadFreqAware"}
SLIDING = {"TEST.SLIDING_WINDOW.ENABLED": True, "TEST.SLIDING_WINDOW.SIZE": [64, 64],
           "TEST.SLIDING_WINDOW.STRIDE": [32, 32]}
SIZES = ((64, 96), (128, 64), (60, 90), (33, 40))       # padded to 32: the first and third alike, the others not


def words(options):
    return [word for item in options.items() for word in item]


def detector(name, **more):
    """With a plain pyramid: FreqFusion from random weights makes visible numbers of the last bits."""
    return build_model(load_config(opts=words({**BACKBONE, **DETECTORS[name], "MODEL.FPN.UPSAMPLER": "nearest",
                                               **more})))


MODELS = {
    "Mask2Former": small_model,
    "Mask2Former, image-guided": lambda: small_model(IMAGE_GUIDED),
    "Mask DINO": mask_dino_model,
    "UPerNet": lambda: semantic_segmentor(UPERNET),
    "SegFormer": lambda: semantic_segmentor(SEGFORMER),
    "Mask2Former in windows": lambda: small_model({**SEMANTIC, **SLIDING}),
    "Mask DINO in windows": lambda: mask_dino_model({**MASK_DINO_SEMANTIC, **SLIDING}),
    "SegFormer in windows": lambda: semantic_segmentor({**SEGFORMER, **SLIDING}),
    "UPerNet in windows": lambda: semantic_segmentor({**UPERNET, **SLIDING}),
    **{name: lambda name=name: detector(name) for name in DETECTORS},
}


def assert_same(ours, alone):
    assert set(ours) == set(alone)
    if "sem_seg" in ours:
        largest = max(1, alone["sem_seg"].abs().max())         # of logits; of probabilities 1
        assert (ours["sem_seg"] - alone["sem_seg"]).abs().max() <= 1e-5 * largest
    if "instances" in ours:
        one, other = (result["instances"].get_fields() for result in (ours, alone))
        assert (one["scores"].sort().values - other["scores"].sort().values).abs().max() <= 1e-5
        one, other = (fields["pred_boxes"].tensor.sort(dim=0).values for fields in (one, other))
        assert (one - other).abs().max() <= 1e-4 * max(SIZES[0])       # in pixels
    if "panoptic_seg" in ours:
        assert (ours["panoptic_seg"][0] != alone["panoptic_seg"][0]).float().mean() <= 1e-3
        assert [segment["category_id"] for segment in ours["panoptic_seg"][1]] == [
            segment["category_id"] for segment in alone["panoptic_seg"][1]]


@pytest.mark.parametrize("name", MODELS)
def test_a_picture_alone_and_among_others(name):
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    pictures = [example(*size) for size in SIZES]
    with torch.no_grad():
        together = model(pictures)
        alone = [model([picture])[0] for picture in pictures]
    assert len(together) == len(pictures)
    for ours, own in zip(together, alone):
        assert_same(ours, own)


def test_the_published_behaviour_sees_the_padding():
    torch.manual_seed(0)
    model = small_model({"TEST.GROUP_BY_SIZE": False}).eval()
    low, high = example(64, 64), example(256, 64)
    with torch.no_grad():
        together, alone = model([low, high])[0], model([low])[0]
    assert (together["sem_seg"] - alone["sem_seg"]).abs().max() > 1e-3


def test_pictures_of_one_padded_size_run_together(monkeypatch):
    model, sizes = small_model().eval(), []
    backbone = model.backbone.forward
    monkeypatch.setattr(model.backbone, "forward", lambda x: sizes.append(tuple(x.shape)) or backbone(x))
    with torch.no_grad():
        results = model([example(*size) for size in SIZES])
    assert sizes == [(2, 3, 64, 96), (1, 3, 128, 64), (1, 3, 64, 64)]
    assert [tuple(result["sem_seg"].shape[1:]) for result in results] == list(SIZES)


def test_detectron2_models_stay_of_their_classes_and_are_copied_and_stored():
    model = semantic_segmentor(UPERNET).eval()
    copied, stored = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    assert type(model) is type(copied) is type(stored) is SemanticSegmentor
    pictures = [example(*size) for size in SIZES[:2]]
    with torch.no_grad():
        model.sem_seg_head.conv_seg.bias += 1                   # a copy that called the original would see it
        results, *others = [[result["sem_seg"] for result in each(pictures)] for each in (model, copied, stored)]
    for other in others:
        for ours, theirs in zip(results, other, strict=True):
            torch.testing.assert_close(ours - 1, theirs)


def test_a_configuration_without_our_keys_changes_nothing():
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE, cfg.MODEL.SEM_SEG_HEAD.NORM = "SemanticSegmentor", "cpu", ""
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    assert "forward" not in vars(build_model(cfg))


@pytest.mark.parametrize(("build", "options"), [(semantic_segmentor, UPERNET), (small_model, SEMANTIC)])
def test_windows_are_means_of_the_plain_model(build, options):
    """64 x 96 pixels and windows of 64 x 64, 32 apart: columns 0-63 and 32-95, which share the middle third."""
    plain, windowed = build(options).eval(), build({**options, **SLIDING}).eval()
    windowed.load_state_dict(plain.state_dict())
    picture = example(64, 96)
    with torch.no_grad():
        result = windowed([{**picture, "height": 128, "width": 192}])[0]["sem_seg"]
        left, right = (plain([{"image": picture["image"][:, :, columns]}])[0]["sem_seg"]
                       for columns in (slice(0, 64), slice(32, 96)))
    expected = torch.cat([left[:, :, :32], (left[:, :, 32:] + right[:, :, :32]) / 2, right[:, :, 32:]], dim=2)
    expected = F.interpolate(expected[None], size=(128, 192), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


def test_windows_need_a_semantic_model():
    with pytest.raises(ConfigError, match="TEST.SLIDING_WINDOW.ENABLED is True, but MaskFormer predicts semantic, "
                                          "instance, panoptic.*MODEL.MASK_FORMER.TEST.INSTANCE_ON to False"):
        small_model(SLIDING)
    with pytest.raises(ConfigError, match="GeneralizedRCNN predicts instance.*MODEL.META_ARCHITECTURE to one of "
                                          "MaskFormer, MaskDINO, MaskFormerFreqAware, SemanticSegmentor"):
        detector("Mask R-CNN", **SLIDING)


@pytest.mark.parametrize(("options", "message"), [
    ({"SIZE": None}, "TEST.SLIDING_WINDOW.SIZE is None; expected one whole number of pixels or two"),
    ({"SIZE": "wide"}, "TEST.SLIDING_WINDOW.SIZE is 'wide'"),
    ({"STRIDE": [1, 2, 3]}, r"TEST.SLIDING_WINDOW.STRIDE is \[1, 2, 3\]"),
    ({"STRIDE": [32.5, 32]}, r"TEST.SLIDING_WINDOW.STRIDE is \[32.5, 32\]"),
    ({"STRIDE": True}, "TEST.SLIDING_WINDOW.STRIDE is True"),
    ({"STRIDE": 0}, r"TEST.SLIDING_WINDOW.STRIDE must be at least 1 in height and width, got \(0, 0\)"),
    ({"SIZE": [64, -64]}, r"TEST.SLIDING_WINDOW.SIZE must be at least 1 in height and width, got \(64, -64\)"),
    ({"STRIDE": [32, 65]}, r"TEST.SLIDING_WINDOW.STRIDE \(32, 65\) exceeds size \(64, 64\)"),
])
def test_sizes_that_cannot_be_meant(options, message):
    sizes = {f"TEST.SLIDING_WINDOW.{key}": value for key, value in options.items()}
    with pytest.raises(ConfigError, match=message):
        small_model({**SEMANTIC, **SLIDING, **sizes})


def test_one_number_stands_for_both_sides():
    cfg = small_config({**SEMANTIC, **SLIDING, "TEST.SLIDING_WINDOW.SIZE": 64, "TEST.SLIDING_WINDOW.STRIDE": 48})
    window = inference_of(cfg, 32).window
    assert window.size == (64, 64) and window.stride == (48, 48)
    cfg = small_config({**SEMANTIC, **SLIDING, "TEST.SLIDING_WINDOW.SIZE": 64.0,
                        "TEST.SLIDING_WINDOW.STRIDE": (48.0, 32)})
    assert inference_of(cfg, 32).window.stride == (48, 32)


def test_windows_that_are_padded_are_said(caplog):
    cfg = small_config({**OPTIONS, **SEMANTIC, **SLIDING, "TEST.SLIDING_WINDOW.SIZE": 50})
    inference_of(cfg, 32)
    assert "TEST.SLIDING_WINDOW.SIZE is [50, 50], but the model pads its input to multiples of 32" in caplog.text


def test_sizes_without_the_switch_are_said(caplog):
    cfg = small_config({**SLIDING, "TEST.SLIDING_WINDOW.ENABLED": False})
    assert inference_of(cfg, 32).window is None
    assert "TEST.SLIDING_WINDOW.SIZE and STRIDE change nothing: TEST.SLIDING_WINDOW.ENABLED is False" in caplog.text

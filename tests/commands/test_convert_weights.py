"""tools/convert_weights.py: other projects' checkpoints compute here what they compute there.

Sources are networks under the other projects' names: torchvision's and timm's own, and OpenMMLab's written out.
"""
import pickle

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from torch import nn
from torchvision.models import resnet18
from torchvision.models.swin_transformer import SwinTransformer

from freqdino.config import load_config
from helpers.openmmlab_models import Detector, MapLayerNorm, Segmentor, SegNeXt, randomised
from helpers.small_conversions import (
    FASTER,
    FDCONV,
    MASK,
    MASK2FORMER,
    RGB,
    SEGNEXT,
    SEGNEXT_FREQFUSION,
    SWIN,
    UPERNET_RESNET,
    UPERNET_TRANSFORMER,
    Converter,
    words,
)
from helpers.small_detectors import BACKBONE, PANOPTIC_FPN

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture
def conversion(tmp_path, capsys):
    return Converter(tmp_path, capsys)


@pytest.fixture
def image():
    return torch.randn(2, 3, 128, 128)


# ImageNet's networks

@torch.no_grad()
@pytest.mark.parametrize("options", [MASK2FORMER, {**MASK2FORMER, **FDCONV}, FASTER], ids=["plain", "FDConv", "FPN"])
def test_torchvisions_resnet(conversion, options, image):
    source = randomised(resnet18(weights=None))
    model, report = conversion.load(source.state_dict(), options, whole_model=False)
    assert "format: resnet" in report and "left: 2, the classifier: fc.weight, fc.bias" in report
    assert "stem.conv1.weight" in torch.load(conversion.target)["model"]        # of any model's backbone
    x = F.max_pool2d(source.bn1(source.conv1(image)).relu(), 3, stride=2, padding=1)
    backbone = model.backbone.bottom_up if options is FASTER else model.backbone
    maps = backbone(image)
    for stage, name in zip((source.layer1, source.layer2, source.layer3, source.layer4), maps):
        x = stage(x)
        torch.testing.assert_close(maps[name], x, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("origin", ["torchvision", "timm"])
def test_swin_of_torchvision_and_timm(conversion, origin, image):
    sizes = {"embed_dim": 32, "depths": (1, 2, 1, 1), "num_heads": (1, 2, 4, 8)}
    if origin == "torchvision":
        source = SwinTransformer(patch_size=[4, 4], window_size=[4, 4], num_classes=3, **sizes)
    else:
        timm = pytest.importorskip("timm.models.swin_transformer")
        source = timm.SwinTransformer(img_size=128, window_size=4, num_classes=3, **sizes)
    randomised(source)
    source.norm.weight.fill_(1), source.norm.bias.zero_()       # as the backbone's, which starts so
    model, report = conversion.load(source.state_dict(), SWIN, whole_model=False)
    assert f"format: {origin}-swin" in report
    expected = source.norm(source.features(image)) if origin == "torchvision" else source.forward_features(image)
    torch.testing.assert_close(model.backbone(image)["res5"], expected.permute(0, 3, 1, 2), **CLOSE)


def test_checkpoints_that_the_backbone_reads_itself_pass_through(conversion):
    timm = pytest.importorskip("timm.models.vision_transformer")
    source = randomised(timm.VisionTransformer(img_size=64, embed_dim=32, depth=4, num_heads=2, num_classes=3))
    model, report = conversion.load(source.state_dict(), UPERNET_TRANSFORMER, whole_model=False)
    assert "format: native" in report and "all under their own names" in report and "start neutral" in report
    assert torch.equal(model.backbone.blocks[3].attn.qkv.weight, source.blocks[3].attn.qkv.weight)


# mmdetection

@torch.no_grad()
def assert_detector_computes(model, source, image):
    """Pyramid, proposals' logits and deltas, and the heads on random regions."""
    levels = source.neck(source.backbone(image))
    pyramid = model.backbone(image)
    for level, expected in zip(pyramid.values(), levels, strict=True):
        torch.testing.assert_close(level, expected, **CLOSE)
    logits, deltas = model.proposal_generator.rpn_head(list(pyramid.values()))
    for level, *pair in zip(levels, logits, deltas):
        torch.testing.assert_close(pair, list(source.rpn_head(level)), **CLOSE)
    regions = torch.randn(5, levels[0].shape[1], 7, 7)
    scores = model.roi_heads.box_predictor(model.roi_heads.box_head(regions))
    torch.testing.assert_close(scores, source.roi_head.bbox_head(regions), **CLOSE)
    if hasattr(source.roi_head, "mask_head"):
        masks = model.roi_heads.mask_head.layers(regions)
        torch.testing.assert_close(masks, source.roi_head.mask_head(regions), **CLOSE)


@pytest.mark.parametrize("kind", ["Faster R-CNN", "Mask R-CNN with FDConv"])
def test_mmdetections_detectors(conversion, kind, image):
    fdconv = kind.endswith("FDConv")
    source = randomised(Detector(fdconv=fdconv, masks=fdconv))
    options = {**MASK, **FDCONV} if fdconv else FASTER
    model, report = conversion.load({"meta": {"CLASSES": ("a", "b", "c")}, "state_dict": source.state_dict(),
                                     "optimizer": {}}, options)
    assert "format: mmdetection," in report and "could not place: 0" in report
    assert "not weights, left: meta, optimizer" in report
    assert_detector_computes(model, source, image)


@pytest.mark.parametrize("renamed", [False, True])
def test_freqfusion_in_mmdetections_pyramid(conversion, renamed, image):
    source = randomised(Detector(freqfusion=True))
    state, flags = source.state_dict(), ()
    options = {**FASTER, "MODEL.FPN.UPSAMPLER": "freqfusion"}
    if renamed:
        state = {name.replace("freqfusions.", "fusion_"): tensor for name, tensor in state.items()}
        assert "--rename" in conversion.refuse({"state_dict": state}, options)
        flags = ("--rename", r"neck\.fusion_(\d)", r"neck.freqfusions.\1")
    model, report = conversion.load({"state_dict": state}, options, *flags)
    assert "format: mmdetection-freqfusion" in report and "note: " in report
    assert_detector_computes(model, source, image)


@torch.no_grad()
def test_panoptic_fpn_counts_things_first(conversion, image):
    source = randomised(Detector(freqfusion=True, masks=True, stuff=3))
    options = {**BACKBONE, **PANOPTIC_FPN, **RGB, "MODEL.ROI_MASK_HEAD.NUM_CONV": 2}
    model, _ = conversion.load({"state_dict": source.state_dict()}, options)
    levels = source.neck(source.backbone(image))
    expected = source.semantic_head(levels[:4])
    scores = model.sem_seg_head.layers(dict(zip(("p2", "p3", "p4", "p5"), levels)))
    torch.testing.assert_close(scores, torch.cat([expected[:, -1:], expected[:, :-1]], dim=1), **CLOSE)
    assert_detector_computes(model, source, image)


def test_anchors_of_the_required_options_are_mmdetections():
    cfg = load_config(opts=words(FASTER))
    strides = (4, 8, 16, 32, 64)
    generator = DefaultAnchorGenerator(cfg, [ShapeSpec(stride=stride) for stride in strides])
    for stride, anchors in zip(strides, generator([torch.zeros(1, 1, 2, 3)] * 5)):
        expected = []
        for y in range(2):
            for x in range(3):
                for ratio in (0.5, 1.0, 2.0):       # height / width, of area (8 · stride)²
                    width, height = 8 * stride * ratio**-0.5, 8 * stride * ratio**0.5
                    expected.append([x * stride - width / 2, y * stride - height / 2,
                                     x * stride + width / 2, y * stride + height / 2])
        torch.testing.assert_close(anchors.tensor, torch.tensor(expected))


def test_box_deltas_of_the_required_options_are_mmdetections():
    box, delta = torch.tensor([[10., 20., 50., 100.]]), torch.tensor([[0.5, -1.0, 0.4, -0.8]])
    dx, dy, dw, dh = (delta * torch.tensor([0.1, 0.1, 0.2, 0.2]))[0]
    width, height = 40 * dw.exp(), 80 * dh.exp()
    x, y = 30 + 40 * dx, 60 + 80 * dy
    expected = torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
    weights = load_config(opts=words(FASTER)).MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS
    torch.testing.assert_close(Box2BoxTransform(weights).apply_deltas(delta, box)[0], expected)


# mmsegmentation

@torch.no_grad()
def assert_segmentor_computes(model, source, image):
    maps, head = model.backbone(image), model.sem_seg_head
    for ours, theirs in zip(maps.values(), source.maps(image), strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)
    scores, auxiliary = source(image)
    torch.testing.assert_close(head.logits(list(maps.values())), scores, **CLOSE)
    torch.testing.assert_close(head.auxiliary(maps["res4"]), auxiliary, **CLOSE)


def test_mmsegmentations_upernet(conversion, image):
    source = randomised(Segmentor(transformer=False))
    state = source.state_dict()
    state["ema_backbone_conv1_weight"] = torch.zeros(64, 3, 7, 7)
    model, report = conversion.load({"state_dict": state}, UPERNET_RESNET)
    assert "format: mmsegmentation" in report
    assert "left: 1, copy of averaged weights; the weights proper are converted: ema_backbone_conv1_weight" in report
    assert_segmentor_computes(model, source, image)


@pytest.mark.parametrize(("neck_norm", "pyramid_norm"), [("LN", MapLayerNorm), ("SyncBN", nn.BatchNorm2d)])
@pytest.mark.parametrize("place", ["neck.upsample_{}x", "backbone.fpn"])
def test_fdams_transformer_with_upernet(conversion, place, neck_norm, pyramid_norm, image):
    source = randomised(Segmentor(transformer=True, pyramid_norm=pyramid_norm))
    state = source.state_dict()
    if place == "backbone.fpn":                 # where BEiT's code has it
        state = {name.replace("neck.upsample_4x", "backbone.fpn1").replace("neck.upsample_2x", "backbone.fpn2"): tensor
                 for name, tensor in state.items()}
    model, _ = conversion.load({"state_dict": state}, {**UPERNET_TRANSFORMER, "MODEL.VIT.NECK_NORM": neck_norm})
    assert_segmentor_computes(model, source, image)


@torch.no_grad()
@pytest.mark.parametrize("options", [SEGNEXT, SEGNEXT_FREQFUSION], ids=["plain", "FreqFusion"])
def test_segnext(conversion, options, image):
    source = randomised(SegNeXt(freqfusion=options is SEGNEXT_FREQFUSION))
    state = {**source.state_dict(), "backbone.head.weight": torch.zeros(10, 32)}
    model, report = conversion.load({"state_dict": state}, options)
    assert "format: mmsegmentation" in report and "left: 1, the classifier: backbone.head.weight" in report
    maps, head = model.backbone(image), model.sem_seg_head
    for ours, theirs in zip(maps.values(), source.maps(image), strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)
    scores = head.logits([maps[name] for name in head.in_features])
    torch.testing.assert_close(scores, source(image, head.hamburger.ham.bases, steps=7), **CLOSE)


@torch.no_grad()
def test_segnexts_backbone_of_imagenet_passes_through(conversion, image):
    source = randomised(SegNeXt()).backbone
    state = {**source.state_dict(), "head.weight": torch.zeros(10, 32), "head.bias": torch.zeros(10)}
    model, report = conversion.load({"state_dict": state}, SEGNEXT, whole_model=False)
    assert "format: native" in report and "head.weight, head.bias" in report
    for ours, theirs in zip(model.backbone(image).values(), source(image).values(), strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


# Names that are ours already

@pytest.mark.parametrize("first_style", [False, True])
def test_freqfusions_mask2former_passes_through(conversion, first_style):
    options = {**MASK2FORMER, "MODEL.SEM_SEG_HEAD.FREQFUSION.ENABLED": True}
    source = build_model(load_config(opts=words(options)))
    state = dict(source.state_dict())
    if first_style:
        state = {f"module.{name}".replace(".pixel_decoder.", ".").replace("query_feat", "static_query"): tensor
                 for name, tensor in state.items()}
    model, report = conversion.load({"model": state}, options)
    assert "format: native" in report and f"mapped: {len(source.state_dict())} tensors" in report
    for name, tensor in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


# Files

def test_numpy_pickle_of_detectron2s_style(conversion):
    conversion.target = conversion.folder / "R-18.pkl"
    state = resnet18(weights=None).state_dict()
    model, _ = conversion.load(state, MASK2FORMER, whole_model=False)
    contents = pickle.loads(conversion.target.read_bytes())
    assert contents["matching_heuristics"] and "convert_weights" in contents["__author__"]
    assert contents["model"]["res2.0.conv1.weight"].dtype.name == "float32"
    assert torch.equal(model.backbone.stem.conv1.weight, state["conv1.weight"])

    conversion.target = conversion.folder / "converted.pkl"
    state["conv1.weight"] = state["conv1.weight"].bfloat16()
    assert "stem.conv1.weight is bfloat16" in conversion.refuse(state, MASK2FORMER)

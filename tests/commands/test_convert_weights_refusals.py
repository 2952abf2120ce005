"""tools/convert_weights.py: what is not converted, what the message says, and that nothing is written then."""
import pytest
import torch
from detectron2.modeling import build_model
from torchvision.models import resnet18

from freqdino.config import load_config
from helpers.openmmlab_models import Detector, MapLayerNorm, Segmentor, SegNeXt, randomised
from helpers.small_conversions import (
    FASTER,
    FDCONV,
    MASK,
    MASK2FORMER,
    SEGNEXT,
    SEGNEXT_FREQFUSION,
    UPERNET_RESNET,
    UPERNET_TRANSFORMER,
    Converter,
    convert_weights,
    words,
)


@pytest.fixture
def conversion(tmp_path, capsys):
    return Converter(tmp_path, capsys)


def test_hole_leftover_and_wrong_shape_are_named_together(conversion):
    state = randomised(Detector()).state_dict()
    state["neck.lateral_convs.3.conv.extra"] = torch.zeros(5)
    state["roi_head.bbox_head.fc_cls.weight"] = torch.zeros(81, 16)
    state["rpn_head.rpn_regression.bias"] = state.pop("rpn_head.rpn_reg.bias")
    message = conversion.refuse({"state_dict": state}, FASTER)
    assert "3 entries of the file have no place in the model:" in message
    assert "neck.lateral_convs.3.conv.extra (5,): the model has no backbone.fpn_lateral5.extra" in message
    assert "fc_cls.weight (81, 16): roi_heads.box_predictor.cls_score.weight has shape (4, 16)" in message
    assert ("rpn_head.rpn_regression.bias (12,): no rule knows this name; nearest: "
            "proposal_generator.rpn_head.anchor_deltas.bias (12,)") in message
    assert "2 names of the model are filled by nothing:" in message
    assert "cls_score.weight (4, 16); nearest: roi_head.bbox_head.fc_cls.weight (81, 16)" in message
    assert "anchor_deltas.bias (12,); nearest: rpn_head.rpn_regression.bias (12,)" in message
    assert "hint: MODEL.ROI_HEADS.NUM_CLASSES" in message


def test_hole_in_names_that_are_ours(conversion):
    options = {**MASK2FORMER, "MODEL.SEM_SEG_HEAD.FREQFUSION.ENABLED": True}
    state = build_model(load_config(opts=words(options))).state_dict()
    name = "sem_seg_head.pixel_decoder.freqfusions.2.content_encoder.weight"
    del state[name]
    assert f"1 names of the model are filled by nothing:\n    {name} " in conversion.refuse({"model": state}, options)


def test_batch_normalisation_is_not_put_into_layer_normalisation(conversion):
    state = randomised(Segmentor(transformer=True)).state_dict()
    message = conversion.refuse({"state_dict": state}, UPERNET_TRANSFORMER)
    assert "4 entries of the file have no place in the model:" in message
    assert "neck.upsample_4x.1.weight (32,): backbone.neck.res2.1 has running statistics in the file" in message
    assert "2 names of the model are filled by nothing:\n    backbone.neck.res2.1.weight (32,)" in message
    assert "hint: MODEL.VIT.NECK_NORM: UPerNet's pyramid has batch normalisation" in message

    status, report, _ = conversion.run({"state_dict": state}, UPERNET_TRANSFORMER, "--partial")
    written = torch.load(conversion.target)["model"]
    assert status == 0 and "to be loaded with MODEL.WEIGHTS_PARTIAL True" in report
    assert "2 names of the model are filled by nothing:" in report
    assert not [name for name in written if name.startswith("backbone.neck.res2.1.")]
    assert torch.equal(written["backbone.neck.res2.0.weight"], state["neck.upsample_4x.0.weight"])


def test_position_embedding_of_another_size_names_the_option(conversion):
    state = randomised(Segmentor(transformer=True, pyramid_norm=MapLayerNorm)).state_dict()
    message = conversion.refuse({"state_dict": state}, {**UPERNET_TRANSFORMER, "MODEL.VIT.IMG_SIZE": 96})
    assert "backbone.pos_embed (1, 16, 32): backbone.pos_embed has shape (1, 36, 32)" in message
    assert "hint: MODEL.VIT.IMG_SIZE" in message


def test_segnext_of_another_kind(conversion):
    state = {"state_dict": randomised(SegNeXt()).state_dict()}
    message = conversion.refuse(state, {**SEGNEXT, "MODEL.SEM_SEG_HEAD.NORM": "LN"}, "--partial")
    assert "the weights need MODEL.SEM_SEG_HEAD.NORM GN, the configuration has LN" in message
    message = conversion.refuse(state, {**SEGNEXT, "MODEL.MSCAN.DEPTHS": [1, 1, 3, 1]})
    assert "hint: MODEL.MSCAN.SIZE" in message
    message = conversion.refuse(state, {**SEGNEXT, "MODEL.SEM_SEG_HEAD.CONVS_DIM": 64})
    assert "hint: MODEL.SEM_SEG_HEAD.CONVS_DIM: 256 in SegNeXt-T" in message
    renamed = {name.replace("freqfusions", "fusion_modules"): tensor for name, tensor in
               randomised(SegNeXt(freqfusion=True)).state_dict().items()}
    message = conversion.refuse({"state_dict": renamed}, SEGNEXT_FREQFUSION)
    assert "its units are read as decode_head.freqfusions.<i>, --rename helps" in message
    assert conversion.run({"state_dict": renamed}, SEGNEXT_FREQFUSION, "--rename", "fusion_modules", "freqfusions",
                          "--dry-run")[0] == 0


def test_another_family(conversion):
    state = randomised(Detector()).state_dict()
    message = conversion.refuse(state, MASK2FORMER)
    assert "(mmdetection)" in message and "neck.lateral_convs.0.conv.weight (32, 64, 1, 1)" in message
    message = conversion.refuse({"encoder.layer.0.weight": torch.zeros(2, 3)}, MASK2FORMER)
    assert "(native)" in message and "encoder.layer.0.weight (2, 3): the model has no encoder.layer.0.weight" in message
    assert "backbone.stem.conv1.weight (64, 3, 7, 7)" in message and "nothing in the file fits the model" in message
    message = conversion.refuse(state, FASTER, "--format", "mmsegmentation")
    assert "(mmsegmentation)" in message and "neck.lateral_convs.0.conv.weight (32, 64, 1, 1): no rule" in message


def test_deeper_network_and_deep_stem(conversion):
    state = resnet18(weights=None).state_dict()
    deeper = {**state, "layer3.2.conv1.weight": torch.zeros(256, 256, 3, 3)}
    assert "the model has no backbone.res4.2.conv1.weight" in conversion.refuse(deeper, MASK2FORMER)
    stem = {**state, "conv1.0.weight": torch.zeros(32, 3, 3, 3)}
    del stem["conv1.weight"]
    assert "hint: stems of three convolutions" in conversion.refuse(stem, MASK2FORMER, "--format", "resnet")


@pytest.mark.parametrize(("option", "value"), [
    ("INPUT.FORMAT", "BGR"), ("MODEL.PIXEL_STD", [1.0, 1.0, 1.0]), ("MODEL.RESNETS.STRIDE_IN_1X1", True),
    ("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[1.0, 0.5, 2.0]]), ("MODEL.FPN.UPSAMPLER", "bilinear"),
    ("MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", (1.0, 1.0, 1.0, 1.0)),
])
def test_configuration_that_computes_something_else(conversion, option, value):
    state = {"state_dict": randomised(Detector()).state_dict()}
    message = conversion.refuse(state, {**FASTER, option: value}, "--partial")
    assert f"the weights need {option} " in message and f", the configuration has {value}" in message
    assert f"add: {option} " in message


def test_options_of_masks_matter_to_masks_alone(conversion):
    options = {"MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": 2}
    status, _, error = conversion.run(randomised(Detector()).state_dict(), {**FASTER, **options}, "--dry-run")
    assert status == 0, error
    message = conversion.refuse(randomised(Detector(masks=True)).state_dict(), {**MASK, **options})
    assert "the weights need MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO 0, the configuration has 2" in message


def test_segformers_weights_are_for_the_head_without_upsamplers(conversion):
    options = {**UPERNET_RESNET, "MODEL.SEM_SEG_HEAD.NAME": "SegFormerHead"}
    model = build_model(load_config(opts=words(options)))
    state = {name.replace("sem_seg_head", "decode_head"): value for name, value in model.state_dict().items()}
    assert conversion.run(state, options, "--dry-run")[0] == 0
    message = conversion.refuse(state, {**options, "MODEL.SEM_SEG_HEAD.UPSAMPLER": "nearest"})
    assert "the weights need MODEL.SEM_SEG_HEAD.UPSAMPLER bilinear, the configuration has nearest" in message


def test_caffe_style_is_recognised_by_the_training_configuration(conversion):
    meta = {"config": "model = dict(backbone=dict(type='ResNet', depth=50, style='caffe'))"}
    message = conversion.refuse({"meta": meta, "state_dict": randomised(Detector()).state_dict()}, FASTER)
    assert "not one that mmdetection serves: the backbone is of caffe style" in message


def test_dry_run_writes_nothing(conversion):
    status, report, _ = conversion.run(randomised(Detector()).state_dict(), FASTER, "--dry-run")
    assert status == 0 and "dry run: nothing written" in report and "could not place: 0" in report
    assert not conversion.target.exists()
    state = randomised(Detector()).state_dict()
    del state["rpn_head.rpn_cls.bias"]
    assert "objectness_logits.bias (3,)" in conversion.refuse(state, FASTER, "--dry-run")


def test_renames_that_cannot_be_meant(conversion):
    state = randomised(Detector()).state_dict()
    for rename, expected in ((("nowhere", "x"), "--rename nowhere: no name in the file has it"),
                             (("neck(", "x"), "not a regular expression"),
                             (("rpn_cls", "rpn_reg"), "--rename makes two entries rpn_head.rpn_reg.weight")):
        assert expected in conversion.refuse(state, FASTER, "--rename", *rename)


def test_two_entries_of_one_name(conversion):
    units = {"neck.freqfusion.0.x": torch.zeros(1), "neck.freqfusions.0.x": torch.zeros(1)}
    message = conversion.refuse({**randomised(Detector()).state_dict(), **units}, FASTER)
    assert "two entries become backbone.fpn_fusions.0.x: neck.freqfusion.0.x and neck.freqfusions.0.x" in message


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_a_target_that_cannot_be_written(conversion, suffix):
    conversion.target = conversion.folder / f"converted{suffix}"
    (conversion.folder / f"converted{suffix}.unfinished").symlink_to(conversion.folder / "nowhere" / "file")
    assert "No such file or directory" in conversion.refuse(randomised(Detector()).state_dict(), FASTER)


def test_hints_of_class_agnostic_boxes_and_of_fdconv_in_a_segmentor(conversion):
    state = randomised(Detector()).state_dict()
    boxes = {f"roi_head.bbox_head.fc_reg.{name}": torch.zeros(shape) for name, shape in (("weight", (4, 16)),
                                                                                         ("bias", (4,)))}
    message = conversion.refuse({**state, **boxes}, FASTER)
    assert "hint: MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG" in message
    segmentor = randomised(Segmentor(transformer=False)).state_dict()
    options = {**UPERNET_RESNET, **FDCONV, "MODEL.BACKBONE.NAME": "build_fdconv_resnet_backbone"}
    assert "hint: MODEL.BACKBONE.FDCONV.ENABLED and KERNEL_NUM" in conversion.refuse(segmentor, options)


def test_files_that_cannot_be_read_or_written(conversion, tmp_path):
    class Code:
        def __reduce__(self):
            return print, ("run",)

    message = conversion.refuse({"state_dict": {"a": torch.zeros(1)}, "hook": Code()}, FASTER)
    assert "reading them could run code" in message
    config = ["--config-file", str(tmp_path / "empty.yaml")]
    for source, target, expected in ((tmp_path / "none.pth", tmp_path / "x.pth", "none.pth: no such checkpoint file"),
                                     (tmp_path / "source.pth", tmp_path / "no" / "x.pth", "no: no such folder"),
                                     (tmp_path / "source.pth", tmp_path / "source.pth", "is the source itself")):
        assert convert_weights.main([str(source), str(target), *config]) == 1
        assert expected in conversion.capsys.readouterr().err

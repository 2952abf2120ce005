"""tools/convert_weights.py --to huggingface: transformers' own Mask2Former computes from the folder what the model here
computes, and the folder reads back as what it was made of."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from PIL import Image
from safetensors.torch import load_file

from freqdino.checkpoint import DataConfig, StrictCheckpointer, read_weights
from freqdino.checkpoint.whole_files import folder_written_whole
from freqdino.conversion.transformers_config import without_place
from helpers.golden import assert_agrees
from helpers.openmmlab_models import randomised
from helpers.small_conversions import MASK2FORMER, SWIN, Converter, convert_weights, words
from helpers.small_models import small_config, small_model

BGR = {"INPUT.FORMAT": "BGR", "MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675], "MODEL.PIXEL_STD": [1.0, 1.5, 2.0]}
CAFFE_R50 = {**MASK2FORMER, **BGR, "MODEL.RESNETS.DEPTH": 50, "MODEL.RESNETS.STRIDE_IN_1X1": True,
             "MODEL.RESNETS.STEM_OUT_CHANNELS": 8, "MODEL.RESNETS.RES2_OUT_CHANNELS": 32,
             "MODEL.RESNETS.WIDTH_PER_GROUP": 8}
BN_R18 = {**MASK2FORMER, "MODEL.RESNETS.NORM": "BN"}
BGR_SWIN = {**SWIN, **BGR}
OTHER_SIZES = {**SWIN, "MODEL.SEM_SEG_HEAD.IN_FEATURES": ["res3", "res4", "res5"], "MODEL.SWIN.QKV_BIAS": False,
               "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": 8, "MODEL.MASK_FORMER.HIDDEN_DIM": 32,
               "MODEL.MASK_FORMER.PRE_NORM": True, "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": 0}
MODELS = {"Swin": SWIN, "BGR Swin": BGR_SWIN, "ResNet-18": MASK2FORMER, "BGR ResNet-50, stride in 1x1": CAFFE_R50,
          "other sizes": OTHER_SIZES}


@pytest.fixture
def conversion(tmp_path, capsys):
    converter = Converter(tmp_path, capsys)
    converter.target = tmp_path / "converted"
    return converter


def written(conversion, options, **remarks):
    """(the model here, what the tool said), the folder being conversion.target."""
    model = randomised(small_model(options))
    for name, tensor in model.named_buffers():
        if name.endswith("num_batches_tracked"):
            tensor.fill_(7)
    status, report, error = conversion.run({"model": model.state_dict(), **remarks}, options, "--to", "huggingface")
    assert status == 0, error
    assert f"wrote {conversion.target}" in report
    return model, report


def their_model(folder):
    """transformers' model of a folder, in which every entry of the one has its place in the other."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model, said = transformers.Mask2FormerForUniversalSegmentation.from_pretrained(folder, output_loading_info=True)
    assert not any(said.values()), said
    return model.eval()


@torch.no_grad()
def assert_same_outputs(ours, theirs, pixels, their_pixels):
    """Of normalised pictures in each model's own order of channels, (B, 3, H, W)."""
    outputs, expected = ours.sem_seg_head(ours.backbone(pixels)).as_dict(), theirs(pixel_values=their_pixels)
    assert_agrees(outputs["pred_logits"], expected.class_queries_logits, "classes")
    assert_agrees(outputs["pred_masks"], expected.masks_queries_logits, "masks")


@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
def test_transformers_computes_the_same(conversion, options):
    ours, report = written(conversion, options)
    bgr = options["INPUT.FORMAT"] == "BGR"
    assert ("turned round" in report) == bgr
    assert ("that the head does not read: backbone.norm0.;" in report) == (options is OTHER_SIZES)
    pixels = torch.randn(2, 3, 64, 96)
    assert_same_outputs(ours, their_model(conversion.target), pixels, pixels.flip(1) if bgr else pixels)


@pytest.mark.parametrize("options", [SWIN, BGR_SWIN, CAFFE_R50], ids=["RGB Swin", "BGR Swin", "BGR ResNet"])
def test_a_picture_of_odd_size_through_their_image_processor(conversion, options):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    options = {**options, "INPUT.MIN_SIZE_TEST": 417, "INPUT.MAX_SIZE_TEST": 999,
               "MODEL.MASK_FORMER.SIZE_DIVISIBILITY": 1}
    ours, _ = written(conversion, options)
    picture = np.random.default_rng(0).integers(0, 256, (417, 603, 3), dtype=np.uint8)         # RGB
    processor = transformers.AutoImageProcessor.from_pretrained(conversion.target)
    their_pixels = processor(images=Image.fromarray(picture), return_tensors="pt")["pixel_values"]
    order = [2, 1, 0] if options["INPUT.FORMAT"] == "BGR" else [0, 1, 2]
    mean, std = (torch.tensor(options[f"MODEL.PIXEL_{key}"]) for key in ("MEAN", "STD"))
    pixels = ((torch.from_numpy(picture[..., order].copy()) - mean) / std).permute(2, 0, 1)[None]
    assert_agrees(their_pixels, pixels[:, order], "pixels", relative=1e-6)
    assert_same_outputs(ours, their_model(conversion.target), pixels, their_pixels)


@pytest.mark.parametrize("options", [SWIN, MASK2FORMER, BN_R18, CAFFE_R50],
                         ids=["Swin", "ResNet-18", "ResNet-18 with BN", "BGR ResNet-50"])
def test_the_folder_reads_back_bit_for_bit(conversion, caplog, options):
    source = written(conversion, options)[0].state_dict()
    contents = read_weights(str(conversion.target))
    computed = {name for name in source if name.endswith("relative_position_index")}
    extra = contents["model"].keys() - source.keys()
    assert source.keys() - contents["model"].keys() == computed
    # FrozenBN has no count of batches, transformers' batch normalisation has one.
    assert all(name.endswith(".num_batches_tracked") and contents["model"][name] == 0 for name in extra)
    assert bool(extra) == (options in (MASK2FORMER, CAFFE_R50))
    for name in source.keys() - computed:
        turned = name == "backbone.stem.conv1.weight" and options["INPUT.FORMAT"] == "BGR"
        assert torch.equal(contents["model"][name], source[name].flip(1) if turned else source[name]), name
    assert contents.get("stride_in_1x1") == (True if options is CAFFE_R50 else None)
    # The configuration of the folder's model is the one that takes RGB.
    rgb = {**options, "INPUT.FORMAT": "RGB", "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
           "MODEL.PIXEL_STD": options["MODEL.PIXEL_STD"][::-1] if options is CAFFE_R50 else options["MODEL.PIXEL_STD"]}
    for in_1x1 in (True, False):
        options = {**rgb, "MODEL.RESNETS.STRIDE_IN_1X1": in_1x1}
        checkpointer = StrictCheckpointer(small_model(options), whole_model=True,
                                          data_config=DataConfig.of(small_config(options)))
        checkpointer.load(str(conversion.target))
        assert ("set MODEL.RESNETS.STRIDE_IN_1X1 True" in caplog.text) == ("stride_in_1x1" in contents and not in_1x1)


def test_sizes_of_pictures(conversion):
    written(conversion, {**SWIN, "INPUT.MIN_SIZE_TEST": 512, "INPUT.MAX_SIZE_TEST": 2048})
    processor = json.loads((conversion.target / "preprocessor_config.json").read_text())
    assert processor["size"] == {"shortest_edge": 512, "longest_edge": 2048} and processor["size_divisor"] == 32
    assert processor["do_resize"] and processor["num_labels"] == 3 and processor["ignore_index"] == 255
    conversion.target = conversion.folder / "converted as they are"
    _, report = written(conversion, {**SWIN, "INPUT.MIN_SIZE_TEST": 0})
    processor = json.loads((conversion.target / "preprocessor_config.json").read_text())
    assert "size" not in processor and not processor["do_resize"]
    assert "INPUT.MIN_SIZE_TEST is 0: the image processor leaves pictures as they are" in report


def test_names_of_classes(conversion):
    def labels(**remarks):
        conversion.target = conversion.folder / f"converted {len(list(conversion.folder.iterdir()))}"
        _, report = written(conversion, options, **remarks)
        config = json.loads((conversion.target / "config.json").read_text())
        assert config["label2id"] == {name: int(index) for index, name in config["id2label"].items()}
        return list(config["id2label"].values()), "LABEL_0" in report

    options = SWIN
    assert labels() == (["LABEL_0", "LABEL_1", "LABEL_2"], True)
    assert read_weights(str(conversion.target))["class_names"] is None
    tables = {"thing_classes": ["cat"], "stuff_classes": ["cat", "sky", "sea"]}     # the model tells three apart
    assert labels(classes=tables) == (["cat", "sky", "sea"], False)
    assert read_weights(str(conversion.target))["class_names"] == ["cat", "sky", "sea"]
    MetadataCatalog.get("three_things").set(thing_classes=["a", "b", "c"])
    options = {**SWIN, "DATASETS.TEST": ("three_things",)}
    assert labels() == (["a", "b", "c"], False)
    assert labels(classes=tables) == (["cat", "sky", "sea"], False)


def test_half_precision_is_written_in_full(conversion):
    model = randomised(small_model(SWIN)).half()
    status, _, error = conversion.run({"model": model.state_dict()}, SWIN, "--to", "huggingface")
    assert status == 0, error
    entries = load_file(conversion.target / "model.safetensors")
    assert {tensor.dtype for tensor in entries.values()} == {torch.float32}
    assert torch.equal(entries["class_predictor.weight"], model.sem_seg_head.predictor.class_embed.weight.float())


def test_what_users_should_know_is_said(conversion):
    MetadataCatalog.get("two_things").set(thing_dataset_id_to_contiguous_id={7: 0, 8: 1})
    _, report = written(conversion, {**SWIN, "MODEL.MASK_FORMER.DROPOUT": 0.1, "DATASETS.TRAIN": ("two_things",),
                                     "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD": 0.8,
                                     "MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD": 0.7})
    assert "MODEL.MASK_FORMER.DROPOUT is 0.1: in training transformers applies it to its transformer decoder" in report
    assert "threshold=0.8, overlap_mask_area_threshold=0.7, label_ids_to_fuse={2}" in report


# What has no place there

@pytest.mark.parametrize(("base", "option", "value", "expected"), [
    (SWIN, "MODEL.SEM_SEG_HEAD.FREQFUSION.ENABLED", True, "has no FreqFusion, it takes False"),
    (SWIN, "MODEL.SEM_SEG_HEAD.FDAM.ENABLED", True, "has no FDAM in its encoder"),
    (SWIN, "MODEL.BACKBONE.FDCONV.ENABLED", True, "has no FDConv"),
    (SWIN, "MODEL.BACKBONE.FDAM.ENABLED", True, "has no FDAM in its backbones"),
    (SWIN, "MODEL.BACKBONE.NAME", "build_timm_backbone", "has no names here for another backbone, it takes 'build_"),
    (SWIN, "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "FreqAwareMSDeformAttnPixelDecoder2", "has no other pixel decoder"),
    (SWIN, "MODEL.SEM_SEG_HEAD.NORM", "SyncBN", "has no other normalisation in its pixel decoder"),
    (SWIN, "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES", ["res2", "res3", "res4", "res5"],
     "encodes the 3 coarsest maps of IN_FEATURES, ['res3', 'res4', 'res5']"),
    (SWIN, "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES", ["res4", "res5"], "the 3 coarsest maps"),
    (SWIN, "MODEL.SWIN.APE", True, "has no position embedding"),
    (SWIN, "MODEL.SWIN.PATCH_NORM", False, "has no patch embedding without"),
    (SWIN, "MODEL.SWIN.QK_SCALE", 0.5, "has no other scale of attention"),
    (SWIN, "TEST.AUG.ENABLED", True, "has no augmentation"),
    (MASK2FORMER, "MODEL.RESNETS.NORM", "GN", "has no other normalisation in its ResNet"),
    (CAFFE_R50, "MODEL.RESNETS.RES5_DILATION", 2, "has no dilated convolutions"),
    (CAFFE_R50, "MODEL.RESNETS.NUM_GROUPS", 4, "has no grouped convolutions"),
    (CAFFE_R50, "MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, False, False, True], "has no deformable convolutions"),
    (CAFFE_R50, "MODEL.RESNETS.WIDTH_PER_GROUP", 16, "have a quarter of their output's channels"),
])
def test_what_has_no_place_is_named(base, option, value, expected):
    assert without_place(small_config(base)) == []
    problems = without_place(small_config({**base, option: value}))
    assert len(problems) == 1 and problems[0].startswith(option) and expected in problems[0]


def test_other_models_and_sliding_windows_have_no_place():
    semantic = {"MODEL.MASK_FORMER.TEST.INSTANCE_ON": False, "MODEL.MASK_FORMER.TEST.PANOPTIC_ON": False}
    window = {"TEST.SLIDING_WINDOW.ENABLED": True, "TEST.SLIDING_WINDOW.SIZE": 64, "TEST.SLIDING_WINDOW.STRIDE": 32}
    problems = without_place(small_config({**SWIN, **semantic, **window}))
    assert len(problems) == 1 and "TEST.SLIDING_WINDOW.ENABLED is True: transformers' Mask2Former has no" in problems[0]
    problems = without_place(small_config({**SWIN, "MODEL.META_ARCHITECTURE": "MaskDINO",
                                           "MODEL.SEM_SEG_HEAD.NAME": "MaskDINOHead"}))
    assert len(problems) == 1 and problems[0].startswith("MODEL.META_ARCHITECTURE is 'MaskDINO': transformers'")


def test_refusals_write_nothing(conversion):
    state = randomised(small_model(SWIN)).state_dict()
    to = ("--to", "huggingface")
    message = conversion.refuse(state, {**SWIN, "MODEL.SEM_SEG_HEAD.FREQFUSION.ENABLED": True}, *to)
    assert "transformers has no place for this model:\n  MODEL.SEM_SEG_HEAD.FREQFUSION.ENABLED is True" in message
    backbone = {name: tensor for name, tensor in state.items() if name.startswith("backbone.")}
    assert "the file fills the backbone alone" in conversion.refuse(backbone, SWIN, *to)
    message = conversion.refuse(state, {**SWIN, "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 4}, *to)
    assert "class_embed.weight has shape (5, 64)" in message and "--partial" not in message
    (conversion.folder / "converted.unfinished").mkdir()
    status, _, error = conversion.run(state, SWIN, *to)
    assert status == 1 and "converted.unfinished is in the way" in error and not conversion.target.exists()
    (conversion.folder / "converted.unfinished").rmdir()
    status, report, _ = conversion.run(state, SWIN, *to, "--dry-run")
    assert status == 0 and "dry run" in report and not conversion.target.exists()


def test_a_folder_of_which_a_file_fails_is_not_there(tmp_path):
    with pytest.raises(OSError, match="disk full"), folder_written_whole(str(tmp_path / "folder")) as unfinished:
        Path(unfinished, "first").write_bytes(b"first")
        raise OSError("disk full")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_in_use(conversion):
    state = randomised(small_model(SWIN)).state_dict()
    conversion.target.mkdir()
    (conversion.target / "notes.txt").write_text("mine")
    status, _, error = conversion.run(state, SWIN, "--to", "huggingface")
    assert status == 1 and f"{conversion.target}: is there already" in error
    assert [path.name for path in conversion.target.iterdir()] == ["notes.txt"]
    (conversion.target / "notes.txt").unlink()
    assert conversion.run(state, SWIN, "--to", "huggingface")[0] == 0      # an empty folder is as good as none
    assert sorted(path.name for path in conversion.target.iterdir()) == [
        "config.json", "model.safetensors", "preprocessor_config.json"]


def test_weights_for_other_pictures_or_strides(conversion):
    written(conversion, {**MASK2FORMER, "MODEL.RESNETS.DEPTH": 50, "MODEL.RESNETS.RES2_OUT_CHANNELS": 256})
    folder, again = str(conversion.target), str(conversion.folder / "again")
    for option, value, expected in (("INPUT.FORMAT", "BGR", "Set INPUT.FORMAT RGB (here BGR)"),
                                    ("MODEL.RESNETS.STRIDE_IN_1X1", True, "need MODEL.RESNETS.STRIDE_IN_1X1 False")):
        options = {**MASK2FORMER, "MODEL.RESNETS.DEPTH": 50, "MODEL.RESNETS.RES2_OUT_CHANNELS": 256, option: value}
        assert convert_weights.main([folder, again, "--to", "huggingface", "--config-file",
                                     str(conversion.folder / "empty.yaml"), *words(options)]) == 1
        assert expected in conversion.capsys.readouterr().err


@pytest.mark.parametrize(("target", "flags", "expected"), [
    ("model.pth", (), "writes a whole model to a folder: TARGET is model.pth"),
    ("folder", ("--partial",), "--partial has no meaning there"),
])
def test_arguments_that_do_not_go_together(capsys, target, flags, expected):
    with pytest.raises(SystemExit):
        convert_weights.parse_arguments(["a.pth", target, "--to", "huggingface", "--config-file", "a.yaml", *flags])
    assert expected in capsys.readouterr().err

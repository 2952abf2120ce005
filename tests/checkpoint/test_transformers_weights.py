"""transformers' Mask2Former here: its own model of the pip package gives the same outputs, from a folder and a hub."""
import json

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from freqdino.checkpoint import DataConfig, StrictCheckpointer, read_weights
from freqdino.checkpoint.names.transformers_mask2former import with_mask2former_names
from freqdino.errors import CheckpointError
from helpers.golden import assert_agrees
from helpers.small_models import small_config, small_model

CLASSES = {0: "cat", 1: "dog", 2: "cow"}
SWIN = {"MODEL.BACKBONE.NAME": "D2SwinTransformer", "MODEL.SWIN.EMBED_DIM": 32, "MODEL.SWIN.DEPTHS": [2, 2, 2, 1],
        "MODEL.SWIN.NUM_HEADS": [1, 2, 4, 8], "MODEL.SWIN.WINDOW_SIZE": 4}
RESNET = {"MODEL.BACKBONE.NAME": "build_resnet_backbone", "MODEL.BACKBONE.FREEZE_AT": 0, "MODEL.RESNETS.DEPTH": 50,
          "MODEL.RESNETS.STRIDE_IN_1X1": False, "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"]}
SHARED = {"MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": 2, "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
          "MODEL.PIXEL_STD": [58.395, 57.12, 57.375], "INPUT.FORMAT": "RGB"}
STAGES = ["stage1", "stage2", "stage3", "stage4"]


def their_model(backbone):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    if backbone == "swin":
        config = transformers.SwinConfig(embed_dim=32, depths=[2, 2, 2, 1], num_heads=[1, 2, 4, 8], window_size=4,
                                         out_features=STAGES)
    else:
        config = transformers.ResNetConfig(depths=[3, 4, 6, 3], out_features=STAGES)
    torch.manual_seed(3)
    model = transformers.Mask2FormerForUniversalSegmentation(transformers.Mask2FormerConfig(
        backbone_config=config, feature_size=64, mask_feature_size=16, hidden_dim=64, encoder_feedforward_dim=1024,
        encoder_layers=2, decoder_layers=4, num_attention_heads=4, dim_feedforward=64, num_queries=6, id2label=CLASSES))
    with torch.no_grad():                           # all its parameters count: none is 0 or 1 by its initialisation
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return model.eval()


@pytest.fixture(scope="module", params=["swin", "resnet"])
def saved(request, tmp_path_factory):
    """(their model, the folder that it is saved in, the options of the same model here)."""
    folder = tmp_path_factory.mktemp(request.param)
    model = their_model(request.param)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({
        "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "rescale_factor": 1 / 255}))
    return model, folder, {**SHARED, **(SWIN if request.param == "swin" else RESNET)}


def our_model(name, options):
    model = small_model(options).eval()
    StrictCheckpointer(model, whole_model=True, data_config=DataConfig.of(small_config(options))).load(str(name))
    return model


@torch.no_grad()
def test_all_outputs_agree(saved):
    theirs, folder, options = saved
    ours = our_model(folder, options)
    image = torch.rand(1, 3, 96, 64) * 255
    normed = (image - ours.pixel_mean) / ours.pixel_std
    expected = theirs(pixel_values=normed, output_auxiliary_logits=True, output_hidden_states=True)
    outputs = ours.sem_seg_head(ours.backbone(normed)).as_dict()
    assert_agrees(outputs["pred_logits"], expected.class_queries_logits, "classes")
    assert_agrees(outputs["pred_masks"], expected.masks_queries_logits, "masks")
    assert len(outputs["aux_outputs"]) == len(expected.auxiliary_logits) == 3
    for layer, (mine, other) in enumerate(zip(outputs["aux_outputs"], expected.auxiliary_logits)):
        assert_agrees(mine["pred_logits"], other["class_queries_logits"], f"classes of layer {layer}")
        assert_agrees(mine["pred_masks"], other["masks_queries_logits"], f"masks of layer {layer}")


def test_from_the_hub(saved, hub, monkeypatch):
    _, folder, options = saved
    hub("owner/small", {path.name: path.read_bytes() for path in folder.iterdir()})
    contents = read_weights("hf://owner/small")
    assert contents["class_names"] == ["cat", "dog", "cow"]
    assert contents["data_config"].options()["MODEL.PIXEL_MEAN"] == [123.675, 116.28, 103.53]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)      # by now it is in the cache
    here, there = our_model("hf://owner/small", options).state_dict(), our_model(folder, options).state_dict()
    assert all(torch.equal(here[name], there[name]) for name in here)


def test_a_file_in_parts(saved, tmp_path):
    _, folder, options = saved
    state = load_file(folder / "model.safetensors")
    names = sorted(state)
    parts = {"model-00001-of-00002.safetensors": names[:100], "model-00002-of-00002.safetensors": names[100:]}
    for file, inside in parts.items():
        save_file({name: state[name] for name in inside}, tmp_path / file)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(
        {"weight_map": {name: file for file, inside in parts.items() for name in inside}}))
    here, there = our_model(tmp_path, options).state_dict(), our_model(folder, options).state_dict()
    assert all(torch.equal(here[name], there[name]) for name in here)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="has no model-00002-of-00002.safetensors"):
        read_weights(str(tmp_path))


def test_images_that_are_given_otherwise(saved):
    _, folder, options = saved
    with pytest.raises(CheckpointError, match=r"Set INPUT.FORMAT RGB \(here BGR\)"):
        our_model(folder, {**options, "INPUT.FORMAT": "BGR"})


def test_bottlenecks_with_their_stride_elsewhere_are_said(saved, caplog):
    _, folder, options = saved
    our_model(folder, options)
    assert "STRIDE_IN_1X1" not in caplog.text
    our_model(folder, {**options, "MODEL.RESNETS.STRIDE_IN_1X1": True})
    assert ("The weights of transformers are for bottlenecks" in caplog.text) == ("MODEL.RESNETS.DEPTH" in options)


def test_rows_of_classes_by_the_names_in_config_json(saved):
    _, folder, options = saved
    model = small_model({**options, "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 2})
    StrictCheckpointer(model, remarks={"classes": {"thing_classes": ["cow", "hen"]}}).load(str(folder))
    theirs = load_file(folder / "model.safetensors")["class_predictor.bias"]
    bias = model.state_dict()["sem_seg_head.predictor.class_embed.bias"]
    assert torch.equal(bias[[0, 2]], theirs[[2, 3]]) and bias[1] != theirs[1]


def folder_of(path, config, **files):
    (path / "config.json").write_text(config)
    for name, contents in files.items():
        save_file(contents, path / f"{name}.safetensors")
    return str(path)


def test_folders_of_other_models(tmp_path):
    weights = {"model": {"a": torch.ones(1)}}
    with pytest.raises(CheckpointError, match="holds transformers' model detr; of its models Mask2Former's load"):
        read_weights(folder_of(tmp_path, '{"model_type": "detr"}', **weights))
    with pytest.raises(CheckpointError, match="config.json is no JSON"):
        read_weights(folder_of(tmp_path, "{", **weights))


def test_a_hub_without_the_model_names_the_nearest(web, hub):
    hub("facebook/mask2former-swin-tiny-coco-instance", {})
    web.pages["/facebook/mask2former-swin-tiny-coco/resolve/main/config.json"] = (
        404, {"X-Error-Code": "RepoNotFound"}, b"")
    web.pages["/api/models?search=mask2former&limit=200"] = json.dumps(
        [{"id": "facebook/mask2former-swin-tiny-coco-instance"}, {"id": "else/detr"}]).encode()
    with pytest.raises(CheckpointError) as caught:
        read_weights("hf://facebook/mask2former-swin-tiny-coco")
    assert str(caught.value).endswith("; the nearest are facebook/mask2former-swin-tiny-coco-instance")


def test_without_a_network(no_network):
    with pytest.raises(CheckpointError) as caught:
        read_weights("hf://facebook/mask2former-swin-tiny-coco-instance")
    assert ("fetch config.json, preprocessor_config.json and model.safetensors of https://huggingface.co/facebook/mask2f"
            "ormer-swin-tiny-coco-instance into one folder elsewhere and set MODEL.WEIGHTS to that folder"
            ) in str(caught.value)


def test_projections_are_joined_in_the_order_of_queries_keys_and_values():
    block = "model.pixel_level_module.encoder.encoder.layers.1.blocks.0.attention.self."
    parts = {f"{block}{name}.bias": torch.tensor([float(value)]) for name, value in
             (("value", 3), ("query", 1), ("key", 2))}
    joined = with_mask2former_names(parts)
    assert {name: value.tolist() for name, value in joined.items()} == {
        "backbone.layers.1.blocks.0.attn.qkv.bias": [1, 2, 3]}
    del parts[f"{block}key.bias"]
    with pytest.raises(CheckpointError, match=r"has no model\..*\.key\.bias, a part of backbone\.layers\.1\."):
        with_mask2former_names(parts)

"""Loading of checkpoints: both published key styles, backbone weights, resuming, and what every misfit says."""
import collections
import pickle

import numpy as np
import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from safetensors.torch import save_file
from torch import nn

from freqdino.checkpoint import StrictCheckpointer
from freqdino.checkpoint.names.mask2former import upgrade_keys
from freqdino.config import load_config
from freqdino.engine.predictor import load_trained_model
from freqdino.errors import CheckpointError, ConfigError
from helpers.caffe2 import caffe2_blobs


class Backbone(nn.Module):
    """Names as in a ResNet (stem) and a Swin transformer (norm1 is an output's normalisation)."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(collections.OrderedDict(conv1=nn.Conv2d(3, 2, 1), norm=nn.BatchNorm2d(2)))
        self.norm1 = nn.LayerNorm(2)


class Head(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.pixel_decoder = nn.ModuleDict({"mask_features": nn.Conv2d(2, 2, 1), "layer_1": nn.Conv2d(2, 2, 1)})
        self.predictor = nn.ModuleDict({"query_feat": nn.Embedding(3, 2), "class_embed": nn.Linear(2, classes + 1)})
        self.predictor["tied"] = self.predictor["class_embed"]


@META_ARCH_REGISTRY.register()
class CheckpointTestModel(nn.Module):
    def __init__(self, cfg=None, classes=4):
        super().__init__()
        self.backbone = Backbone()
        self.sem_seg_head = Head(classes)


def filled(value, **kwargs):
    model = CheckpointTestModel(**kwargs)
    for tensor in model.state_dict().values():
        tensor.fill_(value)
    return model


def load(path, model=None, **kwargs):
    model = filled(0) if model is None else model
    StrictCheckpointer(model, **kwargs).load(str(path))
    return model


def assert_filled(model, value, but=()):
    for name, tensor in model.state_dict().items():
        expected = 0 if name.startswith(tuple(but)) and but else value
        assert (tensor == expected).all(), name


STEM = ("stem.conv1.weight", "stem.conv1.bias", "stem.norm.weight", "stem.norm.bias", "stem.norm.running_mean",
        "stem.norm.running_var")


def stem_tensors(prefix=""):
    state = filled(7).state_dict()
    return {prefix + name: state["backbone." + name] for name in STEM}


def test_upgrade_keys_of_the_first_style():
    model_keys = ["backbone.stem.weight", "sem_seg_head.pixel_decoder.input_proj.0.weight",
                  "sem_seg_head.predictor.query_feat.weight"]
    first = {"backbone.stem.weight": 0, "sem_seg_head.input_proj.0.weight": 1,
             "sem_seg_head.predictor.static_query.weight": 2}
    assert upgrade_keys(first, model_keys) == dict(zip(model_keys, range(3)))
    second = dict(zip(model_keys, range(3)))
    assert upgrade_keys(second, model_keys) == second
    assert upgrade_keys({f"module.{key}": value for key, value in first.items()}, model_keys) == second


def test_upgrade_keys_leaves_other_heads_alone():
    keys = {"sem_seg_head.p2.0.weight": 0, "sem_seg_head.predictor.weight": 1}
    assert upgrade_keys(keys, ["sem_seg_head.p2.0.weight", "sem_seg_head.predictor.weight"]) == keys


def test_upgrade_keys_refuses_two_names_for_one():
    with pytest.raises(CheckpointError, match="two entries .* mean sem_seg_head.pixel_decoder.a"):
        upgrade_keys({"sem_seg_head.a": 0, "sem_seg_head.pixel_decoder.a": 1}, ["sem_seg_head.pixel_decoder.a"])


def first_style(state):
    return {name.replace("pixel_decoder.", "").replace("query_feat", "static_query"): tensor
            for name, tensor in state.items()}


@pytest.mark.parametrize("style", [dict, first_style])
@pytest.mark.parametrize("suffix", ["pth", "pkl", "safetensors"])
def test_both_key_styles_load_from_every_format(tmp_path, style, suffix):
    state, path = style(filled(7).state_dict()), tmp_path / f"model.{suffix}"
    if suffix == "pth":
        torch.save({"model": state}, path)
    elif suffix == "pkl":
        arrays = {name: tensor.numpy() for name, tensor in state.items()}
        path.write_bytes(pickle.dumps({"model": arrays, "__author__": "third_party", "matching_heuristics": True}))
    else:
        save_file({name: tensor.clone() for name, tensor in state.items()}, path)
    assert_filled(load(path, whole_model=True), 7)


def test_state_dict_with_metadata_and_bare_state_dict(tmp_path):
    torch.save(filled(7).state_dict(), tmp_path / "bare.pth")
    assert_filled(load(tmp_path / "bare.pth"), 7)
    torch.save({"state_dict": filled(6).state_dict(), "epoch": 3}, tmp_path / "timm.pth")
    assert_filled(load(tmp_path / "timm.pth"), 6)


def test_one_name_of_a_shared_parameter_is_enough(tmp_path):
    state = {name: tensor for name, tensor in filled(7).state_dict().items() if ".tied." not in name}
    save_file(state, tmp_path / "model.safetensors")
    assert_filled(load(tmp_path / "model.safetensors", whole_model=True), 7)


def test_tensors_in_a_plain_pickle(tmp_path):
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"model": filled(7).state_dict()}))
    assert_filled(load(tmp_path / "model.pkl"), 7)


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_backbone_weights_fill_the_backbone(tmp_path, prefix, caplog):
    extra = {prefix + name: torch.zeros(1) for name in ("fc.weight", "head.bias", "norm.weight", "stem.fc.weight")}
    torch.save({"model": {**stem_tensors(prefix), **extra}}, tmp_path / "imagenet.pth")
    with caplog.at_level("INFO"):
        model = load(tmp_path / "imagenet.pth")
    assert_filled(model, 7, but=("sem_seg_head", "backbone.norm1", "backbone.stem.norm.num_batches_tracked"))
    [left] = [record.getMessage() for record in caplog.records if "Left out" in record.getMessage()]
    for name in ("fc.weight", "head.bias", "backbone.norm1.weight", "num_batches_tracked"):
        assert name in left


class ResNetModel(nn.Module):
    def __init__(self):
        super().__init__()
        cfg = load_config(opts=["MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.DEPTH", "18",
                                "MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "MODEL.RESNETS.OUT_FEATURES", "['res2']"])
        self.backbone = build_backbone(cfg)


@pytest.mark.parametrize("origin", ["torchvision", "Caffe2"])
def test_resnets_of_the_model_zoo_fill_the_backbone(tmp_path, origin):
    source, model = ResNetModel(), ResNetModel()
    state = source.backbone.state_dict()
    if origin == "torchvision":
        arrays = {name: tensor.numpy() for name, tensor in state.items()}
        arrays["stem.fc.weight"] = np.zeros((10, 512))
        contents = {"model": arrays, "__author__": origin, "matching_heuristics": True}
    else:
        contents = {**caffe2_blobs(state), "fc1000_w": np.zeros((10, 512)), "fc1000_b": np.zeros(10)}
    (tmp_path / "R-18.pkl").write_bytes(pickle.dumps(contents))
    load(tmp_path / "R-18.pkl", model)
    for name, tensor in model.backbone.state_dict().items():
        torch.testing.assert_close(tensor, state[name], atol=2e-5, rtol=0)      # FrozenBatchNorm's variance 1 - 1e-5


def test_incomplete_backbone_is_an_error(tmp_path):
    tensors = stem_tensors()
    del tensors["stem.conv1.bias"]
    torch.save(tensors, tmp_path / "half.pth")
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path / "half.pth")
    heading, problem, remedy = str(caught.value).splitlines()
    assert heading.endswith("half.pth does not fit the backbone of CheckpointTestModel:")
    assert problem == "  1 missing from the checkpoint: backbone.stem.conv1.bias"
    assert remedy.endswith("MODEL.WEIGHTS_PARTIAL True.")


def test_deeper_backbone_is_an_error(tmp_path):
    torch.save({**stem_tensors(), "res4.6.conv1.weight": torch.zeros(1)}, tmp_path / "deep.pth")
    with pytest.raises(CheckpointError, match="1 not in the model: backbone.res4.6.conv1.weight"):
        load(tmp_path / "deep.pth")


def test_backbone_alone_is_not_a_trained_model(tmp_path):
    torch.save(stem_tensors("backbone."), tmp_path / "imagenet.pth")
    message = "does not fit CheckpointTestModel:\n.*missing.*sem_seg_head.*\n.*trained with"
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / "imagenet.pth", whole_model=True)


def misfit(tmp_path):
    state = filled(7, classes=80).state_dict()
    del state["backbone.stem.conv1.weight"]
    torch.save({"model": {**state, "criterion.extra": torch.zeros(1)}}, tmp_path / "misfit.pth")
    return tmp_path / "misfit.pth"


def test_every_kind_of_misfit_is_listed_and_nothing_is_loaded(tmp_path):
    model = filled(0)
    with pytest.raises(CheckpointError) as caught:
        load(misfit(tmp_path), model)
    message = str(caught.value)
    assert "1 missing from the checkpoint: backbone.stem.conv1.weight\n" in message
    assert "1 not in the model: criterion.extra\n" in message
    assert "sem_seg_head.predictor.class_embed.bias (checkpoint (81,), model (5,))" in message
    assert message.endswith("MODEL.WEIGHTS_PARTIAL True.")
    assert_filled(model, 0)


def test_long_lists_are_cut(tmp_path):
    extra = {f"head.{i:02}.x": torch.zeros(1) for i in range(30)}
    torch.save({"model": {**filled(7).state_dict(), **extra}}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"30 not in the model: head.00.x, .*head.09.x, \.\.\.\n"):
        load(tmp_path / "x.pth")


def test_partial_loads_what_fits_and_says_what_does_not(tmp_path, caplog):
    model = load(misfit(tmp_path), partial=True)
    assert_filled(model, 7, but=("backbone.stem.conv1.weight", "sem_seg_head.predictor.class_embed",
                                 "sem_seg_head.predictor.tied"))
    [warning] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "criterion.extra" in warning and "(checkpoint (81,), model (5,))" in warning
    with pytest.raises(CheckpointError, match="does not fit"):
        load(misfit(tmp_path), partial=True, whole_model=True)


def test_partial_with_nothing_in_common(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="other.pth: nothing in it fits CheckpointTestModel"):
        load(tmp_path / "other.pth", partial=True)


def test_no_weights_leave_the_model_alone():
    assert StrictCheckpointer(filled(3)).load("") == {}


def run_checkpointer(folder, model=None):
    model = filled(0) if model is None else model
    return StrictCheckpointer(model, str(folder), optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))


def test_resuming_restores_model_and_optimizer(tmp_path):
    saved = run_checkpointer(tmp_path, filled(7))
    saved.checkpointables["optimizer"].param_groups[0]["lr"] = 0.25
    saved.save("model_0000009", iteration=9)
    resumed = run_checkpointer(tmp_path)
    rest = resumed.resume_or_load("", resume=True)
    assert rest["iteration"] == 9
    assert_filled(resumed.model, 7)
    assert resumed.checkpointables["optimizer"].param_groups[0]["lr"] == 0.25


def test_without_resume_only_the_weights_are_taken(tmp_path):
    run_checkpointer(tmp_path, filled(7)).save("model_0000009")
    fresh = run_checkpointer(tmp_path / "new")
    fresh.resume_or_load(str(tmp_path / "model_0000009.pth"), resume=True)
    assert_filled(fresh.model, 7)
    assert fresh.checkpointables["optimizer"].param_groups[0]["lr"] == 0.1


def test_resuming_from_what_is_gone_truncated_or_of_another_kind(tmp_path):
    run_checkpointer(tmp_path, filled(7)).save("model_0000009")
    path = tmp_path / "model_0000009.pth"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="model_0000009.pth: cannot be read .*last_checkpoint names this file"):
        run_checkpointer(tmp_path).resume_or_load("", resume=True)
    path.unlink()
    with pytest.raises(CheckpointError, match="model_0000009.pth: no such .*last_checkpoint names this file"):
        run_checkpointer(tmp_path).resume_or_load("", resume=True)
    torch.save({"model": filled(7).state_dict()}, path)
    with pytest.raises(CheckpointError, match="holds no state of the optimizer"):
        run_checkpointer(tmp_path).resume_or_load("", resume=True)


def test_resuming_with_another_optimizer(tmp_path):
    run_checkpointer(tmp_path, filled(7)).save("model_0000009")
    model = filled(0)
    other = StrictCheckpointer(model, str(tmp_path), optimizer=torch.optim.SGD(list(model.parameters())[:2], lr=0.1))
    with pytest.raises(CheckpointError, match="its state of the optimizer does not fit this configuration"):
        other.resume_or_load("", resume=True)


def test_load_trained_model(tmp_path):
    torch.save({"model": filled(7).state_dict()}, tmp_path / "model.pth")
    opts = ["MODEL.META_ARCHITECTURE", "CheckpointTestModel", "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS"]
    model = load_trained_model(load_config(opts=[*opts, str(tmp_path / "model.pth")]))
    assert not model.training
    assert_filled(model, 7)
    with pytest.raises(ConfigError, match="MODEL.WEIGHTS is empty"):
        load_trained_model(load_config(opts=[*opts, ""]))

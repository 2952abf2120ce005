"""Names of weights: the hubs' own loading against a server of this machine, run folders, and what wrong names say."""
import hashlib
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_backbone
from safetensors.torch import save
from torch import nn
from torchvision.models import ResNet18_Weights, resnet18

from freqdino.checkpoint import DataConfig, StrictCheckpointer, read_weights, starting_weights
from freqdino.checkpoint.download import cache_path
from freqdino.checkpoint.files import local_path
from freqdino.checkpoint.sources import address_of, known_data_config, known_dataset, model_zoo, published
from freqdino.config import load_config
from freqdino.errors import CheckpointError
from helpers.paths import CONFIGS

NETWORK = "test_convnext.r160_in1k"     # 272,128 parameters; images of mean 0.5 and standard deviation 0.5
HALF = ["MODEL.PIXEL_MEAN", "[127.5, 127.5, 127.5]", "MODEL.PIXEL_STD", "[127.5, 127.5, 127.5]", "INPUT.FORMAT", "RGB"]
IMAGENET = ["MODEL.PIXEL_MEAN", "[123.675, 116.28, 103.53]", "MODEL.PIXEL_STD", "[58.395, 57.12, 57.375]",
            "INPUT.FORMAT", "RGB"]
TIMM = ["MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.TIMM.NAME", NETWORK.partition(".")[0],
        "MODEL.TIMM.PRETRAINED", "True"]
RESNET = ["MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.DEPTH", "18",
          "MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "MODEL.RESNETS.OUT_FEATURES", "['res2', 'res5']"]


class Model(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.backbone = build_backbone(cfg)


def model_from(options, weights=None):
    cfg = load_config(opts=options)
    model = Model(cfg)
    StrictCheckpointer(model, data_config=DataConfig.of(cfg)).load(weights or starting_weights(cfg))
    return model


@pytest.fixture
def published_network(hub):
    network = timm.create_model(NETWORK)
    hub(f"timm/{NETWORK}", {"model.safetensors": save(network.state_dict())})
    return network


def refusal(name):
    with pytest.raises(CheckpointError) as caught:
        read_weights(name)
    return str(caught.value)


def test_timm_by_key_and_by_name(published_network, web):
    by_key = model_from([*TIMM, *HALF]).backbone.state_dict()
    by_name = model_from([*TIMM[:-2], *HALF], f"timm://{NETWORK}").backbone.state_dict()
    assert by_key.keys() == by_name.keys() and len(by_key) > 20
    for name, tensor in published_network.state_dict().items():
        if name in by_key:
            assert torch.equal(by_key[name], tensor) and torch.equal(by_name[name], tensor)
    assert sum(request.startswith("GET /timm/") for request in web.asked) == 1      # then it is in the cache


def test_images_that_timms_weights_do_not_fit(published_network):
    with pytest.raises(CheckpointError) as caught:
        model_from([*TIMM, *IMAGENET[:4], "INPUT.FORMAT", "BGR"])
    message = str(caught.value)
    assert message.startswith("timm://test_convnext: the weights were trained on images that are given otherwise")
    assert message.endswith('MODEL.PIXEL_MEAN "[127.5, 127.5, 127.5]" MODEL.PIXEL_STD "[127.5, 127.5, 127.5]" '
                            "INPUT.FORMAT RGB")


def test_timm_without_a_network(no_network):
    message = refusal(f"timm://{NETWORK}")
    assert f"fetch model.safetensors of https://huggingface.co/timm/{NETWORK} elsewhere and set" in message


def test_the_weights_that_a_configuration_starts_from(caplog):
    assert starting_weights(load_config(opts=TIMM)) == "timm://test_convnext"
    assert starting_weights(load_config(opts=[*TIMM, "MODEL.WEIGHTS", "a.pth"])) == "a.pth"
    assert "MODEL.TIMM.PRETRAINED is not used: MODEL.WEIGHTS is a.pth" in caplog.text
    assert starting_weights(load_config(opts=["MODEL.TIMM.PRETRAINED", "True"])) == ""


@pytest.fixture
def published_resnet(web, tmp_path, monkeypatch):
    network = resnet18()
    torch.save(network.state_dict(), tmp_path / "resnet18.pth")
    contents = (tmp_path / "resnet18.pth").read_bytes()
    name = f"/resnet18-{hashlib.sha256(contents).hexdigest()[:8]}.pth"
    monkeypatch.setattr(ResNet18_Weights.IMAGENET1K_V1.value, "url", web.address + name)
    web.pages[name] = contents
    return network


def test_torchvision_by_name(published_resnet):
    backbone = model_from([*RESNET, *IMAGENET], "torchvision://ResNet18_Weights.IMAGENET1K_V1").backbone
    assert torch.equal(backbone.stem.conv1.weight, published_resnet.conv1.weight)
    assert torch.equal(backbone.res2[1].conv2.norm.bias, published_resnet.layer1[1].bn2.bias)


def test_timms_resnet_in_detectron2s(hub):
    network = timm.create_model("resnet18")
    hub("timm/resnet18.a1_in1k", {"model.safetensors": save(network.state_dict())})
    backbone = model_from([*RESNET, *IMAGENET], "timm://resnet18.a1_in1k").backbone
    assert torch.equal(backbone.res5[0].shortcut.norm.running_var, network.layer4[0].downsample[1].running_var)


def test_a_network_of_another_kind_says_how_names_are_converted(published_network):
    with pytest.raises(CheckpointError, match=f"convert_weights.py timm://{NETWORK} NEW.pth --config-file FILE"):
        model_from([*RESNET, *HALF], f"timm://{NETWORK}")


def test_torchvision_in_another_channel_order(published_resnet):
    with pytest.raises(CheckpointError, match=r"Set INPUT.FORMAT RGB \(here BGR\): INPUT.FORMAT RGB$"):
        model_from([*RESNET, *IMAGENET[:4], "INPUT.FORMAT", "BGR"], "torchvision://ResNet18_Weights.IMAGENET1K_V1")


def test_torchvisions_file_that_was_changed(published_resnet, web):
    [name] = web.pages
    web.pages[name] += b"more"
    assert "its SHA-256 begins with" in refusal("torchvision://ResNet18_Weights.IMAGENET1K_V1")


@pytest.mark.parametrize("name, sentence", [
    ("timm://convnext_tinny.fb_in1k", "timm 1.*has no pretrained weights of .*; the nearest are .*convnext_tiny"),
    ("torchvision://ResNet50_Weights.IMAGENET1K_V3", "; the nearest are .*ResNet50_Weights.IMAGENET1K_V[12]"),
    ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_9x.yaml", "no such weights; the nearest are .*R_50_FPN_[13]x.yaml"),
    ("swin_tiny_patch4_window7", "no such file, and no published .*; the nearest are swin_tiny_patch4_window7_224"),
    ("tim://resnet18", "no weights come by tim://; the nearest are timm://"),
    ("hf://mask2former", "expected hf://<owner>/<name>"),
    ("hf://timm/resnet18.a1_in1k", "timm's weights load as timm://resnet18.a1_in1k"),
    ("mask2former_r50_coco_instance", "the address of these weights is not known here. They are published by Mask2F"),
])
def test_names_that_nobody_has(name, sentence):
    assert re.search(sentence, refusal(name)), refusal(name)


def test_names_of_the_model_zoo():
    name = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x"
    assert address_of(f"{name}.yaml") == model_zoo()[name]
    assert address_of(f"{name}.yaml").startswith(f"https://dl.fbaipublicfiles.com/detectron2/{name}/137849600/model_fi")


def test_what_the_model_zoo_and_published_weights_say_of_their_classes():
    for name in model_zoo():
        assert known_dataset(f"{name}.yaml") in MetadataCatalog, name
        assert known_data_config(f"{name}.yaml").channels in ("BGR", "RGB"), name
    assert known_dataset("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml") == "coco_2017_train"
    assert known_dataset("mask2former_r50_ade20k_semantic") == "ade20k_sem_seg_train"
    for name in published():
        assert known_dataset(name) is None or known_dataset(name) in MetadataCatalog, name


def test_weights_of_the_model_zoo_come_with_the_names_of_their_classes():
    name = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
    path = Path(cache_path(address_of(name)))
    path.parent.mkdir(parents=True)
    path.write_bytes(pickle.dumps({"model": {"a": np.ones(2)}}))
    contents = read_weights(name)
    assert contents["classes"]["thing_classes"][:2] == ["person", "bicycle"]
    assert contents["data_config"].channels == "BGR" and contents["data_config"].std == (1.0, 1.0, 1.0)


def test_a_file_comes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.ones(2)}, "resnet101")
    assert read_weights("resnet101")["model"]["a"].tolist() == [1, 1]


def test_published_weights_name_what_is_there():
    for name, entry in published().items():
        assert entry["url"] is None or entry["url"].startswith(("https://", "hf://")), name
        if "config" in entry:
            assert (CONFIGS / entry["config"]).is_file(), name


def test_how_known_weights_want_their_images():
    msra = known_data_config("detectron2://ImageNetPretrained/MSRA/R-50.pkl")
    assert msra == DataConfig((103.53, 116.28, 123.675), (1.0, 1.0, 1.0), "BGR")
    assert known_data_config("detectron2://ImageNetPretrained/torchvision/R-50.pkl").channels == "RGB"
    assert known_data_config("output/model_final.pth") is None


def test_every_configuration_gives_images_as_its_weights_want_them():
    checked = 0
    for path in sorted(CONFIGS.rglob("*.yaml")):
        cfg = load_config(str(path)) if "_base_" not in path.parts else None
        if cfg is not None and cfg.MODEL.WEIGHTS.startswith("detectron2://"):
            known_data_config(cfg.MODEL.WEIGHTS).check(path.name, DataConfig.of(cfg))
            checked += 1
    assert checked > 50


def test_the_folder_of_a_run(tmp_path):
    assert "holds no checkpoint (model_final_ema.pth, model_final.pth)" in refusal(str(tmp_path))
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    for name in ("model_0000009.pth", "model_final.pth", "model_final_ema.pth"):
        torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / name)
        assert local_path(str(tmp_path)) == str(tmp_path / name)

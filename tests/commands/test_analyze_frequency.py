"""tools/analyze_frequency.py from its command line: every subject on small models of random weights, and bad input."""
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from PIL import Image

from freqdino.commands import analyze_frequency
from helpers.small_conversions import SEGNEXT_FREQFUSION
from helpers.small_models import RESNET18, small_config

DATASET = "analyze_frequency_test"
VIT = {"MODEL.BACKBONE.NAME": "build_vit_backbone", "MODEL.VIT.IMG_SIZE": 64, "MODEL.VIT.EMBED_DIM": 32,
       "MODEL.VIT.DEPTH": 4, "MODEL.VIT.NUM_HEADS": 2, "MODEL.VIT.OUT_INDICES": [0, 1, 2, 3],
       "INPUT.MIN_SIZE_TEST": 64, "INPUT.MAX_SIZE_TEST": 64}
FDCONV = {"MODEL.BACKBONE.FDCONV.ENABLED": True, "MODEL.BACKBONE.FDCONV.KERNEL_NUM": 4}
MODULES = {**FDCONV, "MODEL.BACKBONE.FDAM.ENABLED": True, "MODEL.SEM_SEG_HEAD.FREQFUSION.ENABLED": True,
           "MODEL.SEM_SEG_HEAD.FDAM.ENABLED": True}
CONFIGS = {"plain": VIT, "modulated": {**VIT, **MODULES},
           "resnet": {**RESNET18, **FDCONV, "INPUT.MIN_SIZE_TEST": 64, "INPUT.MAX_SIZE_TEST": 64},
           "segnext": {**SEGNEXT_FREQFUSION, "INPUT.MIN_SIZE_TEST": 64, "INPUT.MAX_SIZE_TEST": 64},
          "no_attention": {"MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": 0}}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Configurations, two pictures of different shapes with label maps, and a registered dataset of them."""
    folder = tmp_path_factory.mktemp("project")
    for name, options in CONFIGS.items():
        (folder / f"{name}.yaml").write_text(small_config(options).dump())
    (folder / "images").mkdir()
    (folder / "empty").mkdir()
    records = []
    for stem, (height, width) in {"a": (64, 64), "b": (40, 64)}.items():
        y, x = np.mgrid[:height, :width]
        picture = np.stack([x * 4, y * 4, (x // 4 + y // 4) % 2 * 255], axis=-1).astype(np.uint8)
        Image.fromarray(picture).save(folder / "images" / f"{stem}.png")
        Image.fromarray((x * 3 // width).astype(np.uint8)).save(folder / f"{stem}_labels.png")
        records.append({"file_name": str(folder / "images" / f"{stem}.png"),
                        "sem_seg_file_name": str(folder / f"{stem}_labels.png")})
    DatasetCatalog.register(DATASET, lambda: records)
    MetadataCatalog.get(DATASET).set(stuff_classes=["left", "middle", "right"], ignore_label=255)
    return folder


@pytest.fixture
def run(project, tmp_path):
    """Runs a subject; returns the exit status and the folder of the results."""
    def call(subject, *arguments, config="modulated"):
        words = [subject, "--output", str(tmp_path / subject), *map(str, arguments)]
        if config:
            words += ["--config-file", str(project / f"{config}.yaml")]
        return analyze_frequency.main(words), tmp_path / subject
    return call


def read(folder, subject):
    numbers = json.loads((folder / f"{subject}.json").read_text(), parse_constant=pytest.fail)
    assert numbers["subject"] == subject and len(numbers["images"]) >= 1
    return numbers


def pictures(folder):
    names = sorted(path.stem for path in folder.glob("*.png"))
    for name in names:
        assert np.ptp(np.asarray(Image.open(folder / f"{name}.png").convert("L"))) > 50
    return names


def test_attention(run, project, capsys):
    status, folder = run("attention", "--input", project / "images", "--token", 1, 2, "--layer", 1)
    assert status == 0
    assert "no weights are given, the model's are random" in capsys.readouterr().out
    assert pictures(folder) == ["attention_kernel", "attention_kernel_stacked", "attention_profiles",
                                "attention_responses", "attention_stacked"]
    numbers = read(folder, "attention")
    assert numbers["weights"] == "random" and len(numbers["images"]) == 2
    blocks = [layer for layer in numbers["layers"] if layer["group"] == "backbone.blocks"]
    assert [layer["size"] for layer in blocks] == [[4, 4]] * 4 and np.shape(blocks[0]["response"]) == (4, 4)
    assert len(blocks[0]["profile"]) == len(numbers["frequencies"]) == 17
    stack = numbers["stacked"][0]
    assert (stack["group"], stack["layers"]) == ("backbone.blocks", 4)
    local = numbers["local"]
    assert (local["layer"], local["token"]) == ("backbone.blocks.1", [1, 2])
    assert sum(map(sum, local["kernel"])) == pytest.approx(1, abs=1e-4)
    assert local["response"][2][2] == pytest.approx(1, abs=1e-4) and len(local["every_layer"]) == 4
    assert all(row["low_pass"] and row["largest_other"] < 1 for row in local["every_layer"])


def test_product_over_layers_is_what_the_layers_say(run, project):
    _, folder = run("attention", "--input", project / "images" / "a.png", config="plain")
    numbers = read(folder, "attention")
    zero = np.prod([layer["profile"][0] for layer in numbers["layers"] if layer["group"] == "backbone.blocks"])
    assert numbers["stacked"][0]["plain"][0] == pytest.approx(zero, rel=1e-3)
    assert numbers["stacked"][0]["inverted"] is None and numbers["local"]["stacked_inverted"] is None


def test_representation(run, project):
    status, folder = run("representation", "--input", project / "images")
    assert status == 0
    assert pictures(folder) == ["representation_across", "representation_layers", "representation_maps"]
    numbers = read(folder, "representation")
    across = numbers["across"][0]
    similarities = [layer["similarity"] for layer in numbers["layers"] if layer["group"] == across["group"]]
    assert np.diag(across["similarity"]) == pytest.approx(similarities)
    for layer in numbers["layers"]:
        tokens = np.prod(layer["size"])
        assert 1 <= layer["effective_rank"] <= tokens + 1e-3 and 0 <= layer["similarity"] <= 1 + 1e-5
        assert np.shape(layer["map"]) == np.shape(layer["spectrum"]) == tuple(layer["size"])


def test_gates(run, project):
    """At the start γ is 1e-5: S̄ is near 1 and Ŝ between 0 and 2e-5."""
    status, folder = run("gates", "--input", project / "images")
    assert status == 0 and pictures(folder) == ["gates_inversion", "gates_scales"]
    numbers = read(folder, "gates")
    assert len([item for item in numbers["inversion"] if item["name"].startswith("backbone.blocks")]) == 4
    for item in numbers["inversion"]:
        assert item["mean_low"] == pytest.approx(1, abs=2e-5) and 0 < item["mean_high"] < 2e-5
        assert np.shape(item["high"]) == tuple(item["size"])
    names = [item["name"] for item in numbers["scales"]]
    assert "backbone.blocks.0.freq_scale_1" in names
    assert any(name.endswith("freq_scale_1, map 0") for name in names)     # one for each level of the encoder


def test_fdconv_with_bands(run, project):
    status, folder = run("fdconv", "--input", project / "images", config="resnet")
    assert status == 0
    assert pictures(folder) == ["fdconv_bands", "fdconv_profiles", "fdconv_similarity", "fdconv_spectra"]
    numbers = read(folder, "fdconv")
    assert numbers["layer"] == "backbone.res2.0.conv1" and numbers["groups"] == 4
    np.testing.assert_allclose(numbers["similarity"], np.eye(4), atol=1e-5)
    assert numbers["largest_similarity"] < 1e-5
    bands = numbers["bands"]
    assert np.allclose(np.sum(bands["masks"], axis=0), 1, atol=1e-5)
    assert np.allclose(bands["weights"], 1) and len(bands["mean_weights"]) == 4      # neutral at the start


def test_fdlinear_has_no_bands(run, project):
    status, folder = run("fdconv", "--input", project / "images", "--layer", 2)
    numbers = read(folder, "fdconv")
    assert status == 0 and numbers["bands"] is None and numbers["layer"] == numbers["layers"][2]
    assert pictures(folder) == ["fdconv_profiles", "fdconv_similarity", "fdconv_spectra"]


@pytest.mark.parametrize(("config", "plain"), [("modulated", "plain sum"), ("segnext", "plain concatenation")])
def test_freqfusion(run, project, config, plain):
    status, folder = run("freqfusion", "--dataset", DATASET, "--token", 0, 3, "--layer", 0, config=config)
    assert status == 0 and pictures(folder) == ["freqfusion_kernels", "freqfusion_similarity"]
    numbers = read(folder, "freqfusion")
    for unit in numbers["units"]:
        assert list(unit["stages"]) == ["high resolution", "low resolution, upsampled", plain, "fused"]
        for stage in unit["stages"].values():
            assert -1 <= stage["intra_category_similarity"] <= 1 and -2 <= stage["similarity_margin"] <= 2
    kernels = numbers["kernels"]
    assert kernels["unit"] == numbers["units"][0]["name"] and kernels["point"] == [0, 3]
    assert np.sum(kernels["low_pass"]) == pytest.approx(1, abs=1e-4)
    assert np.sum(kernels["high_pass"]) == pytest.approx(0, abs=1e-4)


def test_all_names_what_it_leaves_out(run, project, capsys):
    status, folder = run("all", "--input", project / "images", config="plain")
    out = capsys.readouterr().out
    assert status == 0 and sorted(path.stem for path in folder.glob("*.json")) == ["attention", "representation"]
    for subject, reason in (("gates", "has no FDAM"), ("fdconv", "has no FDConv"), ("freqfusion", "has no FreqFusion")):
        assert f"left out, {subject}: " in out and reason in out


def test_weights_and_options(run, project, tmp_path, capsys):
    torch.manual_seed(7)
    model = build_model(small_config(VIT))
    torch.save({"model": model.state_dict()}, tmp_path / "model.pth")
    arguments = ["--weights", tmp_path / "model.pth", "--input", project / "images" / "a.png"]
    status, folder = run("attention", *arguments, config="plain")
    assert status == 0 and read(folder, "attention")["weights"] == str(tmp_path / "model.pth")
    assert "random" not in capsys.readouterr().out
    words = ["attention", "--config-file", str(project / "plain.yaml"), "--output", str(folder), *map(str, arguments),
             "MODEL.VIT.DEPTH", "3", "MODEL.VIT.OUT_INDICES", "[0, 0, 1, 2]"]
    assert analyze_frequency.main(words) == 1
    assert "MODEL.VIT.OUT_INDICES must name four blocks" in capsys.readouterr().err


def test_timm(run, project, tmp_path, capsys):
    status, folder = run("all", "--timm", "test_vit", "--input", project / "images", config=None)
    assert status == 0 and "test_vit: no weights are given, the model's are random" in capsys.readouterr().out
    first = read(folder, "attention")
    assert all(row["low_pass"] for row in first["local"]["every_layer"])
    torch.manual_seed(3)
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "vit.pth")
    arguments = ["--timm", "test_vit", "--weights", tmp_path / "vit.pth", "--input", project / "images"]
    status, folder = run("attention", *arguments, config=None)
    second = read(folder, "attention")
    assert status == 0 and second["weights"] == str(tmp_path / "vit.pth")
    assert second["layers"][0]["response"] != first["layers"][0]["response"]


def test_compare(run, project, tmp_path):
    folders = [run("attention", "--input", project / "images", config=config)[1].rename(tmp_path / config)
               for config in ("plain", "modulated")]
    target = tmp_path / "both"
    words = ["compare", str(folders[0]), str(folders[1] / "attention.json"), "--output", str(target)]
    assert analyze_frequency.main(words) == 0
    assert pictures(target) == ["attention_kernel", "attention_kernel_stacked", "attention_profiles",
                                "attention_responses", "attention_stacked"]
    compared = json.loads((target / "attention.json").read_text())["compared"]
    assert [numbers["name"] for numbers in compared] == ["plain", "attention"]
    assert compared[1]["layers"] == read(folders[1], "attention")["layers"]


def test_runs_of_one_name_are_told_apart(tmp_path, monkeypatch):
    names = analyze_frequency.run_names
    assert names([Path("a/plain"), Path("b/fdam.v2")]) == ["plain", "fdam.v2"]
    assert names([Path("a/all"), Path("b/all")]) == ["a/all", "b/all"]
    assert names([Path("a/attention.json"), Path("b/attention.json")]) == ["a/attention.json", "b/attention.json"]
    monkeypatch.chdir(tmp_path)
    assert names([Path("."), Path("b")]) == [tmp_path.name, "b"]


def test_timm_names_with_a_tag(run, project, capsys):
    name = timm.list_pretrained("test_vit")[0]
    assert "." in name
    assert run("representation", "--timm", name, "--input", project / "images", config=None)[0] == 0
    assert run("representation", "--timm", "test_vit.none", "--input", project / "images", config=None)[0] == 1
    assert "--timm test_vit.none: " in capsys.readouterr().err


@pytest.mark.parametrize(("subject", "config", "arguments", "message"), [
    ("attention", "plain", ["--input", "{}/empty"], "the folder has no image"),
    ("attention", "plain", ["--input", "{}/missing.png"], "missing.png does not exist"),
    ("attention", "missing", ["--input", "{}/images"], "missing.yaml"),
    ("attention", "no_attention", ["--input", "{}/images"], "has no attention over a feature map"),
    ("attention", "plain", ["--input", "{}/images", "--layer", "4"], "--layer 4: the model has 4 layers of global"),
    ("attention", "plain", ["--input", "{}/images", "--token", "4", "0"],
     "token (y, x) = (4, 0) lies outside of the map of 4 × 4 tokens"),
    ("attention", "resnet", ["--input", "{}/images", "--token", "0", "0"],
     "windows and deformable attention have none"),
    ("attention", "plain", ["--input", "{}/images", "--weights", "{}/none.pth"], "none.pth"),
    ("attention", "plain", ["--dataset", "no_such_dataset"], "no_such_dataset is not registered"),
    ("gates", "plain", ["--input", "{}/images"], "has no FDAM: neither attention inversion nor FreqScale"),
    ("fdconv", "plain", ["--input", "{}/images"], "has no FDConv or FDLinear"),
    ("fdconv", "modulated", ["--input", "{}/images", "--layer", "16"], "--layer 16: the model has 16 layers of FDConv"),
    ("freqfusion", "plain", ["--input", "{}/images"], "has no FreqFusion"),
    ("freqfusion", "modulated", ["--input", "{}/images"], "give --dataset NAME"),
    ("freqfusion", "modulated", ["--dataset", DATASET, "--token", "99", "0"], "lies outside of the map"),
    ("attention", None, ["--timm", "deit_tny_patch16_224", "--input", "{}/images"], "near are deit_tiny_patch16_224"),
    ("attention", None, ["--timm", "resnet18", "--input", "{}/images"], "resnet18 has no attention over a feature map"),
    ("attention", None, ["--timm", "test_vit", "--input", "{}/images", "--weights", "{}/none.pth"], "none.pth"),
])
def test_what_cannot_be_analysed(run, project, capsys, subject, config, arguments, message):
    status, _ = run(subject, *[argument.format(project) for argument in arguments], config=config)
    error = capsys.readouterr().err
    assert status == 1 and error.startswith("error: ") and message in error


def test_timm_weights_of_another_model(run, project, tmp_path, capsys):
    torch.save({"head.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    arguments = ["--timm", "test_vit", "--weights", tmp_path / "other.pth", "--input", project / "images"]
    assert run("attention", *arguments, config=None)[0] == 1
    assert "other.pth does not fit test_vit: " in capsys.readouterr().err


def test_what_cannot_be_compared(tmp_path, capsys):
    def compare(*names):
        status = analyze_frequency.main(["compare", *(str(tmp_path / name) for name in names), "--output",
                                         str(tmp_path / "out")])
        return status, capsys.readouterr().err

    for name, contents in {"a": '{"subject": "gates"}', "b": '{"subject": "fdconv"}'}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{json.loads(contents)['subject']}.json").write_text(contents)
    (tmp_path / "wrong.json").write_text("[1]")
    (tmp_path / "cut.json").write_text('{"subject"')
    (tmp_path / "both.json").write_text('{"subject": "gates", "compared": []}')
    status, error = compare("a", "b")
    assert status == 1 and "holds gates" in error and "holds fdconv" not in error and "no subject to compare" in error
    assert "run a subject" in compare("a", "missing")[1]
    assert "missing.json" in compare("missing.json", "a")[1]
    assert "both.json is a comparison of two models" in compare("a", "both.json")[1]
    status, error = compare("a", "a")
    assert status == 1 and "gates.json of" in error and "run its subject again" in error
    assert not list((tmp_path / "out").iterdir())
    for name in ("wrong.json", "cut.json"):
        status, error = compare("a", name)
        assert status == 1 and f"{name} is not what a subject of this script has written" in error

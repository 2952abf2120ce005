"""train_net.py, demo.py and report.py on weights by name: the folder of a run, other classes, timm's weights."""
import json

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from freqdino.commands import demo, report
from freqdino.commands.train import run
from helpers.small_training import fails, options


@pytest.fixture(scope="module")
def trained(squares, tmp_path_factory):
    """Output folder of a run of an iteration on the classes bright and dark."""
    output = tmp_path_factory.mktemp("run")
    run(options(squares, output, "SOLVER.MAX_ITER", "1"))
    return output


@pytest.fixture
def three_classes(squares, tmp_path):
    """Own-data name of the squares with the classes dark, grey and bright."""
    file, _, images = squares.partition("@")
    with open(file) as stream:
        annotations = json.load(stream)
    annotations["categories"] = [{"id": 2, "name": "dark"}, {"id": 3, "name": "grey"}, {"id": 1, "name": "bright"}]
    (tmp_path / "three.json").write_text(json.dumps(annotations))
    return f"{tmp_path / 'three.json'}@{images}"


def test_a_run_starts_from_the_folder_of_another_with_other_classes(trained, three_classes, tmp_path):
    output = tmp_path / "more"
    run(options(three_classes, output, "MODEL.WEIGHTS", str(trained), "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3",
                "SOLVER.MAX_ITER", "1", "SOLVER.BASE_LR", "1e-12"))
    log = (output / "log.txt").read_text()
    assert "start anew, the rows of 2 classes of equal names are kept (bright, dark)" in log
    name = "sem_seg_head.predictor.class_embed.weight"
    old, new = (torch.load(folder / "model_final.pth", weights_only=True) for folder in (trained, output))
    order = [new["classes"]["thing_classes"].index(label) for label in old["classes"]["thing_classes"]]
    torch.testing.assert_close(new["model"][name][[*order, 3]], old["model"][name], rtol=0, atol=1e-9)


def test_evaluation_on_other_classes_stays_an_error(trained, three_classes, tmp_path, capsys):
    error = fails(capsys, ["--eval-only", *options(three_classes, tmp_path, "MODEL.WEIGHTS", str(trained),
                                                   "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3")])
    assert "class_embed.weight (checkpoint (3, " in error


def test_demo_and_report_take_the_folder_of_a_run(trained, squares, tmp_path, capsys):
    _, _, images = squares.partition("@")
    assert demo.main(["--config-file", str(trained / "config.yaml"), "--weights", str(trained), "--input", images,
                      "--output", str(tmp_path / "drawn")]) == 0
    assert list((tmp_path / "drawn").iterdir())
    assert report.main([str(trained), "--weights", str(trained), "--output", str(tmp_path / "page.html")]) == 0


def test_training_from_timms_weights(squares, tmp_path, monkeypatch):
    name = "test_convnext.r160_in1k"
    snapshot = tmp_path / "hub" / f"models--timm--{name}" / "snapshots" / ("c" * 40)
    snapshot.mkdir(parents=True)
    refs = snapshot.parent.parent / "refs"
    refs.mkdir()
    (refs / "main").write_text("c" * 40)
    network = timm.create_model(name)
    save_file(network.state_dict(), snapshot / "model.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    run(options(squares, tmp_path / "run", "SOLVER.MAX_ITER", "1", "SOLVER.BASE_LR", "1e-12", "MODEL.BACKBONE.NAME",
                "build_timm_backbone", "MODEL.TIMM.NAME", "test_convnext", "MODEL.TIMM.PRETRAINED", "True",
                "MODEL.PIXEL_MEAN", "[127.5, 127.5, 127.5]", "MODEL.PIXEL_STD", "[127.5, 127.5, 127.5]",
                "INPUT.FORMAT", "RGB"))
    model = torch.load(tmp_path / "run" / "model_final.pth", weights_only=True)["model"]
    torch.testing.assert_close(model["backbone.stem.0.weight"], network.stem[0].weight.detach(), rtol=0, atol=1e-9)
    assert "Filled backbone only" in (tmp_path / "run" / "log.txt").read_text()

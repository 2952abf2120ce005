"""The quickstart's configurations: each names its command, builds, learns from a scene and gives every kind of result."""
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from modeling.small_models import example

from freqdino.config import load_config

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "quickstart"
FILES = sorted(FOLDER.glob("*.yaml"))


def test_both_families_have_one():
    assert {file.stem for file in FILES} >= {"mask2former", "maskdino"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_builds_learns_and_predicts(file):
    assert file.read_text().splitlines()[0] == f"# bash tools/quickstart.sh {file.stem}"
    cfg = load_config(str(file))
    assert cfg.MODEL.WEIGHTS == "" and cfg.DATASETS.TEST == ("freqdino_scenes_val",)
    model = build_model(cfg)
    scene = example(128, 128, [0, 3, 6])
    losses = model.train()([scene, scene])
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]
    with torch.no_grad():
        result, = model.eval()([scene])
    assert set(result) == {"sem_seg", "instances", "panoptic_seg"}
    assert result["sem_seg"].shape == (7, 128, 128)

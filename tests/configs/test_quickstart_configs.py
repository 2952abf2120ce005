"""The quickstart's configurations: each names its command, builds, learns from a scene and gives every result."""
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks
from detectron2.utils.events import EventStorage

from freqdino.config import load_config
from helpers.small_models import example, rectangles

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "quickstart"
FILES = sorted(FOLDER.glob("*.yaml"))
# File -> data set and results; the others are panoptic.
PANOPTIC = ("freqdino_scenes_val", {"sem_seg", "instances", "panoptic_seg"})
OTHERS = {"maskrcnn": ("freqdino_scenes_instance_val", {"instances"})}


def test_every_family_has_one():
    assert {file.stem for file in FILES} >= {"mask2former", "maskdino", "maskrcnn"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_builds_learns_and_predicts(file):
    dataset, results = OTHERS.get(file.stem, PANOPTIC)
    assert file.read_text().splitlines()[0] == f"# bash tools/quickstart.sh {file.stem}"
    cfg = load_config(str(file))
    assert cfg.MODEL.WEIGHTS == "" and cfg.DATASETS.TEST == (dataset,)
    model = build_model(cfg)
    masks = BitMasks(rectangles(3, 128, 128))
    scene = example(128, 128, [0, 1, 3], masks=masks)
    scene["instances"].gt_boxes = masks.get_bounding_boxes()
    with EventStorage():                    # Detectron2's heads log into it
        losses = model.train()([scene, scene])
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]
    with torch.no_grad():
        result, = model.eval()([scene])
    assert set(result) == results
    if "sem_seg" in result:
        assert result["sem_seg"].shape == (7, 128, 128)


@pytest.mark.parametrize("options", [["MODEL.FPN.UPSAMPLER", "freqfusion"], ["MODEL.BACKBONE.FDCONV.ENABLED", "True"],
                                     ["MODEL.BACKBONE.FDAM.ENABLED", "True"]])
def test_frequency_modules_of_mask_rcnn_add_parameters(options):
    plain, added = (sum(parameter.numel() for parameter in build_model(load_config(str(FOLDER / "maskrcnn.yaml"), opts))
                        .parameters()) for opts in ([], options))
    assert added > plain

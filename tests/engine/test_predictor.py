"""The predictor: channel order, sizes, scores of segments, messages."""
import numpy as np
import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from torch import nn

from freqdino.config import load_config
from freqdino.engine.predictor import Predictor

IMAGE = np.zeros((30, 40, 3), np.uint8)
IMAGE[..., 0] = 200     # red


@META_ARCH_REGISTRY.register()
class EchoModel(nn.Module):
    """Gives its input back."""

    def __init__(self, cfg):
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(1))

    def forward(self, samples):
        return samples


def config(folder, *options):
    torch.save({"model": {"offset": torch.zeros(1)}}, folder / "echo.pth")
    return load_config(opts=["MODEL.META_ARCHITECTURE", "EchoModel", "MODEL.WEIGHTS", str(folder / "echo.pth"),
                             "MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TEST", "60", *options])


@pytest.mark.parametrize(("order", "red"), [("RGB", 0), ("BGR", 2)])
def test_what_the_model_is_given(tmp_path, order, red):
    predict = Predictor(config(tmp_path, "INPUT.FORMAT", order))
    sample = predict(IMAGE)
    assert sample["image"].shape == (3, 60, 80) and (sample["height"], sample["width"]) == (30, 40)
    assert (sample["image"][red] == 200).all() and sample["image"].sum() == 200 * 60 * 80
    assert predict.input_size(IMAGE) == (60, 80)


def test_segments_of_our_models_have_scores(tmp_path):
    cfg = load_config("quickstart/mask2former.yaml", [
        "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", str(tmp_path / "small.pth"),
        "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD", 0.0, "MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD", 0.0])
    model = build_model(cfg)
    with torch.no_grad():       # no query takes "no object"
        model.sem_seg_head.predictor.class_embed.bias[-1] = -100.0
    torch.save({"model": model.state_dict()}, tmp_path / "small.pth")
    segments = Predictor(cfg)(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    scores = [segment["score"] for segment in segments["panoptic_seg"][1]]
    assert scores and all(isinstance(score, float) and 0 < score < 1 for score in scores)

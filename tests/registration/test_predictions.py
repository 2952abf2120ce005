"""What each architecture predicts."""

import pytest

from freqdino.config import load_config
from freqdino.registration.predictions import predictions_of


def test_tasks_of_each_family():
    cfg = load_config(opts=["MODEL.META_ARCHITECTURE", "MaskFormer", "MODEL.MASK_FORMER.TEST.PANOPTIC_ON", "True"])
    assert predictions_of(cfg).tasks == ("semantic", "panoptic")
    cfg = load_config(opts=["MODEL.META_ARCHITECTURE", "MaskDINO", "MODEL.MaskDINO.TEST.SEMANTIC_ON", "False",
                            "MODEL.MaskDINO.TEST.INSTANCE_ON", "True"])
    assert predictions_of(cfg).tasks == ("instance",)
    detectors = {"GeneralizedRCNN": ("instance",), "PanopticFPN": ("semantic", "instance", "panoptic"),
                 "SemanticSegmentor": ("semantic",), "RetinaNet": ("instance",)}
    for name, tasks in detectors.items():
        assert predictions_of(load_config(opts=["MODEL.META_ARCHITECTURE", name])).tasks == tasks


@pytest.mark.parametrize(("options", "expected"), [
    (["MODEL.META_ARCHITECTURE", "MaskDINO"], True), (["MODEL.META_ARCHITECTURE", "GeneralizedRCNN"], False),
    (["MODEL.META_ARCHITECTURE", "GeneralizedRCNN", "MODEL.MASK_ON", "True"], True)])
def test_models_with_masks(options, expected):
    assert predictions_of(load_config(opts=options)).masks == expected

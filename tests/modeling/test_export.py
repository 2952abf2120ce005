"""Whole networks in ONNX: one graph for other sizes and numbers of images than it was recorded at, equal to torch's."""
import pytest
import torch

from helpers.exporting import IMAGES, Maps, Predictions, assert_near, export, off_its_start, onnx_session, run, sides
from helpers.small_models import BackboneModel, small_model
from helpers.small_semantic_heads import semantic_segmentor

SHORT = {"MODEL.MASK_FORMER.DEC_LAYERS": 2}
TIMM = {"MODEL.BACKBONE.NAME": "build_timm_backbone", "MODEL.TIMM.NAME": "convnext_atto"}
SEGNEXT = {
    "MODEL.BACKBONE.NAME": "build_mscan_backbone", "MODEL.MSCAN.EMBED_DIMS": [8, 8, 16, 16],
    "MODEL.MSCAN.DEPTHS": [1, 1, 1, 1], "MODEL.SEM_SEG_HEAD.NAME": "LightHamHead",
    "MODEL.SEM_SEG_HEAD.IN_FEATURES": ["res3", "res4", "res5"], "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": 8}
NETWORKS = {
    "Mask2Former": lambda: Predictions(small_model(SHORT)),
    "UPerNet": lambda: Predictions(semantic_segmentor({"MODEL.SEM_SEG_HEAD.NAME": "UPerNetHead"})),
    "SegFormer": lambda: Predictions(semantic_segmentor({"MODEL.SEM_SEG_HEAD.NAME": "SegFormerHead"})),
    "SegNeXt": lambda: Predictions(semantic_segmentor(SEGNEXT)),
    **{f"SegFormer, {name}": lambda name=name: Predictions(semantic_segmentor({
        "MODEL.SEM_SEG_HEAD.NAME": "SegFormerHead", "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32,
        "MODEL.SEM_SEG_HEAD.UPSAMPLER": name})) for name in ("fade", "sapa_b")},
    "ConvNeXt": lambda: Maps(BackboneModel(TIMM).backbone),
}
# Odd multiples of 32, the smallest side among them.
OTHERS = [(1, 3, 160, 96), (3, 3, 64, 224)]


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[] if name in ("UPerNet", "SegFormer") else [pytest.mark.slow]) for name in NETWORKS])
def test_other_sizes_in_onnx(name):
    network = off_its_start(NETWORKS[name]())
    with torch.no_grad():
        session = onnx_session(export(network, (torch.randn(2, 3, 96, 128),), {0: IMAGES, **sides(32, least=2)}))
        for size in OTHERS:
            images = torch.randn(size)
            assert_near(run(session, images), network(images), tolerance=1e-3)

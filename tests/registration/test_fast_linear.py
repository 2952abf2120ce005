"""The linear layers of whole models: ours on the CPU in every family, what is counted, recorded and stored the same."""
import copy
import io

import pytest
import torch
from torch import nn

from freqdino.analysis.costs.flop_counting import counting
from freqdino.frequency import FDLinear
from freqdino.layers.linear import Linear, swap_linear
from freqdino.registration.binding import on_its_device
from helpers.small_mask_dino import mask_dino_model
from helpers.small_models import small_config, small_model
from helpers.small_semantic_heads import BACKBONES, semantic_segmentor

SWIN = {"MODEL.BACKBONE.NAME": "D2SwinTransformer", "MODEL.SWIN.EMBED_DIM": 32, "MODEL.SWIN.DEPTHS": [1, 2, 1, 1],
        "MODEL.SWIN.NUM_HEADS": [1, 2, 4, 8], "MODEL.SWIN.WINDOW_SIZE": 4}
CONVNEXT = {"MODEL.BACKBONE.NAME": "build_timm_backbone", "MODEL.TIMM.NAME": "test_convnext2"}
FDAM, FDCONV = ({f"MODEL.BACKBONE.{name}.ENABLED": True} for name in ("FDAM", "FDCONV"))
MODELS = {
    "Swin": lambda: small_model(SWIN),
    "Swin with FDAM": lambda: small_model({**SWIN, **FDAM}),
    "ConvNeXt": lambda: mask_dino_model(CONVNEXT),
    "SegFormer": lambda: semantic_segmentor({**BACKBONES["MiT with FDAM"], "MODEL.SEM_SEG_HEAD.NAME": "SegFormerHead"}),
    "UPerNet": lambda: semantic_segmentor({**BACKBONES["ViT with FDAM"], "MODEL.SEM_SEG_HEAD.NAME": "UPerNetHead"}),
}


def of_class(model, kind):
    return {name for name, part in model.named_modules() if type(part) is kind}


def with_torchs_linear(model):
    plain = copy.deepcopy(model)
    swap_linear(plain, Linear, nn.Linear)
    return plain


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_every_familys_backbone_has_it_and_stays_what_it_was(name):
    model = MODELS[name]().eval()
    assert of_class(model, nn.Linear) == set() and of_class(model.backbone, Linear)
    plain, image = with_torchs_linear(model), torch.randn(1, 3, 64, 96)
    assert [*plain.state_dict()] == [*model.state_dict()]
    expected = plain.backbone(image)
    traced = torch.jit.trace(model.backbone, image, strict=False)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    stored = torch.load(file, weights_only=False).backbone
    for backbone in (model.backbone, traced, stored):
        for level, feature_map in backbone(image).items():
            torch.testing.assert_close(feature_map, expected[level], rtol=1e-4, atol=1e-4)
    counts = []
    for each in (model, plain):
        with counting() as counted:
            each.backbone(image)
        counts.append((counted.flops, counted.activations))
    assert counts[0] == counts[1]


def test_dynamic_layers_stay():
    assert len(of_class(small_model({**SWIN, **FDCONV, "MODEL.BACKBONE.FDCONV.KERNEL_NUM": 4}), FDLinear)) == 5 * 4


def test_not_where_it_does_not_help(monkeypatch):
    on_cuda = small_config()
    on_cuda.MODEL.DEVICE = "cuda"
    assert type(on_its_device(on_cuda, nn.Sequential(nn.Linear(2, 2)))[0]) is nn.Linear
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert of_class(small_model(SWIN).backbone, Linear) == set()

"""The pyramid with fusions: Detectron2's FPN but for the fusion."""
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from torch import nn

from freqdino.frequency.rivals.unguided import Interpolation
from freqdino.frequency.rivals.upsampler import as_fusion
from freqdino.modeling.backbones.fpn import FusionFPN
from helpers.refusals import refuses

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


class Strided(Backbone):
    """One strided convolution a map."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleDict({name: nn.Conv2d(3, stride, kernel_size=stride, stride=stride)
                                    for name, stride in STRIDES.items()})

    def forward(self, x):
        return {name: conv(x) for name, conv in self.convs.items()}

    def output_shape(self):
        return {name: ShapeSpec(channels=stride, stride=stride) for name, stride in STRIDES.items()}


def arguments(**changes):
    return {"bottom_up": Strided(), "in_features": ["res2", "res3", "res4", "res5"], "out_channels": 8, "norm": "",
            "top_block": LastLevelMaxPool(), "fuse_type": "sum", **changes}


def nearest(out_channels=8, **_):
    return as_fusion(Interpolation(hr_channels=out_channels, lr_channels=out_channels, mode="nearest"))


@pytest.mark.parametrize("changes", [
    {},
    {"fuse_type": "avg"},
    {"norm": "GN", "out_channels": 32},
    {"in_features": ["res3", "res4", "res5"]},
    {"in_features": ["res3", "res4", "res5"], "top_block": LastLevelP6P7(32, 8)},
], ids=["sum", "avg", "norm", "three maps", "P6 and P7"])
def test_with_nearest_it_is_detectron2s(changes):
    torch.manual_seed(0)
    reference = FPN(**arguments(**changes)).eval()
    pyramid = FusionFPN(**arguments(**changes), make_fusion=lambda: nearest(**changes)).eval()
    pyramid.load_state_dict(reference.state_dict(), strict=True)
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected, levels = reference(image), pyramid(image)
    assert list(levels) == list(expected)
    assert all(torch.equal(levels[name], expected[name]) for name in expected)
    assert pyramid.output_shape() == reference.output_shape()
    assert pyramid.size_divisibility == reference.size_divisibility == 32


class Recorded(nn.Module):
    def __init__(self, calls):
        super().__init__()
        self.calls = calls

    def forward(self, hr, lr):
        self.calls.append((self, tuple(hr.shape), tuple(lr.shape)))
        return hr


def test_each_step_has_a_fusion_of_its_own_from_coarse_to_fine():
    calls = []
    pyramid = FusionFPN(**arguments(), make_fusion=lambda: Recorded(calls))
    pyramid(torch.randn(1, 3, 64, 64))
    assert [call[0] for call in calls] == list(pyramid.fpn_fusions) and len(set(pyramid.fpn_fusions)) == 3
    assert [call[1:] for call in calls] == [((1, 8, size, size), (1, 8, size // 2, size // 2)) for size in (4, 8, 16)]


test_arguments_out_of_range = refuses(lambda changes: FusionFPN(
    **arguments(**changes), make_fusion=nearest), [
    ({"in_features": ["res2", "res6"]}, r"in_features names \['res6'\], but the maps are \['res2', 'res3', 'res4', "),
    ({"in_features": []}, "in_features names nothing"),
    ({"in_features": ["res3", "res5"]}, r"twice the stride of .* got \['res3', 'res5'\] of strides \[8, 32\]"),
    ({"in_features": ["res5", "res4"]}, r"strides \[32, 16\]"),
    ({"fuse_type": "max"}, "fuse_type must be one of sum, avg, got 'max'"),
    ({"in_features": ["res3", "res4"]}, r"\['res3', 'res4'\] give top_block nothing to read: it wants p5, .*'p4'\]"),
])

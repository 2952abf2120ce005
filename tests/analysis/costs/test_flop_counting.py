"""The counting of FLOPs and activations, rule by rule against numbers worked out by hand."""
import pytest
import torch
from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis
from torch import nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from freqdino.analysis.costs.flop_counting import counting
from freqdino.frequency import FrequencyScale
from freqdino.frequency.fdam.scale_spectrum import scale_spectrum
from freqdino.ops import blocking
from freqdino.ops.carafe import carafe
from freqdino.ops.ms_deform_attn import ms_deform_attn, ms_deform_attn_reference


def count(run, *arguments, **options):
    """(FLOPs, activations, calls of operators without a rule) of one call."""
    with torch.no_grad(), counting() as counts:
        run(*arguments, **options)
    return counts.flops.total(), counts.activations.total(), dict(counts.uncounted)


def test_convolution():
    conv = nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=2)
    # 10 × 6 -> 5 × 3; each output reads 9 taps of 4 channels.
    outputs = 2 * 12 * 5 * 3
    assert count(conv, torch.zeros(2, 8, 10, 6)) == (outputs * 9 * 4, outputs, {})


def test_transposed_convolution():
    conv = nn.ConvTranspose2d(3, 5, 2, stride=2)
    # Each of 3 · 4 · 6 inputs is spread over 4 taps of 5 channels.
    assert count(conv, torch.zeros(1, 3, 4, 6)) == (3 * 4 * 6 * 4 * 5, 5 * 8 * 12, {})


def test_matrix_products():
    assert count(nn.Linear(7, 3), torch.zeros(2, 5, 7)) == (2 * 5 * 7 * 3, 2 * 5 * 3, {})
    assert count(torch.matmul, torch.zeros(4, 2, 7), torch.zeros(4, 7, 3)) == (4 * 2 * 7 * 3, 4 * 2 * 3, {})
    assert count(torch.mv, torch.zeros(2, 7), torch.zeros(7)) == (14, 2, {})
    assert count(torch.einsum, "bqc,bchw->bqhw", torch.zeros(2, 3, 4), torch.zeros(2, 4, 5, 6))[:2] == (
        2 * 3 * 4 * 30, 2 * 3 * 30)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_two_products_whatever_computes_it(device, masked):
    query, key, value = (torch.zeros(1, 2, n, d, device=device) for n, d in ((5, 4), (7, 4), (7, 4)))
    mask = torch.ones(5, 7, dtype=torch.bool, device=device) if masked else None
    expected = 2 * 5 * 7 * (4 + 4), 2 * 5 * 4, {}
    assert count(F.scaled_dot_product_attention, query, key, value, attn_mask=mask) == expected


def test_transforms():
    # 3 transforms of 16 points: 5 · 16 · 4 each. A complex number is two activations.
    assert count(torch.fft.fft, torch.zeros(3, 16, dtype=torch.complex64)) == (3 * 5 * 16 * 4, 3 * 32, {})
    # 2 transforms of 8 × 4 real points, half as dear: 2.5 · 32 · 5 each; 8 × 3 coefficients.
    assert count(torch.fft.rfft2, torch.zeros(2, 8, 4)) == (2 * 2.5 * 32 * 5, 2 * 8 * 3 * 2, {})
    assert count(torch.fft.irfft2, torch.zeros(2, 8, 3, dtype=torch.complex64), s=(8, 4)) == (
        2 * 2.5 * 32 * 5, 2 * 32, {})
    assert count(torch.fft.rfft, torch.zeros(6, 1))[0] == 0


def test_transforms_within_a_gradient_rule_of_their_own():
    scale = FrequencyScale(16, group=4, size=4, reweight_expansion_ratio=1 / 4)
    flops, _, uncounted = count(scale, torch.rand(1, 16, 8, 4))
    transforms = 2 * 16 * 2.5 * 32 * 5
    routing = 16 * 32 + 16 * 4 + 4 * 16                     # the map's mean and two linear layers
    mixing = 4 * 4 * (4 * 4 * 3)                            # 4 groups of 4 filters of 4 channels, 4 × 3
    bicubic = 16 * (8 * 4 + 3 * 3)                          # the matrices that resize unit vectors
    resizing = 16 * (8 * 4 * 3 + 8 * 3 * 3)                 # of 16 filters, rows first
    assert flops == transforms + routing + mixing + bicubic + resizing
    assert {"mul", "tanh"} <= set(uncounted)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_an_operator_of_ours_without_a_rule_is_what_it_is_made_of(device):
    x, filters = torch.ones(1, 2, 8, 4, device=device), torch.ones(1, 2, 8, 3, device=device)
    # There and back 2 transforms of 8 × 4 real points: 2.5 · 32 · 5 each; 2 × 8 × 3 coefficients and 2 × 8 × 4 points.
    assert count(scale_spectrum, x, filters) == (2 * 2 * 2.5 * 32 * 5, 2 * 48 + 64, {"mul": 1})


def test_embedding_bag():
    index = torch.zeros(6, 5, dtype=torch.int32)
    assert count(F.embedding_bag, index, torch.zeros(9, 7), mode="sum", per_sample_weights=torch.zeros(6, 5)) == (
        6 * 5 * 7, 6 * 7, {})


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("budget", [2**21, 1])
def test_deformable_attention_reads_four_pixels_a_sample(device, budget, monkeypatch):
    monkeypatch.setitem(blocking.BUDGET, "cpu", budget)
    sizes = [(4, 6), (2, 3)]
    value, locations, weights = torch.rand(2, 30, 3, 5), torch.rand(2, 7, 3, 2, 4, 2), torch.rand(2, 7, 3, 2, 4)
    arguments = value.to(device), sizes, locations.to(device), weights.to(device)
    flops = 2 * 7 * 3 * 2 * 4 * 4 * 5
    assert count(ms_deform_attn, *arguments) == (flops, 2 * 7 * 3 * 5, {})
    # The definition multiplies with the attention weights after sampling, not the four pixels' weights beforehand.
    assert count(ms_deform_attn_reference, *arguments)[0] == flops + flops // 4


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("budget", [2**21, 1])
def test_carafe_reads_its_window(device, budget, monkeypatch):
    monkeypatch.setitem(blocking.BUDGET, "cpu", budget)
    x, mask = torch.rand(2, 8, 3, 4, device=device), torch.rand(2, 2 * 25, 6, 8, device=device)
    outputs = 2 * 8 * 6 * 8
    assert count(carafe, x, mask, 5, 2, 2) == (outputs * 25, outputs, {})


def test_sampling():
    x, grid = torch.rand(2, 3, 8, 6), torch.rand(2, 5, 4, 2)
    assert count(F.grid_sample, x, grid, align_corners=False)[0] == 4 * 2 * 3 * 5 * 4
    assert count(F.grid_sample, x, grid, mode="bicubic", align_corners=False)[0] == 16 * 2 * 3 * 5 * 4
    assert count(F.grid_sample, x, grid, mode="nearest", align_corners=False)[0] == 0
    assert count(F.interpolate, x, size=(16, 9), mode="bilinear") == (4 * 2 * 3 * 16 * 9, 0, {})
    assert count(F.interpolate, x, size=(16, 9), mode="bicubic")[0] == 16 * 2 * 3 * 16 * 9
    assert count(F.interpolate, x, size=(16, 9), mode="nearest") == (0, 0, {})


def test_roi_align():
    x, rois = torch.rand(1, 3, 20, 20), torch.tensor([[0, 0.0, 0, 8, 8], [0, 1.0, 1, 11, 4]])
    # 2 boxes, 2 × 2 bins of 3 × 3 samples.
    assert count(roi_align, x, rois, 2, sampling_ratio=3)[:2] == (4 * 3 * 2 * 4 * 9, 2 * 3 * 4)
    # As many samples as a bin has pixels, rounded up: 4 × 4 and, of 10 × 3 pixels, 5 × 2.
    assert count(roi_align, x, rois, 2, sampling_ratio=-1, aligned=True)[0] == 4 * 3 * 4 * (4 * 4 + 5 * 2)


def test_normalisation_and_averages():
    x = torch.rand(2, 8, 4, 6)
    assert count(nn.GroupNorm(2, 8), x) == (5 * x.numel(), 0, {})
    assert count(nn.GroupNorm(2, 8, affine=False), x)[0] == 4 * x.numel()
    assert count(nn.LayerNorm(6), x) == (5 * x.numel(), 0, {})
    assert count(nn.LayerNorm(6, elementwise_affine=False), x)[0] == 4 * x.numel()
    assert count(nn.BatchNorm2d(8).eval(), x) == (x.numel(), 0, {})
    assert count(F.adaptive_avg_pool2d, x, 2)[0] == count(F.adaptive_avg_pool2d, x, 1)[0] == x.numel()
    assert count(F.avg_pool2d, x, 2)[0] == x.numel()
    assert count(F.fold, torch.rand(1, 9, 24), (4, 6), 3, padding=1) == (9 * 24, 0, {})


def test_what_has_no_rule_is_listed():
    def run(x):
        x = torch.cat([x.relu(), x.clamp(min=0).transpose(0, 1).contiguous()])
        return (x * x).softmax(-1).cumsum(0) * 2

    assert count(run, torch.rand(3, 3)) == (0, 0, {"mul": 2, "softmax": 1, "cumsum": 1})


def test_work_is_put_down_to_the_part_that_runs():
    parts = iter(["first", "second", "first"])
    layer, x = nn.Linear(2, 3), torch.zeros(1, 2)
    with torch.no_grad(), counting(lambda: next(parts)) as counts:
        for _ in range(3):
            layer(x)
    assert counts.flops == {"first": 12, "second": 6} and counts.activations == {"first": 6, "second": 3}


def test_nothing_is_counted_after_an_error():
    with pytest.raises(RuntimeError, match="by the test"):
        with counting() as counts:
            raise RuntimeError("by the test")
    carafe(torch.rand(1, 2, 3, 3), torch.rand(1, 9, 3, 3), 3, 1, 1)
    assert not counts.flops


def test_agrees_with_fvcore_on_a_residual_network():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(3, 8, 7, 2, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
                                        nn.Conv2d(8, 8, 3, padding=1, groups=4), nn.BatchNorm2d(8))
            self.norm, self.linear = nn.LayerNorm(8), nn.Linear(8, 5)

        def forward(self, x):
            x = F.interpolate(self.layers(x), scale_factor=2.0, mode="bilinear")
            return self.linear(self.norm(x.flatten(2).transpose(1, 2)))

    model, x = Block().eval(), torch.rand(2, 3, 32, 48)
    flops, activations, _ = count(model, x)
    theirs = FlopCountAnalysis(model, x).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    # fvcore counts batch normalisation twice: 2 × 8 channels on 16 × 24 and on 8 × 12 pixels.
    assert flops == theirs.total() - 2 * 8 * (16 * 24 + 8 * 12)
    assert activations == ActivationCountAnalysis(model, x).unsupported_ops_warnings(False).total()

"""``weight`` of layers that keep Fourier coefficients: what initialises it works, what computes with it is told."""
import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import fusion, parametrizations, prune, weight_norm

from freqdino.frequency import FDConv, FDLinear
from freqdino.frequency.fdconv.kernel_modulation import NeutralHead

REMEDY = "no weight to compute with: dft_weight holds .* static_weight.* convert_param=False"


@pytest.fixture(params=["FDConv", "FDLinear"])
def layer(request):
    torch.manual_seed(0)
    return FDConv(20, 24, 3, padding=1, param_ratio=2) if request.param == "FDConv" else FDLinear(20, 24)


def input_of(layer):
    return torch.randn(2, 20, 6, 7) if isinstance(layer, FDConv) else torch.randn(2, 9, 20)


@pytest.mark.parametrize("fill", [
    lambda weight: nn.init.constant_(weight, 0.25),
    lambda weight: weight.data.fill_(0.25),
    lambda weight: weight.data.copy_(torch.tensor(0.25)),
    lambda weight: weight.data.zero_().add_(0.25),
    lambda weight: setattr(weight, "data", torch.full(weight.shape, 0.25)),
], ids=["nn.init", "fill_", "copy_", "zero_ add_", "data ="])
def test_filling_sets_the_static_weight(layer, fill):
    fill(layer.weight)
    assert torch.allclose(layer.static_weight(), torch.full(layer.plain_shape, 0.25), atol=1e-6)
    assert layer.dft_weight.requires_grad and layer.dft_weight.is_leaf


def test_the_usual_loop_at_the_end_of_a_constructor():
    """The weight is a plain convolution's, and the modulation stays neutral."""
    net = nn.Sequential(FDConv(64, 64, 3, padding=1), nn.BatchNorm2d(64))
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    weight = net[0].static_weight().detach()
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.03)
    x = torch.randn(2, 64, 8, 8)
    assert torch.allclose(net[0](x), nn.functional.conv2d(x, weight, padding=1), atol=1e-4)


def test_an_orthogonal_start(layer):
    """nn.init fills it as a matrix."""
    nn.init.orthogonal_(layer.weight)
    rows = layer.static_weight().detach().flatten(1)
    small = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows
    assert torch.allclose(small, torch.eye(len(small)), atol=1e-5)
    assert layer.dft_weight.requires_grad and layer.dft_weight.is_leaf
    zeros = torch.zeros_like(layer.weight)
    assert type(zeros) is torch.Tensor and zeros.shape == layer.plain_shape


def test_an_optimiser_that_collects_weights_is_told_the_parameter(layer):
    with pytest.raises(ValueError, match="'s weight is no parameter, dft_weight is: .*parameters"):
        torch.optim.SGD([{"params": [module.weight for module in [layer]]}], lr=0.1)
    torch.optim.SGD(layer.parameters(), lr=0.1)


def test_reset_parameters(layer):
    with torch.no_grad():
        for tensor in (*layer.parameters(), *layer.buffers()):
            if tensor.is_floating_point():
                tensor.fill_(float("nan"))
    layer.reset_parameters()
    plain = nn.Conv2d(20, 24, 3) if isinstance(layer, FDConv) else nn.Linear(20, 24)
    assert layer.static_weight().std().item() == pytest.approx(plain.weight.std().item(), rel=0.15)
    assert all(head.weight.abs().max() < 1e-9 for head in layer.modules() if isinstance(head, NeutralHead))
    state = plain.state_dict()
    x, expected = input_of(layer), layer.static_weight().detach()
    state["weight"], state["bias"] = expected, layer.bias.detach()
    plain.load_state_dict(state)
    if isinstance(layer, FDConv):
        plain.padding = (1, 1)
    assert torch.allclose(layer(x), plain(x), atol=1e-4)


def test_what_it_tells(layer):
    weight = layer.weight
    assert weight.shape == layer.plain_shape and weight.dtype == torch.float32 and weight.device.type == "cpu"
    assert weight.requires_grad and "dft_weight" in repr(weight)
    weight.requires_grad_(False)
    assert not layer.dft_weight.requires_grad and not layer.weight.requires_grad
    layer.weight.requires_grad = True
    assert layer.dft_weight.requires_grad
    assert "weight" not in dict(layer.named_parameters()) and "weight" not in layer.state_dict()


@pytest.mark.parametrize("deed", [
    lambda layer: fusion.fuse_conv_bn_eval(layer.eval(), nn.BatchNorm2d(24).eval()),
    weight_norm,
    parametrizations.weight_norm,
    parametrizations.spectral_norm,
    lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
    lambda layer: prune.random_unstructured(layer, "weight", 0.3),
    lambda layer: torch.zeros(layer.plain_shape, out=layer.weight.data),
    lambda layer: torch.cat([layer.weight, layer.weight]),
    lambda layer: layer.weight.norm(),
    lambda layer: layer.weight[0],
    lambda layer: setattr(layer, "weight", nn.Parameter(torch.zeros(layer.plain_shape))),
    lambda layer: torch.zeros(layer.plain_shape).copy_(layer.weight),
], ids=["fusion", "weight_norm", "weight_norm of parametrizations", "spectral_norm", "l1 pruning", "random pruning",
        "out", "cat", "norm", "part", "assignment", "copy"])
@pytest.mark.filterwarnings("ignore")
def test_what_would_pass_over_the_modulation_is_refused(layer, deed):
    x = input_of(layer)
    expected = layer.eval()(x)
    with pytest.raises(ValueError, match=REMEDY):
        deed(layer)
    assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("deed", [
    weight_norm,
    nn.utils.spectral_norm,
    parametrizations.weight_norm,
    parametrizations.spectral_norm,
    lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
], ids=["weight_norm", "spectral_norm", "weight_norm of parametrizations", "spectral_norm of parametrizations",
        "pruning"])
@pytest.mark.filterwarnings("ignore")
def test_with_the_plain_weight_kept_it_works(deed):
    """As on the convolution that computes the same; what is kept of the weight is trained."""
    torch.manual_seed(0)
    layer = FDConv(20, 24, 3, convert_param=False).eval()
    plain = nn.Conv2d(20, 24, 3).eval()
    plain.load_state_dict({key: layer.state_dict()[key] for key in ("weight", "bias")})
    for each in (layer, plain):
        torch.manual_seed(1)
        deed(each)
    x = torch.randn(2, 20, 6, 7)
    assert torch.allclose(layer(x), plain(x), atol=1e-4)
    layer.train()(x).square().sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


def test_a_normalisation_is_not_fused_into_a_plain_weight_either():
    layer = FDConv(20, 24, 3, convert_param=False).eval()
    with pytest.raises(ValueError, match="FDConv's weight is set by weight.data.copy_.* fusing a normalisation"):
        fusion.fuse_conv_bn_eval(layer, nn.BatchNorm2d(24).eval())


def test_copies_are_their_own(layer):
    other = copy.deepcopy(layer)
    nn.init.zeros_(other.weight)
    assert not other.static_weight().any() and layer.static_weight().any()

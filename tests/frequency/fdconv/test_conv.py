"""FDConv against a plainly written definition and the plain convolution it starts as."""
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from freqdino.analysis.benchmarks.fdconv import plain_fdconv
from freqdino.frequency.fdconv import conv as fdconv_module
from freqdino.frequency.fdconv.conv import FDConv
from freqdino.ops import blocking


def randomised(layer, seed=0, spread=0.3):
    """Every parameter moved away from the neutral start, which would hide most errors."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_((noise * spread).to(parameter.dtype))
    return layer


@pytest.fixture(params=[0, 10**9], ids=["product", "convolution"])
def both_ways(request, monkeypatch):
    """Whatever the map's size: as a matrix product, and as a convolution."""
    monkeypatch.setattr(fdconv_module, "SMALL_MAP", request.param)


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("arguments, size", [
    (dict(out_channels=24, kernel_size=3, padding=1), (9, 12)),
    (dict(out_channels=24, kernel_size=(1, 3), padding="same", dilation=3), (2, 2)),
    (dict(out_channels=18, kernel_size=(1, 3), padding=(0, 1), stride=(1, 2)), (7, 5)),
    (dict(out_channels=35, kernel_size=(3, 1), dilation=2, bias=False), (11, 1)),
    (dict(out_channels=40, kernel_size=1, stride=2), (3, 3)),
    (dict(out_channels=24, kernel_size=3, padding=1, padding_mode="reflect", param_ratio=3), (5, 8)),
    (dict(out_channels=19, kernel_size=3, padding=1, kernel_num=7), (70, 67)),
    (dict(out_channels=19, kernel_size=3, fbm_cfg=dict(spatial_group=3, lowfreq_att=True, act="tanh")), (8, 9)),
])
def test_equals_its_definition(arguments, size):
    """Odd Ci·k (21 channels), one and several images."""
    layer = randomised(FDConv(21, **{"kernel_num": 5, **arguments}).double().eval())
    x = torch.randn(2, 21, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = plain_fdconv(layer, x)
    assert torch.allclose(layer(x), expected, rtol=1e-9, atol=1e-10)
    assert torch.allclose(layer(x[:1]), expected[:1], rtol=1e-9, atol=1e-10)


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
def test_images_at_once_equal_images_one_by_one(padding_mode, monkeypatch):
    monkeypatch.setitem(blocking.BUDGET, "cpu", 1)
    layer = randomised(FDConv(18, 36, 3, padding=1, padding_mode=padding_mode, groups=2, kernel_num=3).double().eval())
    for size in ((2, 3), (20, 21)):
        x = torch.randn(3, 18, *size, dtype=torch.float64)
        pooled = x.mean((2, 3))
        at_once = layer.respond(x, pooled, layer.KSM_Global(pooled[..., None, None]))
        with torch.no_grad():
            one_by_one = layer(x)
        assert torch.allclose(at_once, one_by_one, rtol=1e-9, atol=1e-10)


def test_small_maps_are_multiplied(monkeypatch):
    """A weight of 36/2 rows for each convolution group: up to 4 pixels."""
    layer = randomised(FDConv(18, 36, 3, padding=1, groups=2))
    monkeypatch.setattr(layer, "convolve", lambda x, weight: "convolved")
    pooled = torch.zeros(1, 18)
    logits = layer.KSM_Global(pooled[..., None, None])
    assert layer.respond(torch.zeros(1, 18, 2, 2), pooled, logits).shape == (1, 36, 2, 2)
    assert layer.respond(torch.zeros(1, 18, 1, 5), pooled, logits) == "convolved"


def test_tanh_and_softmax_factors():
    """One image, 1 × 1 kernel, softmax over groups that all carry the same logit but one."""
    layer = FDConv(17, 17, 1, kernel_num=2, ksm_global_act="tanh", ksm_kernel_act="softmax", ksm_local_act="tanh",
                   temp=2.0, kernel_temp=0.5).eval()
    with torch.no_grad():
        layer.KSM_Global.channel_fc.bias.fill_(0.6)
        layer.KSM_Global.filter_fc.bias.fill_(-0.4)
        layer.KSM_Global.kernel_fc.bias.copy_(torch.tensor([1.0, 0.0]))
    first = 1 / (1 + math.exp(-2.0))
    low, high = (layer.group_map == 0), (layer.group_map == 1)
    spectrum = torch.fft.rfft2(layer.static_weight()[:, :, 0, 0].detach())
    weight = torch.fft.irfft2(spectrum * 2 * (first * low + (1 - first) * high), s=(17, 17))
    weight = weight * (1 + math.tanh(0.3)) * (1 + math.tanh(-0.2))
    x = torch.randn(1, 17, 6, 5)
    assert torch.allclose(layer(x), F.conv2d(x, weight[..., None, None], layer.bias), atol=1e-4)


@pytest.mark.parametrize("groups", [2, 18])
def test_convolution_groups_read_their_own_channels(groups):
    layer = randomised(FDConv(18, 36 if groups == 2 else 18, 3, padding=1, groups=groups, kernel_num=3).double().eval())
    assert (layer.KSM_Global.filter_fc is None) == (groups == 18)
    x = torch.randn(1, 18, 6, 5, dtype=torch.float64)
    pooled = x.mean((2, 3))
    logits = layer.KSM_Global(pooled[..., None, None]).detach()
    channels, filters, positions, _ = layer.KSM_Global.counts()
    logits[:, :channels + filters] = 0      # factors of one
    weight = layer.image_weights(pooled, logits, x.dtype)[0]
    spatial = 2 * logits[0, channels + filters:][:positions].sigmoid().view(3, 3)
    # The local factor of output o and input i is that of the dense convolution, i counted over all channels.
    width = layer.KSM_Local.conv.kernel_size[0]
    local = F.conv1d(layer.KSM_Local.norm(pooled)[:, None], layer.KSM_Local.conv.weight, padding=width // 2)[0]
    local = 2 * local.sigmoid().view(layer.out_channels, 9, 18)
    per_group, outputs = 18 // groups, layer.out_channels // groups
    logits[:, :channels + filters + positions] = 0
    with torch.no_grad():
        layer.KSM_Local.conv.weight.zero_()
        without_local = layer.image_weights(pooled, logits, x.dtype)[0]
    for o in range(layer.out_channels):
        first = o // outputs * per_group
        expected = local[o, :, first:first + per_group].t().reshape(per_group, 3, 3)
        expected = without_local[o] * expected * spatial
        assert torch.allclose(weight[o], expected, rtol=1e-9, atol=1e-12)
    assert layer(x).shape == (1, layer.out_channels, 6, 5)


@pytest.mark.parametrize("in_channels, out_channels, kernel_size", [(16, 64, 3), (64, 16, 1), (32, 32, 5),
                                                                    (32, 32, (3, 7))])
def test_inactive_is_the_plain_convolution(in_channels, out_channels, kernel_size):
    plain = nn.Conv2d(in_channels, out_channels, kernel_size, padding="same")
    layer = FDConv(in_channels, out_channels, kernel_size, padding="same", kernel_num=64)
    assert list(layer.state_dict()) == ["weight", "bias"]
    layer.load_state_dict(plain.state_dict())
    x = torch.randn(2, in_channels, 9, 8)
    assert torch.equal(layer(x), plain(x))
    assert not FDConv(32, 32, 3, use_fdconv_if_c_gt=32).active and FDConv(33, 33, 3, use_fdconv_if_c_gt=32).active


@pytest.mark.parametrize("arguments", [dict(kernel_size=3, padding="same"), dict(kernel_size=1, stride=2, bias=False),
                                       dict(kernel_size=(1, 3), groups=4), dict(kernel_size=3, att_multi=3.0),
                                       dict(kernel_size=3, param_ratio=2), dict(kernel_size=3, convert_param=False),
                                       dict(kernel_size=3, dilation=2, padding=2, padding_mode="replicate")])
@pytest.mark.parametrize("training", [True, False])
def test_a_plain_state_dict_loads_and_the_function_stays(arguments, training):
    layer = randomised(FDConv(20, 36, kernel_num=6, **arguments)).train(training)
    options = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode", "bias")
    plain = nn.Conv2d(20, 36, **{key: value for key, value in arguments.items() if key in options})
    layer.load_state_dict(plain.state_dict())
    x = torch.randn(2, 20, 9, 7)
    assert torch.allclose(layer(x), plain(x), atol=1e-4)
    assert torch.allclose(layer.static_weight(), plain.weight, atol=1e-6)
    assert ("weight" in layer.state_dict()) == (not arguments.get("convert_param", True))


def test_loading_is_strict_otherwise():
    layer, other = randomised(FDConv(20, 36, 3)), randomised(FDConv(20, 36, 3), seed=1)
    state = layer.state_dict()
    other.load_state_dict(state)
    assert all(torch.equal(value, state[key]) for key, value in other.state_dict().items())

    with pytest.raises(RuntimeError, match="Missing.*dft_weight"):
        layer.load_state_dict({key: value for key, value in state.items() if key != "dft_weight"})
    with pytest.raises(RuntimeError, match="Missing.*KSM_Local.norm.bias"):
        layer.load_state_dict({key: value for key, value in state.items() if key != "KSM_Local.norm.bias"})
    with pytest.raises(RuntimeError, match="Unexpected.*extra"):
        layer.load_state_dict({**state, "extra": torch.zeros(1)})
    with pytest.raises(RuntimeError, match=r"size mismatch for weight.*\(36, 20, 1, 1\).*\(36, 20, 3, 3\)"):
        layer.load_state_dict(nn.Conv2d(20, 36, 1).state_dict())

    # A plain weight beside a trained modulation: only the weight is converted.
    weight = torch.randn(36, 20, 3, 3)
    state.pop("dft_weight")
    layer.load_state_dict({**state, "weight": weight})
    assert torch.allclose(layer.static_weight(), weight, atol=1e-5)
    assert torch.equal(layer.KSM_Global.fc.weight, other.KSM_Global.fc.weight)


def test_a_plain_checkpoint_loads_inside_a_model():
    plain = nn.Sequential(nn.Conv2d(20, 24, 3), nn.BatchNorm2d(24), nn.Conv2d(24, 24, 1))
    dynamic = nn.Sequential(FDConv(20, 24, 3), nn.BatchNorm2d(24), FDConv(24, 24, 1))
    state = plain.state_dict()
    keys = list(state)
    dynamic.load_state_dict(state)
    assert list(state) == keys
    x = torch.randn(2, 20, 6, 6)
    assert torch.allclose(dynamic.eval()(x), plain.eval()(x), atol=1e-4)


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("arguments", [dict(kernel_size=3, padding=1), dict(kernel_size=1, bias=False),
                                       dict(kernel_size=(3, 1), ksm_local_act="tanh", param_ratio=2)])
def test_gradcheck(arguments):
    layer = randomised(FDConv(3, 4, kernel_num=5, use_fdconv_if_c_gt=0, **arguments).double().eval())
    names, values = zip(*layer.named_parameters())
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)

    def run(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values)), x)

    assert torch.autograd.gradcheck(run, (x, *values), fast_mode=True)


def test_one_image_in_training_uses_running_statistics():
    layer = randomised(FDConv(20, 24, 3, padding=1))
    layer(torch.randn(4, 20, 6, 6))
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    x = torch.randn(1, 20, 6, 6)
    y = layer.train()(x)
    y.sum().backward()
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())
    assert torch.equal(y, layer.eval()(x))
    assert all(parameter.grad is not None for parameter in layer.parameters())


def test_cached_sizes_serve_training_after_inference_mode():
    layer = FDConv(20, 20, 3, padding=1)
    x = torch.randn(2, 20, 23, 31)
    with torch.inference_mode():
        layer(x)
    layer(x).sum().backward()
    assert layer.dft_weight.grad is not None


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("batch", [1, 2])
def test_without_gradients_the_output_is_the_same(batch, memory_format):
    layer = randomised(FDConv(24, 20, 3, padding=1)).eval()
    x = torch.randn(batch, 24, 200, 210).to(memory_format=memory_format)  # several pieces for the band modulation
    with torch.no_grad():
        y = layer(x)
    assert torch.allclose(y, layer(x).detach(), rtol=1e-4, atol=1e-3)
    assert memory_format == torch.channels_last or y.is_contiguous()


def test_norm_and_activation_follow_the_convolution():
    layer = FDConv(20, 24, 3, norm=nn.BatchNorm2d(24), activation=F.relu).eval()
    assert "norm.weight" in layer.state_dict()
    with torch.no_grad():
        layer.norm.bias.fill_(0.5)
    x = torch.randn(2, 20, 6, 6)
    expected = F.conv2d(x, layer.static_weight(), layer.bias) / math.sqrt(1 + layer.norm.eps) + 0.5
    assert torch.allclose(layer(x), expected.relu(), atol=1e-4)

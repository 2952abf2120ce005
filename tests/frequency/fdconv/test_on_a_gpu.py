"""What FDConv computes on a GPU, by batch and in few operators, is what a CPU computes: result and all gradients."""
import copy

import pytest
import torch

from freqdino.frequency.fdconv import conv as fdconv_module
from freqdino.frequency.fdconv import low_pass as low_pass_module
from freqdino.frequency.fdconv.conv import FDConv
from freqdino.frequency.fdconv.linear import FDLinear
from freqdino.frequency.fdconv.low_pass import low_pass_box, masks, separable
from helpers.modules import randomised
from helpers.pretended_gpu import PretendedGPU, backward


def value_and_gradients(layer, x, cotangent, run=torch.Tensor.backward):
    x = x.detach().requires_grad_()
    y = layer(x)
    run(y, cotangent)
    return [y.detach(), x.grad, *(parameter.grad for parameter in layer.parameters())]


def check_as_on_a_cpu(layer, x):
    layer = randomised(layer.double())
    with torch.no_grad():
        cotangent = torch.randn_like(layer(x))
    on_cpu = copy.deepcopy(layer)
    expected = value_and_gradients(on_cpu, x, cotangent)
    with PretendedGPU():
        got = value_and_gradients(layer.cuda(), x.cuda(), cotangent.cuda(), backward)
        got = [value.cpu() for value in got]
        with torch.no_grad():
            got.append(layer.eval()(x.cuda()).cpu())
    expected.append(on_cpu.eval()(x).detach())
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("largest_product", [0, 10**9], ids=["transforms", "products"])
@pytest.mark.parametrize("arguments, size", [
    (dict(out_channels=20, kernel_size=1, bias=False), (3, 4)),
    (dict(out_channels=24, kernel_size=3, padding=1), (9, 12)),
    (dict(out_channels=24, kernel_size=(1, 3), stride=2, param_ratio=2, use_ksm_local=False), (8, 5)),
    (dict(out_channels=19, kernel_size=3, att_multi=3.0, temp=0.5, fbm_cfg=dict(lowfreq_att=True, act="tanh")), (7, 6)),
    (dict(out_channels=21, kernel_size=3, groups=3, fbm_cfg=dict(spatial_group=3)), (5, 8)),
    (dict(out_channels=21, kernel_size=3, padding=1, ksm_global_act="tanh", ksm_kernel_act="softmax",
          ksm_local_act="tanh", kernel_temp=2.0, param_ratio=2), (1, 9)),
])
def test_a_convolution(arguments, size, largest_product, monkeypatch):
    monkeypatch.setattr(fdconv_module, "SMALL_MAP", 10**9)
    monkeypatch.setattr(low_pass_module, "LARGEST_PRODUCT", largest_product)
    check_as_on_a_cpu(FDConv(21, kernel_num=5, **arguments), torch.randn(3, 21, *size, dtype=torch.float64))


def test_a_depthwise_convolution_and_a_product_on_a_small_map():
    check_as_on_a_cpu(FDConv(18, 18, 3, groups=18, kernel_num=3), torch.randn(2, 18, 7, 6, dtype=torch.float64))
    check_as_on_a_cpu(FDConv(18, 40, 3, padding=1), torch.randn(2, 18, 3, 3, dtype=torch.float64))
    check_as_on_a_cpu(FDLinear(18, 40), torch.randn(2, 7, 18, dtype=torch.float64))


@pytest.mark.parametrize("amp", [torch.float16, torch.bfloat16])
def test_transforms_stay_in_float32_under_autocast(amp):
    """At float16's digits the bands of ones and minus ones would be off by 1e-3."""
    layer = FDConv(18, 20, 3, padding=1)
    x = torch.randn(2, 18, 12, 13).sign()
    with torch.no_grad():
        for conv in layer.FBM.freq_weight_conv_list:    # maps without rounding
            conv.weight.zero_()
            conv.bias.fill_(50)     # twice each band, the rest once
        expected = layer.FBM(x)
        assert not torch.equal(expected, 2 * x)
        with PretendedGPU(), torch.autocast("cuda", amp):
            got = layer.cuda().FBM(x.cuda()).cpu()
            assert layer(x.cuda()).dtype == amp
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("size", [(64, 64), (33, 47), (100, 100), (7, 5), (50, 84), (1, 9), (2, 2), (1, 1)])
def test_a_low_pass_is_two_real_products(size):
    """A x C − B x D of the cosines and sines written out, against what both forms hold."""
    height, width = size
    x = torch.randn(size, dtype=torch.float64)
    for k in (1, 2, 4, 8):
        box = low_pass_box(height, width, k)
        kept = [*range(box.top), *range(height - box.bottom, height)]
        rows, columns = (torch.arange(n, dtype=torch.float64)[:, None] for n in size)
        turn = 2 * torch.pi * (rows - rows.T) / height
        cosines, sines = (sum(f(turn * u) for u in kept) / height for f in (torch.cos, torch.sin))
        weights = [1 if v == 0 or 2 * v == width else 2 for v in range(box.left)]
        turn = 2 * torch.pi * (columns.T - columns) / width
        across = [sum(c * f(turn * v) for v, c in enumerate(weights)) / width for f in (torch.cos, torch.sin)]
        expected = cosines @ x @ across[0] - sines @ x @ across[1]
        left, right = separable(height, width, [box], x.dtype, x.device)
        products = left[0] @ (x @ right[0]).view(2 * height, width)
        torch.testing.assert_close(products, expected, rtol=0, atol=1e-12)
        mask = masks(height, width, (box,), x.dtype, x.device)[0, 0]
        transforms = torch.fft.irfft2(torch.fft.rfft2(x) * mask, s=size)
        torch.testing.assert_close(products, transforms, rtol=0, atol=1e-12)

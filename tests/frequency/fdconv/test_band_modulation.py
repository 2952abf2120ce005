"""Frequency Band Modulation: which frequencies pass, and what the bands add up to."""
import pytest
import torch
import torch.nn.functional as F

from freqdino.frequency.fdconv.band_modulation import FrequencyBandModulation
from freqdino.frequency.fdconv.low_pass import low_pass, low_pass_box


@pytest.mark.parametrize("k", [1, 2, 3, 4, 8, 100])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 4), (25, 42), (50, 84), (64, 64), (97, 61), (200, 336), (7, 500)])
def test_the_box_is_the_resized_mask_bit_for_bit(size, k):
    height, width = size
    radius = torch.maximum(torch.fft.fftfreq(64).abs()[:, None], torch.fft.rfftfreq(64).abs())
    mask = F.interpolate((radius < 0.5 / k + 1e-8).float()[None, None], size=(height, width // 2 + 1))[0, 0].bool()
    box = low_pass_box(height, width, k)
    kept = torch.zeros_like(mask)
    kept[:box.top, :box.left] = True
    if box.bottom:
        kept[-box.bottom:, :box.left] = True
    assert torch.equal(kept, mask)

    x = torch.randn(2, *size, dtype=torch.float64)
    expected = torch.fft.irfft2(torch.fft.rfft2(x) * mask, s=size)
    columns = torch.fft.fft(torch.fft.rfft(x)[..., :box.left + 1], dim=-2)
    assert torch.allclose(low_pass(columns, width, box), expected, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 20, 1, 1), (1, 20, 2, 9), (2, 20, 33, 17)])
def test_starts_as_the_identity(shape):
    x = torch.randn(shape)
    assert torch.allclose(FrequencyBandModulation(20, lowfreq_att=True)(x), x, atol=1e-4)


def test_a_band_alone():
    """With the weight of all but one band at zero, a cosine in that band passes and one outside it does not."""
    bands = FrequencyBandModulation(1, k_list=(2, 4), lowfreq_att=True)
    with torch.no_grad():
        for conv, bias in zip(bands.freq_weight_conv_list, (-50.0, 50.0, -50.0)):
            conv.bias.fill_(bias)
    time = torch.arange(64) / 64 * 2 * torch.pi
    inside, above, below = (torch.cos(time * cycles).repeat(1, 1, 64, 1) for cycles in (12, 20, 4))
    assert torch.allclose(bands(inside), 2 * inside, atol=1e-4)
    assert bands(above).abs().max() < 1e-4 and bands(below).abs().max() < 1e-4


def test_gradcheck():
    bands = FrequencyBandModulation(2, spatial_group=2).double()
    with torch.no_grad():
        for parameter in bands.parameters():
            parameter.normal_()
    names, values = zip(*bands.named_parameters())
    x = torch.randn(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, *values: torch.func.functional_call(bands, dict(zip(names, values)), x), (x, *values))


def test_compiled_for_open_sizes():
    """torch.compile keeps the sizes open; which frequencies pass hangs on their rounding."""
    bands = FrequencyBandModulation(4, lowfreq_att=True)
    with torch.no_grad():
        for parameter in bands.parameters():
            parameter.normal_(std=0.5)
    torch._dynamo.reset()
    compiled = torch.compile(bands, backend="eager", fullgraph=True, dynamic=True)
    for size in ((48, 56), (47, 49), (7, 50)):
        x = torch.randn(2, 4, *size)
        assert torch.allclose(compiled(x), bands(x), atol=1e-5), size

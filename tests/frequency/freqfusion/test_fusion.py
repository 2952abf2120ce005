"""FreqFusion against its definition written out slowly; sizes, memory, parameters."""
import math

import pytest
import torch
from torch.nn import functional as F

from freqdino.frequency import FreqFusion
from helpers.golden import assert_agrees
from helpers.modules import count

OUTPUTS = ("lowpass_mask", "hr", "lr")
IN_MASK2FORMER = dict(feature_resample=True, hamming_window=False, feature_resample_norm=False)


def randomised(*channels, **arguments):
    """A module whose every parameter matters: the initial encoders are so small that all filters are alike."""
    fusion = FreqFusion(*channels, **arguments)
    for parameter in fusion.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return fusion


# ---------------------------------------------------------------- the definition, a Python loop over taps
def slow_filters(logits, groups, size, hamming):
    taps = logits.unflatten(1, (groups, size * size)).exp()
    if hamming:
        line = torch.tensor([0.54 - 0.46 * math.cos(2 * math.pi * i / (size - 1)) for i in range(size)]).to(logits)
        taps = taps * torch.outer(line, line).flatten().view(-1, 1, 1)
    return taps / taps.sum(dim=2, keepdim=True)


def slow_reassembly(x, filters, up):
    """filters: (B, G, k², Y, X); the result has their size."""
    rows, columns = filters.shape[-2:]
    groups, size = filters.shape[1], math.isqrt(filters.shape[2])
    padded = F.pad(x, [size // 2] * 4)
    result = 0
    for i in range(size):
        for j in range(size):
            tap = padded[..., i:i + x.shape[2], j:j + x.shape[3]]
            tap = tap.repeat_interleave(up, 2).repeat_interleave(up, 3)[..., :rows, :columns]
            result = result + tap.unflatten(1, (groups, -1)) * filters[:, :, i * size + j, None]
    return result.flatten(1, 2)


def slow_fusion(fusion, hr, lr, *, hamming=True, groups=1):
    """Steps 1 to 4 of the published default path and its variants, without the offset generator."""
    rows, columns = hr.shape[2:]
    lr = lr[:, :, torch.arange((rows + 1) // 2).clamp(max=lr.shape[2] - 1)]
    lr = lr[..., torch.arange((columns + 1) // 2).clamp(max=lr.shape[3] - 1)]

    def low(logits):
        return slow_filters(logits, groups, fusion.lowpass_kernel, hamming)

    def high(logits):
        return slow_filters(logits, groups, fusion.highpass_kernel, hamming)

    def twice(x):
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)[..., :rows, :columns]

    encode, encode2 = fusion.content_encoder, fusion.content_encoder2
    h, l = fusion.hr_channel_compressor(hr), fusion.lr_channel_compressor(lr)
    if not fusion.semi_conv:
        low_logits = encode(twice(l) + h)
        high_logits = encode2(twice(l) + h) if encode2 else None
    elif not fusion.comp_feat_upsample:
        low_logits = encode(h) + twice(encode(l))
        high_logits = encode2(h) + twice(encode2(l)) if encode2 else None
    else:
        high_of_h = encode2(h)
        h = 2 * h - slow_reassembly(h, high(high_of_h), 1)
        low_of_h = encode(h)
        low_logits = low_of_h + slow_reassembly(encode(l), low(low_of_h), 2)
        high_logits = high_of_h + slow_reassembly(encode2(l), low(low_logits), 2)
    if fusion.semi_conv:
        lr_out = slow_reassembly(lr, low(low_logits), 2)
    else:
        resized = F.interpolate(lr, scale_factor=2, mode=fusion.upsample_mode,
                                align_corners=fusion.align_corners if fusion.upsample_mode != "nearest" else None)
        lr_out = slow_reassembly(resized[..., :rows, :columns], low(low_logits), 1)
    if encode2:
        hr = (2 if fusion.hr_residual else 1) * hr - slow_reassembly(hr, high(high_logits), 1)
    return low(low_logits).flatten(1, 2), hr, lr_out


# ---------------------------------------------------------------- numbers
@pytest.mark.parametrize("arguments", [
    {},
    dict(lowpass_kernel=3, highpass_kernel=5, encoder_kernel=1, hr_residual=False),
    dict(hamming_window=False, encoder_kernel=5, encoder_dilation=2),
    dict(comp_feat_upsample=False),
    dict(comp_feat_upsample=False, use_high_pass=False),
    dict(semi_conv=False),
    dict(semi_conv=False, use_high_pass=False, upsample_mode="bilinear"),
    dict(semi_conv=False, upsample_mode="bicubic", align_corners=True),
    dict(up_group=2),
    dict(up_group=2, comp_feat_upsample=False),
    dict(up_group=2, semi_conv=False, hamming_window=False),
], ids=str)
@pytest.mark.parametrize("size", [(6, 8), (5, 9), (7, 7)], ids=str)
def test_definition(arguments, size):
    fusion = randomised(4, 6, compressed_channels=8, **arguments).double()
    hr, lr = torch.randn(2, 4, *size).double(), torch.randn(2, 6, 3, 4).double()
    expected = slow_fusion(fusion, hr, lr, hamming=arguments.get("hamming_window", True),
                           groups=arguments.get("up_group", 1))
    with torch.no_grad():
        for name, output, value in zip(OUTPUTS, fusion(hr, lr), expected, strict=True):
            # The buffers hold the window in float32.
            assert_agrees(output, value, name, relative=1e-6)


def test_without_high_pass_the_map_returns_as_it_is():
    hr = torch.randn(1, 4, 4, 4)
    assert torch.equal(FreqFusion(4, 4, use_high_pass=False, semi_conv=False)(hr, torch.randn(1, 4, 2, 2))[1], hr)


def test_new_module_smooths_evenly():
    """With logits of zero the filters are the window: constants stay, away from the border, and have no detail."""
    fusion = FreqFusion(4, 4, hamming_window=False)
    for encoder in (fusion.content_encoder, fusion.content_encoder2):
        torch.nn.init.zeros_(encoder.weight)
    filters, hr, lr = fusion(torch.full((1, 4, 12, 12), 3.0), torch.full((1, 4, 6, 6), 5.0))
    torch.testing.assert_close(filters, torch.full((1, 25, 12, 12), 1 / 25))
    torch.testing.assert_close(hr[..., 1:-1, 1:-1], torch.full((1, 4, 10, 10), 3.0))
    torch.testing.assert_close(lr[..., 4:-4, 4:-4], torch.full((1, 4, 4, 4), 5.0))
    # 9 of the 25 taps of the corner lie on the map.
    torch.testing.assert_close(lr[..., 0, 0], torch.full((1, 4), 5.0 * 9 / 25))


@pytest.mark.parametrize("arguments", [{}, dict(feature_resample=True, feature_resample_group=1),
                                       dict(up_group=2, **IN_MASK2FORMER | dict(feature_resample_group=2))], ids=str)
def test_gradients(arguments):
    fusion = randomised(2, 2, compressed_channels=8, **arguments).double()
    hr, lr = torch.randn(1, 2, 5, 6).double(), torch.randn(1, 2, 3, 3).double()
    assert torch.autograd.gradcheck(fusion, (hr.requires_grad_(), lr.requires_grad_()), fast_mode=True)


# ---------------------------------------------------------------- sizes, types, memory
@pytest.mark.parametrize("rows", [9, 10, 11])
@pytest.mark.parametrize("columns", [1, 2, 3])
@pytest.mark.parametrize("arguments", [IN_MASK2FORMER, dict(semi_conv=False, feature_resample=True)], ids=str)
def test_sizes_that_are_one_off(rows, columns, arguments):
    fusion = FreqFusion(8, 4, compressed_channels=8, **arguments)
    outputs = fusion(torch.randn(1, 8, rows, columns), torch.randn(1, 4, 5, 1))
    assert [tuple(output.shape) for output in outputs] == [(1, c, rows, columns) for c in (25, 8, 4)]
    assert all(output.isfinite().all() for output in outputs)


def test_a_missing_row_and_column_are_repeated():
    fusion = randomised(4, 4, compressed_channels=8, **IN_MASK2FORMER)
    hr, lr = torch.randn(1, 4, 7, 9), torch.randn(1, 4, 3, 4)
    repeated = F.pad(lr, (0, 1, 0, 1), mode="replicate")
    torch.testing.assert_close(fusion(hr, lr), fusion(hr, repeated))


def test_checkpoint_gives_the_same_and_keeps_less():
    arguments = dict(compressed_channels=8, **IN_MASK2FORMER)
    plain, saving = FreqFusion(8, 8, **arguments), FreqFusion(8, 8, checkpoint=True, **arguments)
    saving.load_state_dict(plain.state_dict())
    hr, lr = torch.randn(1, 8, 8, 12), torch.randn(1, 8, 4, 6)
    results, kept = [], []
    for fusion in (plain, saving):
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
            outputs = fusion(hr, lr)
        kept.append(sum(saved))
        gradients = torch.autograd.grad(sum(output.square().sum() for output in outputs), list(fusion.parameters()))
        results.append((*outputs, *gradients))
    torch.testing.assert_close(*results)
    assert kept[1] < 0.2 * kept[0]


@pytest.mark.gpu
@pytest.mark.parametrize("size", [(16, 24), (15, 25)], ids=str)
def test_cuda_agrees_with_the_cpu(size):
    fusion = randomised(16, 16, compressed_channels=8, **IN_MASK2FORMER)
    hr, lr = torch.randn(2, 16, *size), torch.randn(2, 16, 8, 12)
    expected = fusion(hr, lr)
    for output, value in zip(fusion.cuda()(hr.cuda(), lr.cuda()), expected, strict=True):
        assert_agrees(output.cpu(), value, "output")


# ---------------------------------------------------------------- parameters
def test_keys_and_shapes_of_the_published_checkpoints():
    """A unit of the published Mask2Former with FreqFusion."""
    fusion = FreqFusion(256, 256, compressed_channels=64, **IN_MASK2FORMER)
    expected = {"hamming_lowpass": (1,), "hamming_highpass": (1,), "dysampler.init_pos": (1, 32, 1, 1)}
    for key, shape in {"hr_channel_compressor": (64, 256, 1, 1), "lr_channel_compressor": (64, 256, 1, 1),
                       "content_encoder": (25, 64, 3, 3), "content_encoder2": (9, 64, 3, 3),
                       "dysampler.offset": (32, 72, 3, 3), "dysampler.direct_scale": (32, 72, 3, 3),
                       "dysampler.hr_offset": (8, 72, 3, 3), "dysampler.hr_direct_scale": (8, 72, 3, 3)}.items():
        expected |= {f"{key}.weight": shape, f"{key}.bias": shape[:1]}
    assert {key: tuple(value.shape) for key, value in fusion.state_dict().items()} == expected
    assert count(fusion) == 104_434


def test_initialisation():
    fusion = FreqFusion(32, 32, feature_resample=True)
    for key, layer in fusion.named_modules():
        if isinstance(layer, torch.nn.Conv2d):
            assert layer.bias.eq(0).all()
            area = layer.kernel_size[0] * layer.kernel_size[1]
            bound = math.sqrt(6 / (area * (layer.in_channels + layer.out_channels)))
            if key in ("content_encoder", "content_encoder2"):
                assert layer.weight.std().item() == pytest.approx(0.001, rel=0.1)
            else:
                assert 0.9 * bound < layer.weight.abs().max() <= bound
                assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)

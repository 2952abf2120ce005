"""FreqFusion: arguments and maps that it refuses, and arguments that have no effect."""
import pytest
import torch

from freqdino.frequency import FreqFusion
from helpers.refusals import refuses

test_bad_arguments = refuses(lambda arguments: FreqFusion(8, 8, **arguments), [
    (dict(scale_factor=2), "scale_factor must be 1, got 2"),
    (dict(lowpass_kernel=4), "lowpass_kernel must be odd and positive, got 4"),
    (dict(highpass_kernel=0), "highpass_kernel must be odd and positive, got 0"),
    (dict(encoder_kernel=2), "encoder_kernel must be odd and positive, got 2"),
    (dict(encoder_dilation=1.5), "encoder_dilation must be an integer, got 1.5"),
    (dict(lowpass_kernel=3.0), "lowpass_kernel must be odd and positive, got 3.0"),
    (dict(up_group=2.0), "up_group must be an integer, got 2.0"),
    (dict(feature_resample=True, feature_resample_group=0), "feature_resample_group must be at least 1, got 0"),
    (dict(encoder_dilation=0), "encoder_dilation must be at least 1, got 0"),
    (dict(compressed_channels=0), "compressed_channels must be at least 1, got 0"),
    (dict(up_group=3), "up_group 3, hr_channels 8"),
    (dict(up_group=0), "up_group must be at least 1, got 0"),
    (dict(up_group=4, compressed_channels=6), "up_group 4, compressed_channels 6"),
    (dict(feature_resample=True, feature_resample_group=3), "feature_resample_group 3, lr_channels 8"),
    (dict(feature_resample=True, compressed_channels=4), "got 4 channels and 0 groups"),
    (dict(upsample_mode="area"), "one of nearest, bilinear, bicubic, got 'area'"),
    (dict(use_high_pass=False),
     "use_high_pass is False, which with semi_conv=True and comp_feat_upsample=True is undefined"),
])


test_bad_maps = refuses(lambda hr, lr: FreqFusion(8, 6)(torch.rand(hr), torch.rand(lr)), [
    ((1, 7, 8, 8), (1, 6, 4, 4), "hr_feat must have 8 channels, got 7"),
    ((1, 8, 8, 8), (1, 8, 4, 4), "lr_feat must have 6 channels, got 8"),
    ((8, 8, 8), (1, 6, 4, 4), r"hr_feat must have 4 dimensions \(B, C, H, W\), got 3: \(8, 8, 8\)"),
    ((1, 8, 8, 8), (6, 4, 4), "lr_feat must have 4 dimensions"),
    ((2, 8, 8, 8), (1, 6, 4, 4), "batch size, got 2 and 1"),
    ((1, 8, 4, 4), (1, 6, 8, 8), r"got \(4, 4\) and \(8, 8\)"),
    ((1, 8, 8, 8), (1, 6, 8, 8), r"got \(8, 8\) and \(8, 8\)"),
    ((1, 8, 8, 10), (1, 6, 4, 4), r"got \(8, 10\) and \(4, 4\)"),
    ((1, 8, 6, 8), (1, 6, 4, 4), r"got \(6, 8\) and \(4, 4\)"),
    ((1, 8, 0, 8), (1, 6, 0, 4), r"got \(0, 8\) and \(0, 4\)"),
])


@pytest.mark.parametrize("arguments, name", [
    (dict(use_low_pass=False), "use_low_pass"),
    (dict(align_corners=True), "align_corners"),
    (dict(semi_conv=False, align_corners=True), "align_corners"),
    (dict(upsample_mode="bilinear"), "upsample_mode"),
    (dict(semi_conv=False, use_high_pass=False, hr_residual=False), "hr_residual"),
    (dict(feature_resample_group=2), "feature_resample_group"),
])
def test_what_computes_nothing_is_said_once(arguments, name):
    with pytest.warns(UserWarning, match=f"FreqFusion: {name} set, but without effect") as warned:
        FreqFusion(8, 8, **arguments)
    assert len(warned) == 1


def test_what_computes_something_is_not_warned_of(recwarn):
    FreqFusion(8, 8, semi_conv=False, upsample_mode="bilinear", align_corners=True)
    FreqFusion(8, 8, feature_resample=True, feature_resample_group=2, hr_residual=False)
    assert not recwarn.list

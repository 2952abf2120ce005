"""FreqFusionSum: the sum of FreqFusion's two maps under FreqFusion's keys."""
import pytest
import torch

from freqdino.frequency.freqfusion.fusion import FreqFusion, FreqFusionSum


@pytest.mark.parametrize("size", [(8, 6), (7, 6), (9, 5)])
def test_sum_of_both_maps(size):
    torch.manual_seed(0)
    options = {"compressed_channels": 8, "feature_resample": True, "feature_resample_norm": False}
    fuse, reference = FreqFusionSum(16, 16, **options), FreqFusion(16, 16, **options)
    reference.load_state_dict(fuse.state_dict(), strict=True)
    hr, lr = torch.randn(2, 16, *size), torch.randn(2, 16, 4, 3)
    _, sharpened, upsampled = reference(hr, lr)
    assert torch.equal(fuse(hr, lr), sharpened + upsampled)


def test_maps_that_do_not_fit():
    with pytest.raises(ValueError, match=r"hr_feat must be twice the size of lr_feat.*\(8, 8\) and \(8, 8\)"):
        FreqFusionSum(16, 16)(torch.randn(1, 16, 8, 8), torch.randn(1, 16, 8, 8))

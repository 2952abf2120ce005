"""The benchmark's plainly written FreqFusion computes what the module does."""
import pytest
import torch

from freqdino.analysis.benchmarks.freqfusion import MASK2FORMER, plain_fusion, plain_similarity
from freqdino.frequency import FreqFusion


@pytest.mark.parametrize("size", [(2, 2), (4, 6), (7, 5)])
def test_plain_fusion_equals_the_module(size):
    fusion = FreqFusion(16, 16, **MASK2FORMER).double()
    for parameter in fusion.parameters():       # offsets and gates start near zero, which would hide them
        torch.nn.init.normal_(parameter, std=0.2)
    height, width = size
    hr = torch.randn(2, 16, 2 * height, 2 * width, dtype=torch.float64)
    lr = torch.randn(2, 16, height, width, dtype=torch.float64)
    for plain, module in zip(plain_fusion(fusion, hr, lr), fusion(hr, lr)):
        torch.testing.assert_close(plain, module, rtol=1e-9, atol=1e-9)


def test_similarities_of_a_map_by_hand():
    """Along a row of 1, 2, 3: the middle pixel has no neighbour at distance 2; the others have each other, cosine 1."""
    guide = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    similarity = plain_similarity(guide)[0, 1:]
    assert similarity[:, 0, 1].tolist() == [0] * 8
    # Neighbours row by row; left is number 3, right number 4.
    assert similarity[:, 0, 0].tolist() == pytest.approx([0, 0, 0, 0, 1, 0, 0, 0])
    assert similarity[:, 0, 2].tolist() == pytest.approx([0, 0, 0, 1, 0, 0, 0, 0])

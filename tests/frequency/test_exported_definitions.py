"""What the frequency modules compute by under torch.export, against what they compute by else."""
import pytest
import torch

from freqdino.frequency.fdconv.low_pass import GRID, kept_frequencies, low_pass_box, low_passes, low_passes_by_products
from freqdino.frequency.freqfusion.offset_generator import local_similarity, similarity_by_padding


@pytest.mark.parametrize("size", [(7, 5), (2, 9), (1, 1)])
def test_similarity_by_padding(size):
    x = torch.randn(2, 6, *size)
    unit = torch.nn.functional.normalize(x, dim=1, eps=1e-8).permute(0, 2, 3, 1)
    torch.testing.assert_close(similarity_by_padding(unit), local_similarity(x))


@pytest.mark.parametrize("k", [1, 2, 3, 4, 8])
def test_kept_frequencies_of_every_size(k):
    like = torch.zeros(1)
    for size in range(1, 400):
        box = low_pass_box(size, size, k)
        rows = kept_frequencies(like, GRID, size, k)
        columns = kept_frequencies(like, GRID // 2 + 1, size // 2 + 1, k)
        assert rows.tolist() == [1.0] * box.top + [0.0] * (size - box.top - box.bottom) + [1.0] * box.bottom
        assert columns.tolist() == [1.0] * box.left + [0.0] * (size // 2 + 1 - box.left)


@pytest.mark.parametrize("size", [(64, 64), (33, 47), (7, 5), (1, 9), (2, 2)])
def test_low_passes_by_products(size):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    boxes = [low_pass_box(*size, k) for k in (2, 4, 8)]
    for one, other in zip(low_passes_by_products(x, (2, 4, 8)), low_passes(x, boxes), strict=True):
        torch.testing.assert_close(one, other)

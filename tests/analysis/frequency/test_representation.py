"""Effective rank and similarity of tokens against closed forms."""
import math

import pytest
import torch

from freqdino.analysis.frequency import representation


@pytest.mark.parametrize("k", [1, 3, 8])
def test_rank_of_equal_singular_values(k):
    """U Vᵀ of k orthonormal columns has k singular values of 1."""
    generator = torch.Generator().manual_seed(k)
    u, v = (torch.linalg.qr(torch.randn(size, k, generator=generator))[0] for size in (20, 10))
    assert representation.effective_rank(2.5 * u @ v.mT) == pytest.approx(k, rel=1e-4)


def test_rank_of_unequal_singular_values():
    """σ = (¾, ¼): exp of the entropy of a biased coin."""
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert representation.effective_rank(torch.diag(torch.tensor([6.0, 2.0]))) == pytest.approx(expected)


def test_rank_of_zeros():
    assert math.isnan(representation.effective_rank(torch.zeros(4, 3)))


def test_similarity_of_known_sets():
    parallel = torch.tensor([[1.0, 2.0], [2.0, 4.0], [-3.0, -6.0]])     # |cos|: the sign does not count
    assert representation.pairwise_similarity(parallel, parallel) == pytest.approx(1)
    # Angles 0°, 60°, 90°: cosines ½, 0 and √3 / 2.
    angles = torch.tensor([0, math.pi / 3, math.pi / 2])
    fan = torch.stack((angles.cos(), angles.sin()), 1)
    assert representation.pairwise_similarity(fan, fan) == pytest.approx((0.5 + math.sqrt(0.75)) / 3)
    assert representation.pairwise_similarity(torch.eye(4), 5 * torch.eye(4)) == 0


def test_similarity_across_layers():
    """Equation 36 stands on the diagonal; off it, pairs of one place are left out too."""
    first = torch.eye(2)
    second = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    matrix = representation.similarity_across([first, second])
    torch.testing.assert_close(matrix, torch.tensor([[0.0, 1.0], [1.0, 0.0]]))


def test_similarity_in_pieces_is_the_same(monkeypatch):
    tokens = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    cosines = torch.nn.functional.cosine_similarity(tokens[:, None], tokens[None], dim=-1).abs()
    expected = float((cosines.sum() - 50) / (50 * 49))
    monkeypatch.setattr(representation, "ROWS_AT_ONCE", 8)
    assert representation.pairwise_similarity(tokens, tokens) == pytest.approx(expected, rel=1e-5)


def test_what_cannot_be_compared():
    assert math.isnan(representation.pairwise_similarity(torch.ones(1, 3), torch.ones(1, 3)))
    with pytest.raises(ValueError, match=r"tokens of equal shape, got \(4, 3\) and \(5, 3\)"):
        representation.pairwise_similarity(torch.zeros(4, 3), torch.zeros(5, 3))


def test_evenly_spaced():
    tokens = torch.arange(10.0)[:, None]
    assert representation.evenly_spaced(tokens, 4).flatten().tolist() == [0, 2, 5, 7]
    assert representation.evenly_spaced(tokens, 10) is tokens

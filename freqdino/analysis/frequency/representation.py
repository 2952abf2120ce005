"""How rich a layer's tokens are: effective rank, and similarity within a layer and across layers.

Source: FDAM (ICCV 2025, arXiv 2507.12006), supplement, sections F and G; equation numbers are that supplement's.

N: tokens, C: channels.
"""
import torch
import torch.nn.functional as F
from torch import Tensor

ROWS_AT_ONCE = 1024     # of the N × N matrix of similarities


def effective_rank(tokens: Tensor) -> float:
    """exp(-Σ σ log σ) of the singular values σ, divided by their sum; equation 35.

    tokens: (N, C). NaN where all are zero: that matrix has no normalised singular values.

    >>> round(effective_rank(torch.eye(5)), 4)
    5.0
    """
    singular = torch.linalg.svdvals(tokens)
    return float(torch.special.entr(singular / singular.sum()).sum().exp())


def pairwise_similarity(first: Tensor, second: Tensor) -> float:
    """Mean |cos| between token i of one layer and token j of another over all i ≠ j, equation 36 for two layers.

    Of a layer with itself it is equation 36 as it stands. first, second: (N, C). A token of zeros has similarity 0.
    NaN for a single token, which makes no pair. Raises ValueError for shapes that differ.

    >>> pairwise_similarity(torch.eye(3), torch.eye(3))
    0.0
    """
    if first.shape != second.shape:
        raise ValueError(f"similarity compares tokens of equal shape, got {tuple(first.shape)} and "
                         f"{tuple(second.shape)}")
    first, second = F.normalize(first, dim=1), F.normalize(second, dim=1)
    count = len(first)
    every = sum((rows @ second.mT).abs().sum(dtype=torch.float64) for rows in first.split(ROWS_AT_ONCE))
    same_place = (first * second).sum(1).abs().sum(dtype=torch.float64)
    return float((every - same_place) / (count * (count - 1)))


def similarity_across(layers: list[Tensor]) -> Tensor:
    """(L, L) of ``pairwise_similarity`` between the layers' tokens (N, C)."""
    matrix = torch.empty(len(layers), len(layers))
    for row, first in enumerate(layers):
        for column, second in enumerate(layers[:row + 1]):
            matrix[row, column] = matrix[column, row] = pairwise_similarity(first, second)
    return matrix


def evenly_spaced(tokens: Tensor, limit: int) -> Tensor:
    """At most ``limit`` of the tokens (N, C), at equal distances."""
    if len(tokens) <= limit:
        return tokens
    return tokens[torch.arange(limit) * len(tokens) // limit]

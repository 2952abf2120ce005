"""Scores of softmax and sigmoid logits, by hand."""
import math

import pytest
import torch

from freqdino.modeling.post_processing import SigmoidScores, SoftmaxScores


def test_softmax():
    probability = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.45, 0.1, 0.45 - 1e-4]])
    logits = probability.log()
    scores = SoftmaxScores()
    normalised = probability / probability.sum(dim=1, keepdim=True)
    assert torch.allclose(scores.semantic(logits), normalised[:, :2])
    assert torch.allclose(scores.instance(logits), normalised[:, :2])
    best, classes, keep = scores.panoptic(logits, 0.5)
    assert torch.allclose(best, normalised.amax(dim=1))
    assert classes.tolist() == [0, 2, 0]
    assert keep.tolist() == [True, False, False]        # above the threshold; "no object"; below the threshold
    assert scores.panoptic(logits, 0.4)[2].tolist() == [True, False, True]


def test_one_class():
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    assert SoftmaxScores().semantic(logits).shape == (2, 1)
    assert SoftmaxScores().panoptic(logits, 0.0)[2].tolist() == [True, False]


def logit(p):
    return math.log(p / (1 - p))


LOGITS = torch.tensor([[logit(0.9), logit(0.8)], [logit(0.1), logit(0.3)]], dtype=torch.float64)


@pytest.mark.parametrize("temperature", [None, 0.06, 1.0])
def test_sigmoid(temperature):
    scores = SigmoidScores(temperature=temperature)
    shares = [[0.9, 0.8], [0.1, 0.3]]
    if temperature is not None:
        powers = [[math.exp(p / temperature) for p in row] for row in shares]
        shares = [[e / sum(row) for e in row] for row in powers]
    assert torch.allclose(scores.semantic(LOGITS), torch.tensor(shares, dtype=torch.float64))
    assert torch.allclose(scores.instance(LOGITS), torch.tensor([[0.9, 0.8], [0.1, 0.3]], dtype=torch.float64))
    best, classes, keep = scores.panoptic(LOGITS, 0.5)
    assert best.tolist() == pytest.approx([max(row) for row in shares])
    assert classes.tolist() == [0, 1]
    assert keep.tolist() == [True, False]               # by the probability itself, before the temperature

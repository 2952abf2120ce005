"""Losses and pairwise costs against loops over single numbers."""
import math

import pytest
import torch

from freqdino.modeling.losses import (
    cross_entropy_loss,
    focal_class_cost,
    focal_loss,
    mask_bce_cost,
    mask_bce_loss,
    mask_dice_cost,
    mask_dice_loss,
    softmax_class_cost,
)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def binary_cross_entropy(logit, target):
    p = sigmoid(logit)
    return -target * math.log(p) - (1 - target) * math.log(1 - p)


def dice(logits, targets):
    p = [sigmoid(x) for x in logits]
    return 1 - (2 * sum(a * b for a, b in zip(p, targets)) + 1) / (sum(p) + sum(targets) + 1)


LOGITS = torch.tensor([[0.3, -1.2, 2.0], [-0.7, 0.1, 0.0], [3.0, -3.0, 0.5]], dtype=torch.float64)
TARGETS = torch.tensor([[1.0, 0.0, 1.0], [0.25, 0.5, 0.0], [0.0, 1.0, 1.0]], dtype=torch.float64)


def test_cross_entropy_is_a_weighted_mean():
    logits, weight = LOGITS[:, :3].float(), torch.tensor([1.0, 1.0, 0.1])
    classes = torch.tensor([1, 2, 2])
    terms = [-logits[i].double().log_softmax(-1)[c].item() for i, c in enumerate(classes)]
    expected = (terms[0] + 0.1 * terms[1] + 0.1 * terms[2]) / 1.2
    assert cross_entropy_loss(logits, classes, weight).item() == pytest.approx(expected, rel=1e-5)


def test_focal_loss():
    classes = torch.tensor([0, 3, 2])           # 3: background
    expected = 0.0
    for row, c in zip(LOGITS.tolist(), classes.tolist()):
        for k, x in enumerate(row):
            p = sigmoid(x)
            expected += -0.25 * (1 - p) ** 2 * math.log(p) if k == c else -0.75 * p ** 2 * math.log(1 - p)
    assert focal_loss(LOGITS, classes).item() == pytest.approx(expected, rel=1e-5)


def test_mask_losses():
    bce = sum(sum(map(binary_cross_entropy, row, truth)) / 3 for row, truth in zip(LOGITS.tolist(), TARGETS.tolist()))
    assert mask_bce_loss(LOGITS, TARGETS).item() == pytest.approx(bce)
    expected = sum(dice(row, truth) for row, truth in zip(LOGITS.tolist(), TARGETS.tolist()))
    assert mask_dice_loss(LOGITS, TARGETS).item() == pytest.approx(expected)


def test_mask_costs_of_every_pair():
    targets = TARGETS[:2]
    bce, dices = mask_bce_cost(LOGITS, targets), mask_dice_cost(LOGITS, targets)
    assert bce.shape == dices.shape == (3, 2)
    for q, row in enumerate(LOGITS.tolist()):
        for g, truth in enumerate(targets.tolist()):
            assert bce[q, g].item() == pytest.approx(sum(map(binary_cross_entropy, row, truth)) / 3)
            assert dices[q, g].item() == pytest.approx(dice(row, truth))


def test_costs_and_losses_of_a_pair_are_the_same_number():
    for cost, loss in ((mask_bce_cost, mask_bce_loss), (mask_dice_cost, mask_dice_loss)):
        assert cost(LOGITS, TARGETS).diagonal().sum().item() == pytest.approx(loss(LOGITS, TARGETS).item())


def test_class_costs():
    labels = torch.tensor([2, 0, 2, 1])
    softmax, focal = softmax_class_cost(LOGITS, labels), focal_class_cost(LOGITS, labels)
    assert softmax.shape == focal.shape == (3, 4)
    for q, row in enumerate(LOGITS.tolist()):
        for g, label in enumerate(labels.tolist()):
            share = math.exp(row[label]) / sum(map(math.exp, row))
            assert softmax[q, g].item() == pytest.approx(-share, rel=1e-5)
            p = sigmoid(row[label])
            expected = -0.25 * (1 - p) ** 2 * math.log(p) + 0.75 * p ** 2 * math.log(1 - p)
            assert focal[q, g].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("loss", [mask_bce_loss, mask_dice_loss])
def test_gradients(loss):
    assert torch.autograd.gradcheck(lambda x: loss(x, TARGETS), LOGITS.clone().requires_grad_())


def test_class_loss_gradients_against_differences():
    # Both compute in float32, so gradcheck's float64 tolerances do not hold.
    classes, weight = torch.tensor([0, 3, 2]), torch.tensor([1.0, 1.0, 1.0, 0.1])
    wide = torch.cat((LOGITS, LOGITS[:, :1]), dim=1).float()
    for loss, logits in ((lambda x: focal_loss(x, classes), LOGITS.float()),
                         (lambda x: cross_entropy_loss(x, classes, weight), wide)):
        logits = logits.clone().requires_grad_()
        gradient, = torch.autograd.grad(loss(logits), logits)
        step = torch.zeros_like(logits)
        step[0, 0] = 1e-2
        with torch.no_grad():
            slope = (loss(logits + step) - loss(logits - step)) / 2e-2
        assert gradient[0, 0].item() == pytest.approx(slope.item(), abs=1e-3)


def test_extreme_logits_stay_finite():
    extreme, targets = torch.tensor([[200.0, -200.0]]), torch.tensor([[0.0, 1.0]])
    for value in (mask_bce_loss(extreme, targets), mask_bce_cost(extreme, targets), mask_dice_cost(extreme, targets),
                  focal_loss(extreme, torch.tensor([1])), focal_class_cost(extreme, torch.tensor([0, 1]))):
        assert value.isfinite().all()
    assert mask_bce_loss(extreme, targets).item() == pytest.approx(200)


def test_nothing_to_compare():
    none = torch.zeros(0, 3)
    assert mask_bce_loss(none, none) == mask_dice_loss(none, none) == 0
    assert mask_bce_cost(LOGITS.float(), none).shape == mask_dice_cost(LOGITS.float(), none).shape == (3, 0)
    assert focal_loss(none, torch.zeros(0, dtype=torch.long)) == 0

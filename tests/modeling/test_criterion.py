"""Losses of matched predictions worked out by hand; batches without objects; deep supervision; half precision."""
import math

import pytest
import torch

from freqdino.modeling.criterion import SetCriterion
from freqdino.modeling.losses import softmax_class_cost
from freqdino.modeling.matcher import HungarianMatcher
from freqdino.modeling.prediction import Outputs
from helpers.targets import image_targets, logits_of, predicted, quadrants

POINTS = 100
WEIGHTS = {"ce": 2.0, "mask": 5.0, "dice": 3.0}


def criterion(num_classes=2, num_points=POINTS, **options):
    cost = HungarianMatcher(weights={"class": 2.0, "mask": 5.0, "dice": 5.0}, class_cost=softmax_class_cost,
                            num_points=num_points)
    options = {"no_object_weight": 0.1, "deep_supervision": True, "weights": WEIGHTS, "importance_sample_ratio": 0.75,
               "class_loss": "cross_entropy", **options}
    return SetCriterion(num_classes=num_classes, matcher=cost, num_points=num_points, oversample_ratio=3.0, **options)


def predictions(logits, masks=None, boxes=None, auxiliary=0):
    one = predicted(logits, masks, boxes)
    return Outputs(last=one, auxiliary=[one] * auxiliary)


def test_class_loss_by_hand():
    probability = torch.tensor([[[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.2, 0.2, 0.6]]])
    losses = criterion()(predictions(probability.log()), [image_targets([0])])
    # Query 0 is matched; the two others are "no object" and weigh 0.1 each.
    expected = -(math.log(0.7) + 0.1 * math.log(0.6) + 0.1 * math.log(0.6)) / 1.2
    assert losses["loss_ce"].item() == pytest.approx(2.0 * expected, rel=1e-5)


def test_class_loss_is_one_mean_over_the_batch():
    probability = torch.tensor([[[0.7, 0.2, 0.1]], [[0.1, 0.3, 0.6]]])
    targets = [image_targets([1]), image_targets([])]
    losses = criterion()(predictions(probability.log()), targets)
    expected = -(math.log(0.2) + 0.1 * math.log(0.6)) / 1.1
    assert losses["loss_ce"].item() == pytest.approx(2.0 * expected, rel=1e-5)


@pytest.mark.parametrize(("queries", "labels"), [(2, [[0]]), (1, [[0], [1], []]), (2, [[0, 1, 1, 0, 0], [1]])])
def test_mask_losses_of_undecided_masks_against_empty_objects(queries, labels):
    # Logit 0 costs log 2 at every point, and its dice with nothing is 1 - 1 / (P / 2 + 1).
    outputs = predictions(torch.zeros(len(labels), queries, 3))
    losses = criterion()(outputs, [image_targets(own) for own in labels])
    matched = sum(min(queries, len(own)) for own in labels) / sum(map(len, labels))
    assert losses["loss_mask"].item() == pytest.approx(5.0 * matched * math.log(2), rel=1e-5)
    assert losses["loss_dice"].item() == pytest.approx(3.0 * matched * (1 - 1 / (POINTS / 2 + 1)), rel=1e-5)


def test_perfect_masks_cost_next_to_nothing():
    truth = quadrants(64)
    targets = [image_targets([0, 1, 0, 1], truth)]
    logits = torch.zeros(1, 4, 3).log_softmax(-1)
    # Where a bilinear sample falls between in and out of a mask a loss is left; uniform points hit few of those.
    loss = criterion(num_points=4000, weights={"ce": 1.0, "mask": 1.0, "dice": 1.0}, importance_sample_ratio=0.0)
    good = loss(predictions(logits, logits_of(truth)[None]), targets)
    bad = loss(predictions(logits, logits_of(~truth)[None]), targets)
    assert good["loss_mask"] < 0.1 and good["loss_dice"] < 0.02
    # The complement of a quarter is best matched to another quarter: half of the pixels are wrong by 10, dice is 0.5.
    assert bad["loss_mask"] > 4.5 and bad["loss_dice"] > 0.45


def test_a_batch_without_objects():
    logits, masks = torch.randn(2, 3, 3, requires_grad=True), torch.randn(2, 3, 8, 8, requires_grad=True)
    losses = criterion()(predictions(logits, masks, auxiliary=1), [image_targets([]), image_targets([])])
    for suffix in ("", "_0"):
        assert losses[f"loss_mask{suffix}"] == losses[f"loss_dice{suffix}"] == 0
        expected = 2.0 * -logits.detach().log_softmax(-1)[..., 2].mean()
        assert losses[f"loss_ce{suffix}"].item() == pytest.approx(expected.item(), rel=1e-5)
    sum(losses.values()).backward()
    assert logits.grad.abs().sum() > 0
    assert torch.equal(masks.grad, torch.zeros_like(masks))


def test_deep_supervision_names():
    outputs, targets = predictions(torch.zeros(1, 2, 3), auxiliary=2), [image_targets([0])]
    terms = ("loss_ce", "loss_mask", "loss_dice")
    assert list(criterion()(outputs, targets)) == [f"{term}{suffix}" for suffix in ("", "_0", "_1") for term in terms]
    assert list(criterion(deep_supervision=False)(outputs, targets)) == list(terms)


def test_every_prediction_is_matched_anew():
    truth = quadrants()[:1]
    off, on = logits_of(torch.zeros_like(truth)), logits_of(truth)
    right, wrong = (predicted(torch.zeros(1, 2, 3), torch.cat(masks)[None]) for masks in ((on, off), (off, on)))
    outputs = Outputs(last=right, auxiliary=[wrong])
    losses = criterion()(outputs, [image_targets([0], truth)])
    assert losses["loss_dice"] < 0.9 and losses["loss_dice_0"] < 0.9       # of 3, were the empty mask matched


def test_focal_class_loss_by_hand():
    probability = torch.tensor([[[0.9, 0.4], [0.1, 0.2]]])
    losses = criterion(class_loss="focal", weights={"ce": 2.0})(
        predictions(probability.logit()), [image_targets([0])])

    def positive(p):
        return -0.25 * (1 - p) ** 2 * math.log(p)

    def negative(p):
        return -0.75 * p ** 2 * math.log(1 - p)

    expected = positive(0.9) + negative(0.4) + negative(0.1) + negative(0.2)
    assert list(losses) == ["loss_ce"]
    assert losses["loss_ce"].item() == pytest.approx(2.0 * expected, rel=1e-4)


def test_box_losses_by_hand():
    # The matched box is the ground truth moved by a half of its side: intersection 1/2, union 3/2, hull 3/2.
    outputs = predictions(torch.tensor([[[9.0, 0, 0], [0, 0, 9.0]]]),
                          boxes=torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.1, 0.1, 0.1, 0.1]]]))
    losses = criterion(weights={"bbox": 5.0, "giou": 2.0})(outputs, [image_targets([0], boxes=[0.4, 0.5, 0.2, 0.2])])
    assert losses["loss_bbox"].item() == pytest.approx(5.0 * 0.1, rel=1e-4)
    assert losses["loss_giou"].item() == pytest.approx(2.0 * (1 - 1 / 3), rel=1e-3)
    assert set(losses) == {"loss_bbox", "loss_giou"}


def test_box_losses_without_objects():
    boxes = torch.rand(1, 2, 4, requires_grad=True)
    outputs = predictions(torch.zeros(1, 2, 3), boxes=boxes)
    losses = criterion(weights={"bbox": 5.0, "giou": 2.0})(outputs, [image_targets([], boxes=[])])
    assert losses["loss_bbox"] == losses["loss_giou"] == 0
    sum(losses.values()).backward()
    assert torch.equal(boxes.grad, torch.zeros_like(boxes))


def test_unknown_class_loss():
    with pytest.raises(ValueError, match="class_loss must be one of .*cross_entropy.*focal.*, got 'softmax'"):
        criterion(class_loss="softmax")


def test_empty_weight_is_part_of_the_state():
    assert torch.allclose(criterion(num_classes=3).state_dict()["empty_weight"], torch.tensor([1, 1, 1, 0.1]))


def test_objects_are_counted_over_the_batch_and_at_least_one():
    count = criterion().count_objects
    assert count([image_targets([0, 1]), image_targets([]), image_targets([1])], "cpu").item() == 3
    assert count([image_targets([])], "cpu").item() == 1


def test_gradient_of_the_mask_goes_to_the_matched_query_only():
    truth = quadrants()[:1]
    masks = torch.stack((logits_of(~truth)[0], logits_of(truth, 1.0)[0], torch.zeros(16, 16)))[None].requires_grad_()
    losses = criterion()(predictions(torch.zeros(1, 3, 3), masks), [image_targets([0], truth)])
    (losses["loss_mask"] + losses["loss_dice"]).backward()
    assert [bool(gradient.any()) for gradient in masks.grad[0]] == [False, True, False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    truth, logits = quadrants(), torch.randn(1, 4, 3)
    masks = logits_of(truth, 2.0)[None] + torch.randn(1, 4, 16, 16)
    targets = [image_targets([0, 1, 1, 0], truth)]
    torch.manual_seed(1)
    expected = criterion(num_points=2000)(predictions(logits, masks), targets)
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype):
        actual = criterion(num_points=2000)(predictions(logits.to(dtype), masks.to(dtype)), targets)
    for name, loss in actual.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(expected[name].item(), rel=0.02)

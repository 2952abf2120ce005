"""Matching: known optima, more objects than queries, none at all, costs that are not finite."""
import pytest
import torch

from freqdino.modeling.losses import softmax_class_cost
from freqdino.modeling.matcher import HungarianMatcher, NonFiniteCostError
from helpers.targets import image_targets, logits_of, predicted, quadrants

WEIGHTS = {"class": 2.0, "mask": 5.0, "dice": 5.0}


def matcher(**weights):
    return HungarianMatcher(weights=weights or WEIGHTS, class_cost=softmax_class_cost, num_points=200)


def pairs(match):
    queries, objects = match
    return list(zip(queries.tolist(), objects.tolist()))


def test_optimum_that_a_greedy_choice_misses():
    # Greedy: query 0 to class 0 (0.5) leaves 0.05 for class 1; the optimum is 0.4 + 0.45.
    probability = torch.tensor([[[0.5, 0.4, 0.1], [0.45, 0.05, 0.5]]])
    prediction = predicted(probability.log())
    match, = matcher(**{"class": 1.0, "mask": 0.0, "dice": 0.0})(prediction, [image_targets([0, 1])])
    assert pairs(match) == [(1, 0), (0, 1)]


@pytest.mark.parametrize("weights", [WEIGHTS, {"class": 0.0, "mask": 1.0, "dice": 0.0}, {"dice": 1.0}])
def test_masks_find_their_object(weights):
    truth = quadrants()
    order = torch.tensor([2, 0, 3, 1])
    prediction = predicted(torch.zeros(1, 4, 4), logits_of(truth[order])[None])
    match, = matcher(**weights)(prediction, [image_targets([0, 0, 0, 0], truth)])
    assert pairs(match) == [(order.tolist().index(g), g) for g in range(4)]


def test_class_decides_between_equal_masks():
    truth = quadrants()[:1].expand(2, -1, -1)
    prediction = predicted(torch.tensor([[[0.0, 0, 0, 0], [0, 5, 0, 0], [5, 0, 0, 0]]]),
                           logits_of(truth[:1].expand(3, -1, -1))[None])
    match, = matcher()(prediction, [image_targets([0, 1], truth)])
    assert pairs(match) == [(2, 0), (1, 1)]


@pytest.mark.parametrize("term", ["box", "giou"])
def test_boxes_find_their_object(term):
    boxes = [[0.2, 0.2, 0.1, 0.1], [0.8, 0.2, 0.2, 0.1], [0.5, 0.5, 0.9, 0.9]]
    moved = torch.tensor([[boxes[2], boxes[0], boxes[1]]]) + 0.02
    prediction = predicted(torch.zeros(1, 3, 4), boxes=moved)
    match, = matcher(**{term: 1.0})(prediction, [image_targets([0, 0, 0], boxes=boxes)])
    assert pairs(match) == [(1, 0), (2, 1), (0, 2)]


def test_more_objects_than_queries():
    truth = quadrants()
    prediction = predicted(torch.zeros(1, 2, 4), logits_of(truth[[3, 1]])[None])
    match, = matcher()(prediction, [image_targets([0] * 4, truth)])
    assert pairs(match) == [(1, 1), (0, 3)]


def test_images_are_matched_on_their_own():
    truth = quadrants()
    masks = logits_of(torch.stack((truth, truth, truth.flip(0))))
    prediction = predicted(torch.zeros(3, 4, 4), masks)
    matches = matcher()(prediction, [image_targets([0], truth[1:2]), image_targets([], size=(16, 16)),
                                     image_targets([0, 1], truth[:2])])
    assert [pairs(match) for match in matches] == [[(1, 0)], [], [(3, 0), (2, 1)]]
    for queries, objects in matches:
        assert queries.dtype == objects.dtype == torch.int64


def test_ground_truth_of_another_size_than_the_prediction():
    prediction = predicted(torch.zeros(1, 4, 4), logits_of(quadrants(8).flip(0))[None])
    match, = matcher()(prediction, [image_targets([0] * 4, quadrants(32))])
    assert pairs(match) == [(3, 0), (2, 1), (1, 2), (0, 3)]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize(("part", "term"), [("logits", "class"), ("mask_features", "mask")])
def test_cost_that_is_not_finite_names_image_and_term(bad, part, term):
    truth = quadrants()
    prediction = predicted(torch.zeros(2, 4, 4), logits_of(torch.stack((truth, truth))))
    getattr(prediction, part)[1, 2] = bad
    targets = [image_targets([0] * 4, truth, name="good.jpg"), image_targets([0] * 4, truth, name="street/bad.jpg")]
    message = f"street/bad.jpg: the matching cost '{term}' is not finite for 4 of 16 pairs"
    with pytest.raises(NonFiniteCostError, match=message):
        matcher()(prediction, targets)


def test_the_error_can_be_caught_as_either_kind():
    assert issubclass(NonFiniteCostError, ValueError) and issubclass(NonFiniteCostError, FloatingPointError)


def test_images_without_objects_are_not_asked_for_a_finite_cost():
    prediction = predicted(torch.full((1, 4, 4), float("nan")))
    assert pairs(matcher()(prediction, [image_targets([])])[0]) == []


def test_weights_that_are_all_zero():
    with pytest.raises(ValueError, match="weights must not all be 0, got {"):
        matcher(**{"class": 0.0, "mask": 0.0, "dice": 0.0})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_predictions_under_autocast(dtype):
    truth = quadrants()
    masks = logits_of(truth.flip(0))[None].to(dtype)
    prediction = predicted(torch.zeros(1, 4, 4, dtype=dtype), masks)
    with torch.autocast("cpu", dtype):
        match, = matcher()(prediction, [image_targets([0] * 4, truth)])
    assert pairs(match) == [(3, 0), (2, 1), (1, 2), (0, 3)]

"""Semantic maps, the choice of instances, mask quality, instances and the rules of panoptic segments, by hand."""
import math

import pytest
import torch

from freqdino.modeling.post_processing import (
    best_pairs,
    instances_from_masks,
    mask_quality,
    panoptic_segments,
    semantic_map,
)
from freqdino.ops import blocking


def logit(p):
    return math.log(p / (1 - p))


def test_semantic_map():
    scores = torch.tensor([[0.5, 0.1, 0.0], [0.2, 0.7, 1.0]])
    masks = torch.tensor([[[logit(0.9), logit(0.5)]], [[logit(0.2), logit(0.6)]]])
    expected = [[0.5 * 0.9 + 0.2 * 0.2, 0.5 * 0.5 + 0.2 * 0.6],
                [0.1 * 0.9 + 0.7 * 0.2, 0.1 * 0.5 + 0.7 * 0.6],
                [0.2, 0.6]]
    assert torch.allclose(semantic_map(scores, masks), torch.tensor(expected)[:, None])


SCORES = torch.tensor([[0.9, 0.1, 0.5], [0.2, 0.8, 0.3]])


def found(scores, classes, queries):
    return sorted(zip([round(score, 4) for score in scores.tolist()], classes.tolist(), queries.tolist()), reverse=True)


def test_best_pairs_may_name_a_query_twice():
    assert found(*best_pairs(SCORES, 3, None)) == [(0.9, 0, 0), (0.8, 1, 1), (0.5, 2, 0)]


def test_more_instances_wanted_than_there_are_pairs():
    assert len(best_pairs(SCORES, 100, None)[0]) == 6
    assert len(best_pairs(torch.zeros(0, 3), 100, None)[0]) == 0


def test_things_are_kept_after_the_choice():
    # Class 1 takes one of the three places, so that two are left.
    assert found(*best_pairs(SCORES, 3, {0, 2})) == [(0.9, 0, 0), (0.5, 2, 0)]
    assert found(*best_pairs(SCORES, 3, frozenset())) == []


def test_mask_quality():
    masks = torch.tensor([[[logit(0.9), logit(0.7)], [logit(0.2), -9.0]], [[-1.0, -1.0], [-1.0, 0.0]], [[3.0] * 2] * 2])
    expected = [(0.9 + 0.7) / 2, 0.0, 1 / (1 + math.exp(-3))]
    assert mask_quality(masks).tolist() == pytest.approx(expected, abs=1e-5)
    assert mask_quality(torch.zeros(0, 4, 4)).shape == (0,)


def instance_arguments():
    masks = torch.full((2, 4, 5), logit(0.1))
    masks[0, 1:3, 2:5] = logit(0.8)                     # the second mask is empty
    return torch.tensor([0.5, 0.9]), torch.tensor([3, 1]), masks


def test_instances():
    scores, classes, masks = instance_arguments()
    result = instances_from_masks(scores, classes, masks)
    assert result.image_size == (4, 5)
    assert result.pred_boxes.tensor.tolist() == [[2, 1, 5, 3], [0, 0, 0, 0]]
    assert torch.equal(result.pred_masks, masks > 0) and result.pred_masks.dtype == torch.bool
    assert result.scores.tolist() == pytest.approx([0.5 * 0.8, 0.0], abs=1e-5)
    assert result.pred_classes.tolist() == [3, 1]


def test_instances_with_predicted_boxes_and_plain_scores():
    scores, classes, masks = instance_arguments()
    boxes = torch.tensor([[1.0, 1, 2, 2], [0, 0, 3, 3]])
    result = instances_from_masks(scores, classes, masks, boxes=boxes, rescore=False)
    assert torch.equal(result.pred_boxes.tensor, boxes)
    assert torch.equal(result.scores, scores)


def test_instances_that_share_a_mask_and_are_enlarged(monkeypatch):
    monkeypatch.setitem(blocking.BUDGET, "cpu", 1)      # one mask at a time
    scores, classes, masks = instance_arguments()
    queries = torch.tensor([1, 0, 0])
    result = instances_from_masks(torch.ones(3), torch.arange(3), masks, queries=queries,
                                  resize=lambda few: few.repeat_interleave(2, dim=1))
    assert result.image_size == (8, 5)
    assert torch.equal(result.pred_masks, (masks[queries] > 0).repeat_interleave(2, dim=1))
    assert result.scores.tolist() == pytest.approx([0.0, 0.8, 0.8], abs=1e-5)


def test_no_instances():
    result = instances_from_masks(torch.zeros(0), torch.zeros(0, dtype=torch.long), torch.zeros(0, 4, 5))
    assert len(result) == 0 and result.pred_boxes.tensor.shape == (0, 4) and result.pred_masks.shape == (0, 4, 5)


def columns(*ranges, width=4):
    """Masks of one row each that cover columns [start, stop), as sure logits (n, 2, width)."""
    masks = torch.full((len(ranges), 2, width), -10.0)
    for mask, (start, stop) in zip(masks, ranges):
        mask[:, start:stop] = 10.0
    return masks


def segments_of(scores, classes, masks, things=frozenset({0, 1}), threshold=0.8):
    segments, info = panoptic_segments(torch.tensor(scores), torch.tensor(classes), masks, thing_classes=things,
                                       overlap_threshold=threshold)
    assert segments.dtype == torch.int32
    assert torch.equal(segments[0], segments[1])
    return segments[0].tolist(), [(segment["id"], segment["isthing"], segment["category_id"]) for segment in info]


def test_pixels_go_to_the_highest_score_times_probability():
    assert segments_of([0.9, 0.95], [0, 1], columns((0, 2), (2, 4))) == ([1, 1, 2, 2], [(1, True, 0), (2, True, 1)])
    # Both cover the middle columns: the surer query has them, and the other keeps 1 of 2.
    assert segments_of([0.9, 0.95], [0, 1], columns((0, 2), (1, 4)), threshold=0.5) == (
        [1, 2, 2, 2], [(1, True, 0), (2, True, 1)])


def test_segment_that_lost_too_much_is_dropped_and_its_pixels_stay_empty():
    assert segments_of([0.9, 0.95], [0, 1], columns((0, 2), (1, 4))) == ([0, 1, 1, 1], [(1, True, 1)])


def test_the_threshold_itself_is_enough():
    # 3 of 4 columns
    masks = columns((0, 4), (3, 4))
    assert segments_of([0.9, 0.95], [0, 1], masks, threshold=0.75)[0] == [1, 1, 1, 2]
    assert segments_of([0.9, 0.95], [0, 1], masks, threshold=0.76)[0] == [0, 0, 0, 1]


def test_things_stay_apart_and_stuff_of_a_class_becomes_one():
    masks = columns((0, 1), (1, 2), (2, 3), (3, 4))
    assert segments_of([0.9] * 4, [5, 0, 5, 0], masks) == (
        [1, 2, 1, 3], [(1, False, 5), (2, True, 0), (3, True, 0)])
    assert segments_of([0.9] * 4, [5, 6, 5, 6], masks) == ([1, 2, 1, 2], [(1, False, 5), (2, False, 6)])


def test_score_of_a_segment_is_that_of_its_surest_query():
    _, info = panoptic_segments(torch.tensor([0.5, 0.25, 0.75]), torch.tensor([5, 0, 5]),
                                columns((0, 1), (1, 2), (2, 3)), thing_classes={0}, overlap_threshold=0.8)
    assert info == [{"id": 1, "isthing": False, "category_id": 5, "score": 0.75},
                    {"id": 2, "isthing": True, "category_id": 0, "score": 0.25}]


def test_pixels_of_no_mask_are_empty():
    # The only query wins every pixel, but only its own mask is its segment.
    assert segments_of([0.9], [0], columns((1, 3))) == ([0, 1, 1, 0], [(1, True, 0)])


def test_query_without_a_mask_is_skipped():
    assert segments_of([0.9, 0.9], [0, 1], torch.cat((torch.full((1, 2, 4), -1.0), columns((0, 1))))) == (
        [1, 0, 0, 0], [(1, True, 1)])


def test_won_area_without_a_pixel_inside_the_mask():
    # Query 0 wins where nobody is, and loses its own column to query 1: the areas agree, the segment is empty.
    masks = torch.tensor([[[0.1, -1.0]] * 2, [[9.0, -9.0]] * 2])
    assert segments_of([0.9, 0.95], [0, 1], masks) == ([1, 0], [(1, True, 1)])


def test_nothing_kept():
    segments, info = panoptic_segments(torch.zeros(0), torch.zeros(0, dtype=torch.long), torch.zeros(0, 3, 5),
                                       thing_classes={0}, overlap_threshold=0.8)
    assert info == [] and segments.dtype == torch.int32
    assert torch.equal(segments, torch.zeros(3, 5, dtype=torch.int32))

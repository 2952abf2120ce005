"""Results without loops, for a batch, against the rules for one image after the other, and by hand.

Q: queries, K: classes.
"""
import pytest
import torch

from freqdino.export.batched_results import instances, panoptic
from freqdino.modeling.post_processing import (
    Geometry,
    PostProcessing,
    SigmoidScores,
    SoftmaxScores,
    panoptic_segments,
)

HEIGHT, WIDTH, CLASSES = 9, 12, 4
THINGS = frozenset({0, 1})


def rules(scores=SoftmaxScores(), **changes):
    return PostProcessing(**{"scores": scores, "semantic": False, "instance": True, "panoptic": True,
                             "thing_classes": THINGS, "object_mask_threshold": 0.3, "overlap_threshold": 0.5,
                             "max_instances": 10, "resize_before_semantic": True, "segment_scores": True, **changes})


def random_batch(softmax, batch=4, queries=7):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(batch, queries, CLASSES + softmax, generator=generator)
    coarse = 6 * torch.randn(batch, queries, 3, 4, generator=generator)
    return logits, torch.nn.functional.interpolate(coarse, size=(HEIGHT, WIDTH), mode="bilinear")


@pytest.mark.parametrize("scores", [SoftmaxScores(), SigmoidScores(None), SigmoidScores(0.06)])
@pytest.mark.parametrize("panoptic_on", [True, False])
def test_instances_are_those_of_each_image(scores, panoptic_on):
    logits, masks = random_batch(isinstance(scores, SoftmaxScores))
    rule = rules(scores, panoptic=panoptic_on)
    found_scores, classes, queries, valid, boxes, found = instances(rule, logits, masks, None)
    same_size = Geometry(padded=(HEIGHT, WIDTH), image=(HEIGHT, WIDTH), output=(HEIGHT, WIDTH))
    for image in range(len(logits)):
        expected = rule(logits[image], masks[image], same_size)["instances"]
        expected = expected[expected.scores.argsort(descending=True)]
        shown = valid[image]
        order = found_scores[image][shown].argsort(descending=True)
        assert torch.allclose(found_scores[image][shown][order], expected.scores, atol=1e-6)
        assert torch.equal(classes[image][shown][order], expected.pred_classes)
        assert torch.equal(found[image][shown][order], expected.pred_masks)
        assert torch.equal(boxes[image][shown][order], expected.pred_boxes.tensor)
        assert torch.equal(found[image], masks[image][queries[image]] > 0)


@pytest.mark.parametrize("scores", [SoftmaxScores(), SigmoidScores(None), SigmoidScores(0.06)])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.999999])
def test_panoptic_segments_are_those_of_each_image(scores, threshold):
    logits, masks = random_batch(isinstance(scores, SoftmaxScores), batch=6)
    rule = rules(scores, object_mask_threshold=threshold)
    ids, segment_ids, classes, best, things, listed = panoptic(rule, logits, masks)
    number = 0
    for image in range(len(logits)):
        kept_scores, kept_classes, kept = scores.panoptic(logits[image], threshold)
        expected_ids, expected = panoptic_segments(
            kept_scores[kept], kept_classes[kept], masks[image][kept], thing_classes=THINGS, overlap_threshold=0.5)
        rows = listed[image]
        assert torch.equal(ids[image], expected_ids)
        assert segment_ids[image][rows].tolist() == [segment["id"] for segment in expected]
        assert classes[image][rows].tolist() == [segment["category_id"] for segment in expected]
        assert things[image][rows].tolist() == [segment["isthing"] for segment in expected]
        assert torch.allclose(best[image][rows], torch.tensor([segment["score"] for segment in expected]))
        number += len(expected)
    assert (number > 0) == (threshold < 0.9)


def test_stuff_of_a_class_becomes_one_segment():
    """Queries 0 and 2 see the same stuff on the left and on the right, query 1 a thing between, query 3 nothing."""
    masks = torch.full((1, 4, 2, 6), -9.0)
    for query, columns in ((0, (0, 2)), (1, (2, 4)), (2, (4, 6))):
        masks[0, query, :, slice(*columns)] = 9.0
    logits = torch.full((1, 4, CLASSES + 1), -9.0)
    logits[0, [0, 1, 2, 3], [3, 0, 3, CLASSES]] = torch.tensor([2.0, 9.0, 5.0, 9.0])
    ids, segment_ids, classes, best, things, listed = panoptic(rules(), logits, masks)
    assert ids[0].tolist() == [[1, 1, 2, 2, 1, 1]] * 2
    assert listed.tolist() == [[True, True, False, False]] and segment_ids.tolist() == [[1, 2, 1, 0]]
    # The stuff's score is that of the surer query, 2: softmax of 5 among four values of -9.
    assert best[0, 0] == best[0, 2] > 0.9999 and things[0, :3].tolist() == [False, True, False]


def test_boxes_of_masks():
    """Three queries, the surest first, of a class each: a rectangle, a pixel, and nothing."""
    masks = torch.full((1, 3, HEIGHT, WIDTH), -9.0)
    masks[0, 0, 2:5, 1:8] = 9.0
    masks[0, 1, 8, 11] = 9.0
    logits = torch.full((1, 3, CLASSES + 1), -9.0)
    logits[0, [0, 1, 2], [0, 1, 0]] = torch.tensor([9.0, 6.0, 3.0])
    _, _, queries, _, boxes, _ = instances(rules(max_instances=3), logits, masks, None)
    assert queries.tolist() == [[0, 1, 2]]
    assert boxes.tolist() == [[[1, 2, 8, 5], [11, 8, 12, 9], [0, 0, 0, 0]]]

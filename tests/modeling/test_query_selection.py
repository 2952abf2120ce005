"""Anchors of the encoder's tokens and boxes of predicted masks, by hand."""
import math

import pytest
import torch

from freqdino.modeling.query_selection import box_logits_from_masks, take_tokens, token_proposals

LARGEST_LOGIT = math.log((1 - 1e-5) / 1e-5)


def logit(p):
    return math.log(p / (1 - p))


def test_proposals_of_two_levels():
    logits, valid = token_proposals([(1, 2), (2, 1)])
    anchors = [(0.25, 0.5, 0.05), (0.75, 0.5, 0.05), (0.5, 0.25, 0.1), (0.5, 0.75, 0.1)]       # x, y, side
    expected = [[logit(x), logit(y), logit(side), logit(side)] for x, y, side in anchors]
    assert torch.allclose(logits, torch.tensor(expected), atol=1e-5)
    assert valid.shape == (4, 1) and valid.all()


def test_tokens_are_listed_row_by_row():
    centres = token_proposals([(2, 3)])[0][:, :2].sigmoid()
    expected = [[1 / 6, 1 / 4], [3 / 6, 1 / 4], [5 / 6, 1 / 4], [1 / 6, 3 / 4], [3 / 6, 3 / 4], [5 / 6, 3 / 4]]
    assert torch.allclose(centres, torch.tensor(expected), atol=1e-6)


def test_side_doubles_until_the_anchor_no_longer_fits():
    logits, valid = token_proposals([(1, 1)] * 6)
    assert torch.allclose(logits[:5, 2].sigmoid(), torch.tensor([0.05, 0.1, 0.2, 0.4, 0.8]), atol=1e-6)
    assert valid.flatten().tolist() == [True] * 5 + [False]
    assert logits[5].tolist() == [math.inf] * 4


@pytest.mark.parametrize(("size", "num_outside"), [(49, 0), (51, 2), (149, 2), (151, 4)])
def test_anchors_at_the_border_may_not_be_chosen(size, num_outside):
    logits, valid = token_proposals([(1, size)])
    invalid = ~valid.flatten()
    assert invalid.sum() == num_outside
    border = [i for i in range(size) if not 0.01 < (i + 0.5) / size < 0.99]
    assert invalid.nonzero().flatten().tolist() == border
    assert logits[invalid].isposinf().all() and logits[~invalid].isfinite().all()


def test_one_value_out_of_range_makes_all_four_infinite():
    logits, valid = token_proposals([(1, 60)])
    assert not valid[0] and logits[0].isposinf().all()          # x is too small; y and the sides would do


def test_take_tokens():
    tokens = torch.randn(2, 5, 3)
    index = torch.tensor([[4, 0], [1, 1]])
    expected = torch.stack([torch.stack([tokens[0, 4], tokens[0, 0]]), torch.stack([tokens[1, 1], tokens[1, 1]])])
    assert torch.equal(take_tokens(tokens, index), expected)


def rectangle(x0, y0, x1, y1, height=8, width=16):
    """Mask logits that are positive in columns x0..x1 and rows y0..y1, both ends included."""
    logits = torch.full((height, width), -1.0)
    logits[y0:y1 + 1, x0:x1 + 1] = 2.0
    return logits


def boxes_of(kind, *masks):
    return box_logits_from_masks(torch.stack(masks)[None], kind)[0].sigmoid()


@pytest.mark.parametrize(("kind", "expected"), [
    ("bitmask", [6 / 16, 4 / 8, 8 / 16, 4 / 8]),            # columns 2 to 10, rows 2 to 6, the end exclusive
    ("mask2box", [5.5 / 16, 3.5 / 8, 7 / 16, 3 / 8])])      # columns 2 to 9, rows 2 to 5
def test_box_of_a_rectangle(kind, expected):
    assert torch.allclose(boxes_of(kind, rectangle(2, 2, 9, 5))[0], torch.tensor(expected), atol=1e-6)


@pytest.mark.parametrize(("kind", "expected"), [
    ("bitmask", [3.5 / 16, 6.5 / 8, 1 / 16, 1 / 8]), ("mask2box", [3 / 16, 6 / 8, 1e-5, 1e-5])])
def test_box_of_one_pixel(kind, expected):
    assert torch.allclose(boxes_of(kind, rectangle(3, 6, 3, 6))[0], torch.tensor(expected), atol=1e-6)


@pytest.mark.parametrize(("kind", "expected"), [
    ("bitmask", [-LARGEST_LOGIT] * 4), ("mask2box", [LARGEST_LOGIT, LARGEST_LOGIT, -LARGEST_LOGIT, -LARGEST_LOGIT])])
def test_box_of_an_empty_mask(kind, expected):
    empty = torch.zeros(4, 4)           # a logit of 0 is not inside
    assert torch.allclose(box_logits_from_masks(empty[None, None], kind)[0, 0], torch.tensor(expected), rtol=1e-3)


@pytest.mark.parametrize(("kind", "size"), [("bitmask", [0.5, 0.5, 1.0, 1.0]),
                                            ("mask2box", [7.5 / 16, 3.5 / 8, 15 / 16, 7 / 8])])
def test_box_of_the_whole_map(kind, size):
    assert torch.allclose(boxes_of(kind, torch.ones(8, 16))[0], torch.tensor(size), atol=2e-5)


@pytest.mark.parametrize("kind", ["bitmask", "mask2box"])
def test_boxes_of_scattered_pixels_in_a_batch(kind):
    masks = torch.randn(2, 3, 7, 5) - 1
    actual = box_logits_from_masks(masks, kind).sigmoid()
    assert actual.shape == (2, 3, 4)
    end = 1 if kind == "bitmask" else 0
    for image in range(2):
        for query in range(3):
            places = [(y, x) for y in range(7) for x in range(5) if masks[image, query, y, x] > 0]
            rows, columns = zip(*places)
            x0, x1, y0, y1 = min(columns), max(columns) + end, min(rows), max(rows) + end
            expected = torch.tensor([(x0 + x1) / 10, (y0 + y1) / 14, (x1 - x0) / 5, (y1 - y0) / 7])
            assert torch.allclose(actual[image, query], expected, atol=2e-5)


@pytest.mark.parametrize("kind", ["bitmask", "mask2box"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_masks_give_float32_boxes(kind, dtype):
    mask = rectangle(3, 1, 12, 6)
    boxes = box_logits_from_masks(mask.to(dtype)[None, None], kind)
    assert boxes.dtype == torch.float32
    assert torch.equal(boxes, box_logits_from_masks(mask[None, None], kind))


@pytest.mark.parametrize("kind", ["bitmask", "mask2box"])
def test_no_queries(kind):
    assert box_logits_from_masks(torch.zeros(2, 0, 4, 4), kind).shape == (2, 0, 4)

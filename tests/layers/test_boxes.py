"""Box formats, generalised IoU against hand-worked areas, the boxes of masks, the clamped logit."""
import math

import pytest
import torch

from freqdino.layers.boxes import cxcywh_to_xyxy, generalized_box_iou, inverse_sigmoid, masks_to_boxes, xyxy_to_cxcywh


def test_conversions_of_a_known_box():
    corners, centre = torch.tensor([[[10.0, 20.0, 30.0, 60.0]]]), torch.tensor([[[20.0, 40.0, 20.0, 40.0]]])
    assert torch.equal(xyxy_to_cxcywh(corners), centre)
    assert torch.equal(cxcywh_to_xyxy(centre), corners)


def test_conversions_of_no_boxes():
    assert xyxy_to_cxcywh(torch.zeros(0, 4)).shape == (0, 4)
    assert cxcywh_to_xyxy(torch.zeros(2, 0, 4)).shape == (2, 0, 4)


UNIT = [0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize(("a", "b", "expected"), [
    (UNIT, UNIT, 1.0),
    # 2x2 and 2x2 shifted by (1, 1): intersection 1, union 7, hull 9.
    ([0, 0, 2, 2], [1, 1, 3, 3], 1 / 7 - 2 / 9),
    # Unit boxes two apart: union 2, hull 3.
    (UNIT, [2, 0, 3, 1], -1 / 3),
    # One inside the other: the hull is the larger one.
    ([0, 0, 4, 4], [1, 1, 2, 3], 2 / 16),
    # Touching sides: no intersection, hull = union.
    (UNIT, [1, 0, 2, 1], 0.0),
    # A box without area, inside: no intersection, hull = union.
    (UNIT, [0.5, 0.5, 0.5, 0.5], 0.0),
    # Two points at the corners of a unit square: nothing but hull.
    ([0, 0, 0, 0], [1, 1, 1, 1], -1.0),
    # The same point twice: nothing at all.
    ([0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5], 0.0),
    # Two lines without area that cross: no intersection, hull 1.
    ([0, 0.5, 1, 0.5], [0.5, 0, 0.5, 1], -1.0),
])
def test_generalized_iou_by_hand(a, b, expected):
    a, b = torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)
    assert generalized_box_iou(a, b).item() == pytest.approx(expected, abs=3e-6)
    assert generalized_box_iou(b, a).item() == pytest.approx(expected, abs=3e-6)


def test_generalized_iou_of_all_pairs():
    a = xyxy_boxes(3)
    b = xyxy_boxes(2)
    pairs = generalized_box_iou(a[:, None], b[None])
    assert pairs.shape == (3, 2)
    for i in range(3):
        for j in range(2):
            assert torch.equal(pairs[i, j], generalized_box_iou(a[i], b[j]))
    assert generalized_box_iou(torch.zeros(0, 1, 4), b[None]).shape == (0, 2)


def xyxy_boxes(count):
    low = torch.rand(count, 2, dtype=torch.float64)
    return torch.cat((low, low + 0.1 + torch.rand(count, 2, dtype=torch.float64)), dim=1)


def test_generalized_iou_gradient():
    a, b = xyxy_boxes(4).requires_grad_(), xyxy_boxes(4).requires_grad_()
    assert torch.autograd.gradcheck(generalized_box_iou, (a, b))


def test_generalized_iou_of_degenerate_boxes_has_a_finite_gradient():
    a = torch.full((1, 4), 0.5, requires_grad=True)
    generalized_box_iou(a, torch.full((1, 4), 0.5)).sum().backward()
    assert a.grad.isfinite().all()


def test_boxes_of_masks():
    masks = torch.zeros(4, 5, 7, dtype=torch.bool)
    masks[0, 1, 2] = True                           # one pixel
    masks[1, 1:4, 2:6] = True
    masks[1, 2, 3] = False                          # a hole changes nothing
    masks[2, 0, 6] = masks[2, 4, 0] = True          # opposite corners: the whole image
    assert masks_to_boxes(masks).tolist() == [[2, 1, 3, 2], [2, 1, 6, 4], [0, 0, 7, 5], [0, 0, 0, 0]]


@pytest.mark.parametrize("shape", [(0, 5, 7), (3, 0, 7), (3, 5, 0), (0, 0, 0)])
def test_boxes_of_nothing(shape):
    boxes = masks_to_boxes(torch.zeros(shape, dtype=torch.bool))
    assert boxes.dtype == torch.float32
    assert torch.equal(boxes, torch.zeros(shape[0], 4))


def test_inverse_sigmoid():
    logits = torch.linspace(-8, 8, 33, dtype=torch.float64)
    assert torch.allclose(inverse_sigmoid(logits.sigmoid()), logits, atol=1e-9)
    limit = math.log(1e5)
    ends = inverse_sigmoid(torch.tensor([0.0, 1.0, -3.0, 7.0], dtype=torch.float64))
    assert ends.tolist() == pytest.approx([-limit, limit, -limit, limit])


def test_inverse_sigmoid_gradient():
    x = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(inverse_sigmoid, x)

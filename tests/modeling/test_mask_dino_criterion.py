"""Mask DINO's losses: their names, denoising by hand, boxes of things only, terms left out."""
import math

import pytest
import torch

from freqdino.modeling.denoising import NoisedQueries
from freqdino.modeling.losses import focal_class_cost
from freqdino.modeling.mask_dino_criterion import MaskDINOCriterion
from freqdino.modeling.matcher import HungarianMatcher
from freqdino.modeling.prediction import Outputs
from helpers.targets import image_targets, predicted

WEIGHTS = {"ce": 4.0, "mask": 5.0, "dice": 5.0, "bbox": 5.0, "giou": 2.0}
COSTS = {"class": 4.0, "mask": 5.0, "dice": 5.0, "box": 5.0, "giou": 2.0}
TERMS = tuple(WEIGHTS)
POINTS = 50
BOX = [0.5, 0.5, 0.2, 0.2]


def criterion(*, costs=COSTS, **options):
    matcher = HungarianMatcher(weights=costs, class_cost=focal_class_cost, num_points=POINTS)
    defaults = {"num_classes": 2, "matcher": matcher, "weights": WEIGHTS, "class_loss": "focal",
                "no_object_weight": 0.1, "num_points": POINTS, "oversample_ratio": 3.0, "importance_sample_ratio": 0.75,
                "deep_supervision": True, "denoising": "seg", "box_loss": True, "box_classes": None}
    return MaskDINOCriterion(**{**defaults, **options})


def prediction(num_queries=3, batch=1, boxes=None):
    boxes = torch.tensor(BOX).expand(batch, num_queries, 4) if boxes is None else torch.tensor(boxes).view(batch, -1, 4)
    return predicted(torch.zeros(batch, num_queries, 2), boxes=boxes)


def outputs_of(matching, layers=0, proposals=True, denoising=None):
    return Outputs(last=matching, auxiliary=[matching] * layers, proposals=matching if proposals else None,
                   denoising=denoising)


def noised_of(counts, groups):
    """Denoising queries of images with that many objects; labels and boxes are not read by the criterion."""
    most = max(counts)
    matches = []
    for count in counts:
        slots = [group * most + i for group in range(groups) for i in range(count)]
        matches.append((torch.tensor(slots, dtype=torch.int64), torch.arange(count).repeat(groups)))
    empty = torch.zeros(len(counts), groups * most)
    return NoisedQueries(labels=empty.long(), boxes=empty, used=empty.bool(), matches=matches, groups=groups)


def run(layers, proposals, with_denoising, **options):
    targets = [image_targets([0], boxes=[BOX])]
    denoising = None
    if with_denoising:
        denoising = ([prediction(2)] * (layers + 1), noised_of([1], groups=2))
    return criterion(**options)(outputs_of(prediction(), layers, proposals, denoising), targets)


def names(suffixes, terms=TERMS):
    return {f"loss_{term}{suffix}" for suffix in suffixes for term in terms}


AUXILIARY = [f"_{i}" for i in range(9)]


@pytest.mark.parametrize(("options", "proposals", "count"), [
    ({}, True, 105), ({"denoising": "standard"}, True, 85), ({"denoising": "no"}, True, 55),
    ({"box_loss": False}, True, 83), ({}, False, 95), ({"denoising": "no"}, False, 50),
    ({"deep_supervision": False}, True, 15), ({"deep_supervision": False}, False, 10)])
@pytest.mark.parametrize("with_denoising", [True, False])
def test_number_of_losses_of_nine_layers(options, proposals, count, with_denoising):
    losses = run(9, proposals, with_denoising and options.get("denoising") != "no", **options)
    assert len(losses) == count
    assert all(loss.dim() == 0 and loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize("with_denoising", [True, False])
def test_names(with_denoising):
    dn = ["_dn", *(f"_dn{suffix}" for suffix in AUXILIARY)]
    assert set(run(9, True, with_denoising)) == names(["", *AUXILIARY, "_interm", *dn])
    # Without proposals the first auxiliary prediction has no denoising losses, as published.
    later = [suffix for suffix in dn if suffix != "_dn_0"]
    assert set(run(9, False, with_denoising)) == names(["", *AUXILIARY, *later])
    without_masks = ("ce", "bbox", "giou")
    assert set(run(9, True, with_denoising, denoising="standard")) == (
        names(["", *AUXILIARY, "_interm"]) | names(dn, without_masks))
    assert set(run(9, True, with_denoising, box_loss=False)) == (
        names(["", *AUXILIARY, "_interm"], ("ce", "mask", "dice")) | names(dn))
    assert set(run(9, True, with_denoising, deep_supervision=False)) == names(["", "_interm", "_dn"])


def test_denoising_losses_are_zero_where_nothing_could_be_noised():
    targets = [image_targets([], boxes=[]), image_targets([], boxes=[])]
    losses = criterion()(outputs_of(prediction(batch=2), layers=2), targets)
    assert all(loss == 0 for name, loss in losses.items() if "_dn" in name or "_ce" not in name)
    # All queries are background at probability 1/2: 2 images, 3 queries, 2 classes, divided by 1.
    expected = 4.0 * 2 * 3 * 2 * 0.75 * 0.25 * math.log(2)
    assert losses["loss_ce"].item() == losses["loss_ce_interm"].item() == pytest.approx(expected, rel=1e-5)


def focal(p, positive):
    return -0.25 * (1 - p) ** 2 * math.log(p) if positive else -0.75 * p ** 2 * math.log(1 - p)


def test_class_loss_is_a_sum_over_queries_divided_by_the_objects():
    matching = prediction(num_queries=4, batch=2)
    matching.logits = torch.tensor([0.3, 0.6]).logit().expand(2, 4, 2)
    targets = [image_targets([0, 0], boxes=[BOX, BOX]), image_targets([1], boxes=[BOX])]
    losses = criterion(denoising="no")(outputs_of(matching), targets)
    said, unsaid = focal(0.3, True) + focal(0.6, False), focal(0.3, False) + focal(0.6, True)
    rest = 5 * (focal(0.3, False) + focal(0.6, False))
    assert losses["loss_ce"].item() == pytest.approx(4.0 * (2 * said + unsaid + rest) / 3, rel=1e-5)


def test_denoising_by_hand():
    # Two groups; three objects in the first image and one in the second, so that two slots of each group stay empty.
    groups, counts = 2, [3, 1]
    targets = [image_targets([0, 1, 0], boxes=[BOX] * 3), image_targets([1], boxes=[BOX])]
    known = prediction(num_queries=6, batch=2, boxes=[[0.6, 0.5, 0.2, 0.2]] * 12)       # each moved by half its width
    known.logits = torch.tensor([0.3, 0.6]).logit().expand(2, 6, 2)
    losses = criterion()(outputs_of(prediction(batch=2), denoising=([known], noised_of(counts, groups))), targets)
    norm = sum(counts) * groups
    zero, one = focal(0.3, True) + focal(0.6, False), focal(0.3, False) + focal(0.6, True)
    empty = focal(0.3, False) + focal(0.6, False)
    classes = groups * (2 * zero + 2 * one + 2 * empty) / norm
    assert losses["loss_ce_dn"].item() == pytest.approx(4.0 * classes, rel=1e-5)
    assert losses["loss_bbox_dn"].item() == pytest.approx(5.0 * 0.1, rel=1e-4)
    # Intersection 0.1 * 0.2 of a union and hull of 0.3 * 0.2.
    assert losses["loss_giou_dn"].item() == pytest.approx(2.0 * (1 - 1 / 3), rel=1e-3)
    # Logits of 0 against empty masks: log 2 at every point, and a dice of 1 / (P / 2 + 1).
    assert losses["loss_mask_dn"].item() == pytest.approx(5.0 * math.log(2), rel=1e-5)
    assert losses["loss_dice_dn"].item() == pytest.approx(5.0 * (1 - 1 / (POINTS / 2 + 1)), rel=1e-5)


def test_each_denoising_prediction_has_its_losses():
    targets = [image_targets([0], boxes=[BOX])]
    known = [prediction(1, boxes=[0.5 + shift, 0.5, 0.2, 0.2]) for shift in (0.1, 0.05, 0.0)]  # two auxiliary, the last
    losses = criterion()(outputs_of(prediction(), layers=2, denoising=(known, noised_of([1], 1))), targets)
    found = [losses[f"loss_bbox_dn{suffix}"].item() for suffix in ("_0", "_1", "")]
    assert found == pytest.approx([0.5, 0.25, 0.0], abs=1e-5)


def test_objects_of_a_group_are_not_matched_anew():
    # The queries hold each other's boxes: a matching would swap them, denoising must not.
    boxes = [[0.2, 0.5, 0.1, 0.1], [0.8, 0.5, 0.1, 0.1]]
    targets = [image_targets([0, 0], boxes=boxes)]
    swapped = prediction(2, boxes=boxes[::-1])
    losses = criterion()(outputs_of(swapped, denoising=([swapped], noised_of([2], 1))), targets)
    assert losses["loss_bbox"].item() == pytest.approx(0, abs=1e-5)
    assert losses["loss_bbox_dn"].item() == pytest.approx(5.0 * 0.6, rel=1e-4)


@pytest.mark.parametrize(("box_classes", "share"), [(None, 3), ({0}, 2), ({1}, 1), ({0, 1}, 3), (set(), 0)])
def test_boxes_of_some_classes_only(box_classes, share):
    # Every box is off by 0.1 in x. The sum is divided by all three objects, supervised or not.
    targets = [image_targets([0, 1], boxes=[BOX] * 2), image_targets([0], boxes=[BOX])]
    matching = prediction(num_queries=2, batch=2, boxes=[[0.6, 0.5, 0.2, 0.2]] * 4)
    loss = criterion(box_classes=box_classes)
    losses = loss(outputs_of(matching, layers=1, denoising=([matching] * 2, noised_of([2, 1], 1))), targets)
    for suffix in ("", "_0", "_interm", "_dn", "_dn_0"):
        assert losses[f"loss_bbox{suffix}"].item() == pytest.approx(5.0 * 0.1 * share / 3, abs=1e-5)
        assert losses[f"loss_giou{suffix}"].item() == pytest.approx(2.0 * (1 - 1 / 3) * share / 3, rel=1e-3, abs=1e-5)
        assert losses[f"loss_mask{suffix}"].item() == pytest.approx(5.0 * math.log(2), rel=1e-5)


def test_gradient_of_boxes_that_are_not_supervised_is_zero():
    boxes = torch.tensor([[BOX, BOX]], requires_grad=True)
    matching = predicted(torch.zeros(1, 2, 2), boxes=boxes)
    losses = criterion(box_classes={1}, denoising="no")(outputs_of(matching), [image_targets([0], boxes=[[0.1] * 4])])
    sum(losses[name] for name in ("loss_bbox", "loss_giou")).backward()
    assert torch.equal(boxes.grad, torch.zeros_like(boxes))


def test_terms_without_a_weight_are_left_out():
    weights = {"ce": 4.0, "bbox": 5.0}
    costs = {**COSTS, "mask": 0.0, "dice": 0.0}
    targets = [image_targets([0], boxes=[BOX])]
    targets[0].masks = None             # not looked at
    matching = prediction(2)
    losses = criterion(weights=weights, costs=costs)(
        outputs_of(matching, layers=1, denoising=([matching] * 2, noised_of([1], 2))), targets)
    assert set(losses) == names(["", "_0", "_interm", "_dn", "_dn_0"], weights)


def test_matching_uses_the_boxes():
    boxes = [[0.1, 0.1, 0.1, 0.1], [0.5, 0.5, 0.2, 0.2], [0.9, 0.9, 0.1, 0.1]]
    losses = criterion(denoising="no")(outputs_of(prediction(3, boxes=boxes)), [image_targets([0], boxes=[BOX])])
    assert losses["loss_bbox"].item() == pytest.approx(0, abs=1e-5)
    assert losses["loss_giou"].item() == pytest.approx(0, abs=1e-3)


def test_softmax_classes_with_the_focal_cost():
    # The semantic models: three logits for two classes, cross-entropy in the loss, sigmoids in the cost.
    matching = prediction(2)
    matching.logits = torch.tensor([[[2.0, 0.0, 0.0], [0.0, 0.0, 2.0]]])
    losses = criterion(class_loss="cross_entropy", denoising="no")(
        outputs_of(matching, proposals=False), [image_targets([0], boxes=[BOX])])
    each = math.log(math.exp(2) + 2) - 2
    assert losses["loss_ce"].item() == pytest.approx(4.0 * (each + 0.1 * each) / 1.1, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_are_float32_under_autocast(dtype):
    matching = predicted(torch.zeros(1, 2, 2, dtype=dtype), torch.zeros(1, 2, 8, 8, dtype=dtype), prediction(2).boxes)
    with torch.autocast("cpu", dtype):
        losses = criterion()(outputs_of(matching, denoising=([matching], noised_of([1], 2))),
                             [image_targets([0], boxes=[BOX])])
        zeros = criterion()(outputs_of(matching), [image_targets([], boxes=[])])
    assert all(loss.dtype == torch.float32 for loss in (*losses.values(), *zeros.values()))


def test_unknown_denoising():
    with pytest.raises(ValueError, match="denoising must be one of no, standard, seg, got 'masks'"):
        criterion(denoising="masks")


@pytest.mark.parametrize("options", [{"weights": {}}, {"weights": {"bbox": 5.0}, "box_loss": False}])
def test_nothing_to_learn(options):
    with pytest.raises(ValueError, match="weights leave no loss of the matched queries: {.*}, box_loss"):
        criterion(**options)

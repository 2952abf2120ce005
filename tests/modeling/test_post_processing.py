"""From padded mask logits to results of the size asked for: geometry by a slow bilinear rule, which results when."""
import math

import pytest
import torch

from freqdino.modeling.post_processing import Geometry, PostProcessing, SoftmaxScores


def resize_slowly(masks, size):
    """Bilinear with half-pixel centres, places beyond the outer centres held at them."""
    for dim, new in ((1, size[0]), (2, size[1])):
        old = masks.shape[dim]
        place = ((torch.arange(new) + 0.5) * old / new - 0.5).clamp(0, old - 1)
        low = place.floor().long()
        high = (low + 1).clamp(max=old - 1)
        shape = [-1 if d == dim else 1 for d in range(3)]
        share = (place - low).view(shape)
        masks = masks.index_select(dim, low) * (1 - share) + masks.index_select(dim, high) * share
    return masks


GEOMETRY = Geometry(padded=(32, 64), image=(30, 45), output=(60, 20))


def test_resize_cuts_the_padding_off():
    masks = torch.randn(3, 8, 16)
    padded = resize_slowly(masks, (32, 64))
    expected = resize_slowly(padded[:, :30, :45], (60, 20))
    assert torch.allclose(GEOMETRY.to_padded(masks), padded, atol=1e-5)
    assert torch.allclose(GEOMETRY.resize(masks), expected, atol=1e-5)


def test_the_size_of_the_image_needs_no_second_resize():
    geometry = Geometry(padded=(32, 64), image=(30, 45), output=(30, 45))
    masks = torch.randn(2, 32, 64)
    assert torch.equal(geometry.to_output(masks), masks[:, :30, :45])


def test_boxes_in_the_result():
    # x: 64 padded pixels, of which 45 become 20; y: 32, of which 30 become 60.
    boxes = torch.tensor([[0.5, 0.25, 0.25, 0.5], [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.5, 0.5]])
    x, y = 64 * 20 / 45, 32 * 60 / 30
    expected = [[0.375 * x, 0.0, 0.625 * x, 0.5 * y], [0.0] * 4, [0.75 * x, 0.75 * y, 1.25 * x, 1.25 * y]]
    assert torch.allclose(GEOMETRY.boxes_in_output(boxes), torch.tensor(expected))
    assert GEOMETRY.boxes_in_output(torch.zeros(0, 4)).shape == (0, 4)


def post_processing(*, semantic=False, instance=False, panoptic=False, **options):
    options = {"thing_classes": frozenset({0, 1}), "object_mask_threshold": 0.0, "overlap_threshold": 0.0,
               "max_instances": 4, "resize_before_semantic": instance or panoptic, **options}
    return PostProcessing(scores=SoftmaxScores(), semantic=semantic, instance=instance, panoptic=panoptic, **options)


LOGITS = torch.tensor([[4.0, 0, 0, 0], [0, 0, 3, 0], [0, 0, 0, 5.0]])      # class 0, class 2, no object


def raw_masks():
    return torch.randn(3, 8, 16) * 3


@pytest.mark.parametrize("before", [False, True])
def test_semantic_map_before_and_after_resizing(before):
    masks = raw_masks()
    scores = LOGITS.softmax(-1)[:, :3]
    padded = resize_slowly(masks, GEOMETRY.padded)

    def combine(m):
        return torch.stack([sum(scores[q, k] * m[q].sigmoid() for q in range(3)) for k in range(3)])

    def to_output(m):
        return resize_slowly(m[:, :30, :45], GEOMETRY.output)

    expected = combine(to_output(padded)) if before else to_output(combine(padded))
    result = post_processing(semantic=True, resize_before_semantic=before)(LOGITS, masks, GEOMETRY)
    assert set(result) == {"sem_seg"}
    assert torch.allclose(result["sem_seg"], expected, atol=1e-5)


def test_instances_have_masks_of_their_query():
    masks = raw_masks()
    result = post_processing(instance=True)(LOGITS, masks, GEOMETRY)["instances"]
    assert result.image_size == (60, 20) and len(result) == 4
    resized = resize_slowly(resize_slowly(masks, (32, 64))[:, :30, :45], (60, 20))
    best = result.scores.argsort(descending=True)
    pairs = LOGITS.softmax(-1)[:, :3]
    quality = [(m.sigmoid() * (m > 0)).sum() / (m > 0).sum() for m in resized]
    order = sorted(((pairs[q, k].item(), q, k) for q in range(3) for k in range(3)), reverse=True)[:2]
    for score, query, category in order:
        where = [i for i in best.tolist() if result.pred_classes[i] == category
                 and result.scores[i].item() == pytest.approx(score * quality[query].item(), rel=1e-4)]
        # A pixel whose logit is nearly 0 may fall to either side.
        assert any((result.pred_masks[i] == (resized[query] > 0)).float().mean() > 0.999 for i in where)


@pytest.mark.parametrize(("panoptic", "expected"), [(False, {0, 1, 2}), (True, {0, 1})])
def test_instances_are_things_where_there_is_a_panoptic_result_too(panoptic, expected):
    result = post_processing(instance=True, panoptic=panoptic, max_instances=9)(LOGITS, raw_masks(), GEOMETRY)
    assert set(result["instances"].pred_classes.tolist()) == expected


def test_all_three_results_and_their_sizes():
    result = post_processing(semantic=True, instance=True, panoptic=True)(LOGITS, raw_masks(), GEOMETRY)
    assert result["sem_seg"].shape == (3, 60, 20)
    assert result["instances"].pred_masks.shape[1:] == (60, 20)
    segments, info = result["panoptic_seg"]
    assert segments.shape == (60, 20)
    assert {(segment["category_id"], segment["isthing"]) for segment in info} <= {(0, True), (2, False)}


def test_segments_have_their_scores_where_asked_for():
    # With logits (9, 0, 0, 0) the class takes exp(9) / (exp(9) + 3) of the query.
    logits, masks = torch.tensor([[9.0, 0, 0, 0], [0, 0, 0, 9.0]]), torch.full((2, 4, 4), 5.0)
    geometry = Geometry(padded=(16, 16), image=(16, 16), output=(16, 16))
    for asked in (False, True):
        result = post_processing(panoptic=True, segment_scores=asked)(logits, masks, geometry)
        score = {"score": pytest.approx(math.exp(9) / (math.exp(9) + 3))} if asked else {}
        assert result["panoptic_seg"][1] == [{"id": 1, "isthing": True, "category_id": 0, **score}]


@pytest.mark.parametrize("semantic", [False, True])
def test_nothing_to_show(semantic):
    nothing = torch.tensor([[0.0, 0, 0, 9.0]] * 3)
    result = post_processing(semantic=semantic, instance=True, panoptic=True, thing_classes=frozenset())(
        nothing, raw_masks(), GEOMETRY)
    assert len(result["instances"]) == 0 and result["instances"].pred_masks.shape == (0, 60, 20)
    segments, info = result["panoptic_seg"]
    assert info == [] and segments.shape == (60, 20) and not segments.any()


def test_predicted_boxes_and_plain_scores():
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.25, 0.25, 0.5, 0.5], [0.1, 0.1, 0.1, 0.1]])
    make = post_processing(instance=True, max_instances=1, rescore_by_mask=False)
    result = make(LOGITS, raw_masks(), GEOMETRY, boxes)
    assert result["instances"].scores.item() == pytest.approx(LOGITS.softmax(-1)[0, 0].item())
    assert torch.equal(result["instances"].pred_boxes.tensor, GEOMETRY.boxes_in_output(boxes[:1]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_in_float32_out(dtype):
    result = post_processing(semantic=True, instance=True)(LOGITS.to(dtype), raw_masks().to(dtype), GEOMETRY,
                                                           torch.rand(3, 4).to(dtype))
    assert result["sem_seg"].dtype == result["instances"].scores.dtype == torch.float32
    assert result["instances"].pred_boxes.tensor.dtype == torch.float32

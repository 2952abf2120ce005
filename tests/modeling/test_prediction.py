"""Predictions: their published keys, masks of matched queries and masks at points, from the factors and from masks."""
from functools import partial

import pytest
import torch

from freqdino.modeling.prediction import Outputs, Prediction, matched_masks
from helpers.small_mask_dino import BOXES_ONLY, mask_dino_model
from helpers.small_models import example, small_model

BATCH, QUERIES, WIDTH, SIZE = 3, 6, 4, (5, 7)
LOGITS = torch.zeros(BATCH, QUERIES, 2)


def predictions(count, dtype=torch.float32):
    """Predictions of the same mask features, and the features."""
    features = torch.randn(BATCH, WIDTH, *SIZE).to(dtype).requires_grad_()
    return [Prediction(logits=LOGITS, mask_embedding=torch.randn(BATCH, QUERIES, WIDTH).to(dtype).requires_grad_(),
                       mask_features=features) for _ in range(count)], features


def match(*queries):
    """The given queries of each image; the objects are not read."""
    return [(torch.tensor(of_image, dtype=torch.int64), torch.arange(len(of_image))) for of_image in queries]


def by_definition(prediction, pairs):
    return torch.stack([torch.einsum("m,mhw->hw", prediction.mask_embedding[image, query],
                                     prediction.mask_features[image])
                        for image, (queries, _) in enumerate(pairs) for query in queries])


def test_masks_are_computed_once_and_when_they_are_asked_for():
    (prediction,), features = predictions(1)
    assert "pred_masks" in prediction and set(prediction) == {"pred_logits", "pred_masks"}
    assert "masks" not in vars(prediction)
    expected = (prediction.mask_embedding[..., None, None] * features[:, None]).sum(dim=2)
    assert torch.allclose(prediction.masks, expected, atol=1e-5)
    assert prediction["pred_masks"] is prediction.get("pred_masks") is prediction.masks
    prediction.masks.sum().backward()
    assert prediction.mask_embedding.grad.any() and features.grad.any()


def test_published_keys():
    (last, first), _ = predictions(2)
    outputs = Outputs(last=last, auxiliary=[first])
    assert list(outputs) == ["pred_logits", "pred_masks", "aux_outputs"] and len(outputs) == 3
    assert outputs["pred_logits"] is LOGITS and outputs["aux_outputs"] == [first]
    assert "masks" not in vars(last)
    for key in ("pred_boxes", "interm_outputs", "denoising", "masks"):
        assert key not in outputs and outputs.get(key) is None
        with pytest.raises(KeyError, match=key):
            outputs[key]
    assert outputs.as_dict() == {"pred_logits": LOGITS, "pred_masks": last.masks,
                                 "aux_outputs": [{"pred_logits": LOGITS, "pred_masks": first.masks}]}


def test_published_keys_of_mask_dino():
    last, first, proposals, known = predictions(4)[0]
    last.boxes = boxes = torch.zeros(BATCH, QUERIES, 4)
    outputs = Outputs(last=last, auxiliary=[first], proposals=proposals, denoising=([known], "noised"))
    found = outputs.as_dict()
    assert list(found) == list(outputs) == ["pred_logits", "pred_masks", "pred_boxes", "aux_outputs", "interm_outputs",
                                            "denoising"]
    assert found["pred_boxes"] is boxes and found["interm_outputs"]["pred_masks"] is proposals.masks
    assert found["denoising"] == ([{"pred_logits": LOGITS, "pred_masks": known.masks}], "noised")
    assert outputs["interm_outputs"] is proposals and outputs["denoising"] == ([known], "noised")


@pytest.mark.parametrize("build", [small_model, mask_dino_model, partial(mask_dino_model, BOXES_ONLY)])
def test_training_computes_no_whole_masks(build, monkeypatch):
    model, batch = build().train(), [example(64, 96, [0, 2]), example(64, 96, [])]
    monkeypatch.setattr(Prediction, "masks", property(lambda self: pytest.fail("nobody reads all of them")))
    sum(model(batch).values()).backward()
    # Distributed training wants every parameter in the graph, whatever the losses read.
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_masks_of_matched_queries():
    (first, second), features = predictions(2)
    matches = [match([4, 0], [], [5, 1, 2]), match([3], [3], [])]
    found = matched_masks([(first, matches[0]), (second, matches[1])])
    for masks, prediction, pairs in zip(found, (first, second), matches, strict=True):
        assert "masks" not in vars(prediction)
        assert torch.allclose(masks, by_definition(prediction, pairs), atol=1e-5)
    sources = (features, first.mask_embedding, second.mask_embedding)
    expected = sum(by_definition(*pair).square().sum() for pair in zip((first, second), matches))
    for a, b in zip(torch.autograd.grad(sum(masks.square().sum() for masks in found), sources),
                    torch.autograd.grad(expected, sources), strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def test_masks_without_factors_are_taken_as_they_are():
    (factored,), _ = predictions(1)
    plain = [Prediction(logits=LOGITS, mask_features=torch.randn(BATCH, QUERIES, *SIZE)) for _ in range(2)]
    pairs = match([1], [2, 3], [0])
    found = matched_masks([(plain[0], pairs), (factored, pairs), (plain[1], pairs)])
    assert torch.allclose(found[1], by_definition(factored, pairs), atol=1e-5)
    for masks, prediction in ((found[0], plain[0]), (found[2], plain[1])):
        known = prediction["pred_masks"]
        assert known is prediction.mask_features
        assert torch.equal(masks, torch.stack((known[0, 1], known[1, 2], known[1, 3], known[2, 0])))


def test_no_match_keeps_the_graph():
    (prediction,), features = predictions(1)
    masks, = matched_masks([(prediction, match([], [], []))])
    assert masks.shape == (0, *SIZE)
    masks.sum().backward()
    assert not features.grad.any() and not prediction.mask_embedding.grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_masks_at_points_are_those_of_the_computed_masks(dtype):
    (prediction,), _ = predictions(1, dtype)
    points = torch.rand(20, 2) * 1.2 - 0.1      # some lie outside
    found = prediction.masks_at(1, points)
    assert "masks" not in vars(prediction) and found.dtype == torch.float32
    masks = torch.einsum("qm,mhw->qhw", prediction.mask_embedding[1].float(), prediction.mask_features[1].float())
    computed = Prediction(logits=LOGITS, mask_features=masks[None])
    assert torch.allclose(found, computed.masks_at(0, points), atol=1e-5)

"""Masks of matched queries and masks at points, from the factors and from computed masks."""
import pytest
import torch

from freqdino.modeling.prediction import DeferredMasksPrediction, masks_at_points, matched_masks

BATCH, QUERIES, WIDTH, SIZE = 3, 6, 4, (5, 7)


def predictions(count):
    """Deferred predictions of the same mask features, and the features."""
    features = torch.randn(BATCH, WIDTH, *SIZE, requires_grad=True)
    return [DeferredMasksPrediction({}, mask_embedding=torch.randn(BATCH, QUERIES, WIDTH, requires_grad=True),
                                    mask_features=features) for _ in range(count)], features


def match(*queries):
    """The given queries of each image; the objects are not read."""
    return [(torch.tensor(of_image, dtype=torch.int64), torch.arange(len(of_image))) for of_image in queries]


def by_definition(prediction, pairs):
    return torch.stack([torch.einsum("m,mhw->hw", prediction.mask_embedding[image, query],
                                     prediction.mask_features[image])
                        for image, (queries, _) in enumerate(pairs) for query in queries])


def test_masks_of_matched_queries():
    (first, second), features = predictions(2)
    matches = [match([4, 0], [], [5, 1, 2]), match([3], [3], [])]
    found = matched_masks([(first, matches[0]), (second, matches[1])])
    for masks, prediction, pairs in zip(found, (first, second), matches, strict=True):
        assert "pred_masks" not in prediction
        assert torch.allclose(masks, by_definition(prediction, pairs), atol=1e-5)
    sources = (features, first.mask_embedding, second.mask_embedding)
    expected = sum(by_definition(*pair).square().sum() for pair in zip((first, second), matches))
    for a, b in zip(torch.autograd.grad(sum(masks.square().sum() for masks in found), sources),
                    torch.autograd.grad(expected, sources), strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def test_masks_of_plain_predictions_are_taken_as_they_are():
    (deferred,), _ = predictions(1)
    plain = [{"pred_masks": torch.randn(BATCH, QUERIES, *SIZE)} for _ in range(2)]
    pairs = match([1], [2, 3], [0])
    found = matched_masks([(plain[0], pairs), (deferred, pairs), (plain[1], pairs)])
    assert torch.allclose(found[1], by_definition(deferred, pairs), atol=1e-5)
    for masks, prediction in ((found[0], plain[0]), (found[2], plain[1])):
        known = prediction["pred_masks"]
        assert torch.equal(masks, torch.stack((known[0, 1], known[1, 2], known[1, 3], known[2, 0])))


def test_no_match_keeps_the_graph():
    (prediction,), features = predictions(1)
    masks, = matched_masks([(prediction, match([], [], []))])
    assert masks.shape == (0, *SIZE)
    masks.sum().backward()
    assert not features.grad.any() and not prediction.mask_embedding.grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_masks_at_points_are_those_of_the_computed_masks(dtype):
    prediction = DeferredMasksPrediction({}, mask_embedding=torch.randn(BATCH, QUERIES, WIDTH).to(dtype),
                                         mask_features=torch.randn(BATCH, WIDTH, *SIZE).to(dtype))
    points = torch.rand(20, 2) * 1.2 - 0.1      # some lie outside
    found = masks_at_points(prediction, 1, points)
    assert "pred_masks" not in prediction and found.dtype == torch.float32
    masks = torch.einsum("qm,mhw->qhw", prediction.mask_embedding[1].float(), prediction.mask_features[1].float())
    assert torch.allclose(found, masks_at_points({"pred_masks": masks[None]}, 0, points), atol=1e-5)

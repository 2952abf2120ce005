"""What Mask DINO makes of known predictions: boxes, scores, semantic maps and panoptic segments by hand."""
import pytest
import torch
from detectron2.data import MetadataCatalog
from torch import nn

from freqdino.modeling.prediction import Outputs
from helpers.behaviour import evaluate
from helpers.small_mask_dino import BOXES_ONLY, SEMANTIC, mask_dino_model
from helpers.small_models import example
from helpers.targets import image_targets, predicted

PREFIX = "MODEL.MaskDINO."


class FixedPrediction(nn.Module):
    """A head that answers every image alike."""

    def __init__(self, probabilities, masks=None, boxes=None):
        super().__init__()
        logits = torch.tensor(probabilities).logit()
        self.outputs = Outputs(last=predicted(
            logits[None], torch.ones(1, len(logits), 16, 24) if masks is None else masks[None],
            torch.full((1, len(logits), 4), 0.5) if boxes is None else torch.tensor(boxes)[None]))

    def forward(self, features, targets=None):
        return self.outputs


def results(head, image=None, train=(), **test):
    """What a model with that head and those keys of TEST makes of an image of 64 by 96; ``train``: its data set."""
    model = mask_dino_model({"DATASETS.TRAIN": train, **{f"{PREFIX}TEST.{key}": value for key, value in test.items()}})
    model.sem_seg_head = head
    return evaluate(model, image or example(64, 96))[0]


def test_boxes_are_scaled_to_the_result():
    # 48 by 80 is padded to 64 by 96. The boxes are x 36..60, y 0..32 of the padded input, and all of it.
    head = FixedPrediction([[0.9, 0.1, 0.1], [0.1, 0.2, 0.1]], boxes=[[0.5, 0.25, 0.25, 0.5], [0.5, 0.5, 1.0, 1.0]])
    instances = results(head, example(48, 80, height=96, width=40), PANOPTIC_ON=False)["instances"]
    best = instances[instances.scores > 0.5]
    assert torch.allclose(best.pred_boxes.tensor, torch.tensor([[18.0, 0.0, 30.0, 64.0]]), atol=1e-4)
    other = instances[(instances.scores < 0.5) & (instances.pred_classes == 1) & (instances.scores > 0.11)]
    assert torch.allclose(other.pred_boxes.tensor, torch.tensor([[0.0, 0.0, 48.0, 128.0]]), atol=1e-4)  # not clipped


def test_scores_are_sigmoids_times_the_quality_of_the_mask():
    probabilities = [[0.9, 0.4, 0.2]]
    mask = torch.full((1, 16, 24), 2.0)
    expected = torch.tensor([0.9, 0.4, 0.2])
    for focus, factor in ((True, 1.0), (False, torch.tensor(2.0).sigmoid())):
        instances = results(FixedPrediction(probabilities, mask), PANOPTIC_ON=False,
                            TEST_FOUCUS_ON_BOX=focus)["instances"]
        scores, order = instances.scores.sort(descending=True)
        assert torch.allclose(scores, expected * factor, atol=1e-4)
        assert instances.pred_classes[order].tolist() == [0, 1, 2]


def panoptic_data_set():
    """A data set of three classes, of which only the second has instances."""
    name = "mask_dino_test"
    MetadataCatalog.get(name).set(
        thing_classes=["road", "cat", "sky"], stuff_classes=["road", "cat", "sky"], evaluator_type="coco_panoptic_seg",
        thing_dataset_id_to_contiguous_id={7: 1}, stuff_dataset_id_to_contiguous_id={1: 0, 9: 2})
    return (name,)


@pytest.mark.parametrize(("panoptic", "classes"), [(True, {1}), (False, {0, 1, 2})])
def test_instances_are_of_things_where_panoptic_is_on(panoptic, classes):
    head = FixedPrediction([[0.9, 0.8, 0.7]])
    result = results(head, PANOPTIC_ON=panoptic, train=panoptic_data_set())
    assert set(result["instances"].pred_classes.tolist()) == classes
    if panoptic:
        assert result["panoptic_seg"][1] == [{"id": 1, "isthing": False, "category_id": 0}]


@pytest.mark.parametrize(("transform", "winner"), [(True, 1), (False, 0)])
def test_panoptic_scores_compete_through_the_temperature(transform, winner):
    # The first query is unsure between the classes: 1 / (1 + 2 exp(-0.05 / 0.06)) = 0.54 after the softmax, the second
    # has next to 1. By their plain sigmoids the first wins.
    head = FixedPrediction([[0.9, 0.85, 0.85], [0.1, 0.7, 0.1]])
    segments, info = results(head, PANO_TRANSFORM_EVAL=transform, OBJECT_MASK_THRESHOLD=0.25,
                             OVERLAP_THRESHOLD=0.8)["panoptic_seg"]
    assert [segment["category_id"] for segment in info] == [winner]
    assert (segments == 1).all()


def test_panoptic_threshold_is_on_the_plain_sigmoid():
    head = FixedPrediction([[0.24, 0.01, 0.01]])        # 0.96 after the softmax
    for threshold, count in ((0.25, 0), (0.23, 1)):
        assert len(results(head, OBJECT_MASK_THRESHOLD=threshold)["panoptic_seg"][1]) == count


@pytest.mark.parametrize("transform", [True, False])
def test_semantic_map(transform):
    probabilities = torch.tensor([[0.9, 0.8, 0.1], [0.2, 0.3, 0.1]])
    masks = torch.tensor([1.0, -1.0])[:, None, None].expand(2, 16, 24)
    semantic = results(FixedPrediction(probabilities.tolist(), masks), PANO_TRANSFORM_EVAL=transform)["sem_seg"]
    shares = (probabilities / 0.06).softmax(dim=1) if transform else probabilities
    expected = shares[0] * torch.tensor(1.0).sigmoid() + shares[1] * torch.tensor(-1.0).sigmoid()
    assert torch.allclose(semantic, expected[:, None, None].expand(3, 64, 96), atol=1e-4)


def test_semantic_model():
    model = mask_dino_model(SEMANTIC)
    assert model.sem_seg_head.predictor.class_embed.out_features == 4
    assert model.sem_seg_head.predictor.label_enc.num_embeddings == 3
    model.sem_seg_head = FixedPrediction([[0.5, 0.5, 0.5, 0.5]], torch.full((1, 16, 24), 1.0))
    result, = evaluate(model, example(64, 96))
    assert set(result) == {"sem_seg"}
    # Four equal logits give each a quarter, and "no object" is left out.
    expected = 0.25 * torch.tensor(1.0).sigmoid()
    assert torch.allclose(result["sem_seg"], expected.expand(3, 64, 96), atol=1e-5)


def test_semantic_model_matches_by_sigmoids():
    # A softmax favours the first query for class 0, the sigmoid the second.
    match = mask_dino_model({**SEMANTIC, **BOXES_ONLY}).criterion.matcher
    prediction = predicted(torch.tensor([[[1.0, -9.0, -9.0, -9.0], [2.0, 2.0, 2.0, 2.0]]]),
                           boxes=torch.full((1, 2, 4), 0.5))
    queries, objects = match(prediction, [image_targets([0], boxes=[[0.5, 0.5, 0.5, 0.5]])])[0]
    assert queries.tolist() == [1] and objects.tolist() == [0]

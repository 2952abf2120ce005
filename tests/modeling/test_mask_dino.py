"""The whole Mask DINO: every option trains, fewer tokens than queries, boxes without masks."""
import pytest
import torch
from detectron2.structures import Boxes, Instances

from helpers.behaviour import assert_result, evaluate, train
from helpers.small_mask_dino import BOXES_ONLY, SEMANTIC, mask_dino_model
from helpers.small_models import example

TERMS = ("loss_ce", "loss_mask", "loss_dice", "loss_bbox", "loss_giou")
SUFFIXES = ("", "_0", "_1", "_interm", "_dn", "_dn_0", "_dn_1")
NAMES = {f"{term}{suffix}" for term in TERMS for suffix in SUFFIXES}
PREFIX = "MODEL.MaskDINO."
VARIANTS = {
    "two-stage": {},
    "bitmask": {f"{PREFIX}INITIALIZE_BOX_TYPE": "bitmask"},
    "mask2box": {f"{PREFIX}INITIALIZE_BOX_TYPE": "mask2box"},
    "learned content": {f"{PREFIX}LEARN_TGT": True},
    "learned queries": {f"{PREFIX}TWO_STAGE": False},
    "no initial prediction": {f"{PREFIX}INITIAL_PRED": False},
    "no denoising": {f"{PREFIX}DN": "no"},
    "denoising without masks": {f"{PREFIX}DN": "standard"},
    "no box loss": {f"{PREFIX}BOX_LOSS": False},
    "no loss of boxes at all": {f"{PREFIX}BOX_LOSS": False, f"{PREFIX}DN": "no"},
    "no loss of masks": BOXES_ONLY,
    "no loss of classes": {f"{PREFIX}CLASS_WEIGHT": 0.0},
    "padded boxes": {f"{PREFIX}BOX_FRAME": "padded"},
    "five levels": {"MODEL.SEM_SEG_HEAD.TOTAL_NUM_FEATURE_LEVELS": 5, "MODEL.SEM_SEG_HEAD.FEATURE_ORDER": "low2high"},
    "semantic": SEMANTIC,
}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return mask_dino_model()


@pytest.mark.parametrize("name", VARIANTS)
def test_every_parameter_has_a_gradient(name):
    model = mask_dino_model(VARIANTS[name])
    train(model, example(64, 96, [0, 2]), example(96, 64, [1]))
    train(model, example(64, 64, []), example(64, 64, [1, 1, 0]))
    losses = train(model, example(64, 64, []))
    assert all(loss == 0 for name, loss in losses.items() if "_ce" not in name or "_dn" in name)
    assert not model.sem_seg_head.predictor.label_enc.weight.grad.any()
    assert_finite(evaluate(model, example(64, 96)))


def assert_finite(results):
    assert all(result["sem_seg"].isfinite().all() for result in results)


@pytest.mark.parametrize("name", ["two-stage", "bitmask", "mask2box", "learned content", "learned queries"])
def test_fewer_tokens_than_queries(name):
    model = mask_dino_model({**VARIANTS[name], f"{PREFIX}NUM_OBJECT_QUERIES": 40})
    image = example(32, 32, [0, 1])             # levels of 1, 4 and 16 tokens
    train(model, image)
    result, = evaluate(model, image)
    assert_result(result, 32, 32)
    queries = []
    model.sem_seg_head.register_forward_hook(lambda *call: queries.append(call[-1]["pred_logits"].shape[1]))
    evaluate(model, image)
    assert queries == [40 if name == "learned queries" else 21]


# Ground truth

def boxes_example(height, width, labels, boxes, **entries):
    """An input whose instances have boxes (xyxy) and no masks."""
    result = example(height, width, **entries)
    result["instances"] = Instances((height, width), gt_classes=torch.tensor(labels, dtype=torch.int64),
                                    gt_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).view(-1, 4)))
    return result


def criterion_targets(model, *examples):
    """What the criterion gets of a batch."""
    seen = []
    handle = model.criterion.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[1]))
    train(model, *examples)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize(("frame", "first", "second"), [
    ("image", [25 / 60, 25 / 40, 30 / 60, 10 / 40], [48 / 96, 32 / 64, 96 / 96, 64 / 64]),
    ("padded", [25 / 96, 25 / 64, 30 / 96, 10 / 64], [48 / 96, 32 / 64, 96 / 96, 64 / 64])])
def test_frame_of_the_boxes(frame, first, second):
    model = mask_dino_model({f"{PREFIX}BOX_FRAME": frame})
    masks = torch.zeros(1, 40, 60, dtype=torch.bool)
    masks[0, 20:30, 10:40] = True
    small = example(40, 60, [1], masks=masks)
    large = example(64, 96, [0], masks=torch.ones(1, 64, 96, dtype=torch.bool))
    of_masks = criterion_targets(model, small, large)           # boxes that are absent are those of the masks
    small["instances"].gt_boxes = Boxes(torch.tensor([[10.0, 20.0, 40.0, 30.0]]))
    large["instances"].gt_boxes = Boxes(torch.tensor([[0.0, 0.0, 96.0, 64.0]]))
    of_boxes = criterion_targets(model, small, large)
    for targets in (of_masks, of_boxes):
        assert torch.allclose(targets[0].boxes, torch.tensor([first]))
        assert torch.allclose(targets[1].boxes, torch.tensor([second]))
        assert targets[0].masks.shape == (1, 64, 96) and targets[0].masks.sum() == 300


def test_given_boxes_rule_over_the_masks(model):
    image = example(64, 64, [0], masks=torch.ones(1, 64, 64, dtype=torch.bool))
    image["instances"].gt_boxes = Boxes(torch.tensor([[16.0, 0.0, 48.0, 16.0]]))
    targets = criterion_targets(model, image)
    assert targets[0].boxes.tolist() == [[0.5, 0.125, 0.5, 0.25]]


@pytest.mark.parametrize("kind", ["no", "bitmask", "mask2box"])
def test_boxes_alone(kind):
    model = mask_dino_model({**BOXES_ONLY, f"{PREFIX}INITIALIZE_BOX_TYPE": kind})
    objects = boxes_example(64, 96, [0, 2], [[0, 0, 20, 30], [40, 10, 90, 60]])
    losses = train(model, objects, boxes_example(64, 64, [], []))
    assert set(losses) == {name for name in NAMES if "mask" not in name and "dice" not in name}
    predictor = model.sem_seg_head.predictor
    assert predictor.class_embed.weight.grad.any() and predictor._bbox_embed.layers[-1].weight.grad.any()
    result, = evaluate(model, example(64, 96))
    assert_result(result, 64, 96)


@pytest.mark.parametrize("key", BOXES_ONLY)
def test_one_mask_weight_asks_for_masks(key):
    model = mask_dino_model({**BOXES_ONLY, key: 1.0}).train()
    with pytest.raises(ValueError, match="with_masks must be off, .* street.jpg: the ground truth has no masks"):
        model([boxes_example(64, 64, [0], [[0, 0, 20, 30]], file_name="street.jpg")])


def test_neither_boxes_nor_masks():
    image = example(64, 64, file_name="street.jpg")
    image["instances"] = Instances((64, 64), gt_classes=torch.tensor([1]))
    with pytest.raises(ValueError, match="street.jpg: the ground truth has neither boxes nor masks"):
        mask_dino_model(BOXES_ONLY).train()([image])


def test_losses_of_the_semantic_model():
    losses = train(mask_dino_model(SEMANTIC), example(64, 64, [0, 2]))
    assert set(losses) == {name for name in NAMES if "interm" not in name and not name.endswith("_dn_0")}

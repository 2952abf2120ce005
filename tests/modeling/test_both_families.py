"""Both families' whole models on unusual input: no objects, emptied masks, odd and tiny images, half precision."""
import pytest
import torch
from torch import nn

from helpers.behaviour import assert_result, evaluate, train
from helpers.small_mask_dino import mask_dino_model
from helpers.small_models import RESNET18, example, small_model

FAMILIES = {"Mask2Former": small_model, "Mask DINO": mask_dino_model}
NAMES = {
    "Mask2Former": {f"loss_{term}{suffix}" for term in ("ce", "mask", "dice") for suffix in ("", "_0", "_1", "_2")},
    "Mask DINO": {f"loss_{term}{suffix}" for term in ("ce", "mask", "dice", "bbox", "giou")
                  for suffix in ("", "_0", "_1", "_interm", "_dn", "_dn_0", "_dn_1")}}
SIZES = [(1, 1), (1, 70), (33, 1), (37, 53), (96, 64)]
both_families = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    return {family: build() for family, build in FAMILIES.items()}


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def model(models, family):
    return models[family]


@both_families
def test_every_parameter_learns(family):
    model = FAMILIES[family](RESNET18)
    for name, parameter in model.named_parameters():
        # At the start these are zero, so that where a token stands, on which level, and in which box changes nothing.
        if name.endswith(("sampling_offsets.weight", "attention_weights.weight", "_bbox_embed.layers.2.weight")):
            nn.init.normal_(parameter, std=0.01)
    train(model, example(64, 96, [0, 2]), example(96, 64, [1]))
    for name, parameter in model.named_parameters():
        assert parameter.grad.any(), name


@pytest.mark.parametrize("labels", [[[0]], [[0, 1, 2]], [[]], [[], []], [[], [0, 1]], [[1] * 20]], ids=str)
def test_the_losses_do_not_depend_on_the_objects(model, family, labels):
    losses = train(model, *(example(64, 64, of_image) for of_image in labels))
    assert set(losses) == NAMES[family]
    if not any(labels):
        assert all((loss > 0) == name.startswith("loss_ce") for name, loss in losses.items() if "_dn" not in name)
        assert all(loss == 0 for name, loss in losses.items() if "_dn" in name)


def test_masks_emptied_by_a_crop(model):
    train(model, example(64, 64, [0, 1], masks=torch.zeros(2, 64, 64, dtype=torch.bool)))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_odd_sizes(model, height, width):
    train(model, example(height, width, [0]))
    result, = evaluate(model, example(height, width))
    assert_result(result, height, width)


def test_mixed_sizes_in_a_batch(model):
    train(model, *(example(height, width, [0, 1]) for height, width in SIZES[1:]))
    results = evaluate(model, *(example(height, width) for height, width in SIZES))
    for result, (height, width) in zip(results, SIZES, strict=True):
        assert_result(result, height, width)


def test_evaluation_needs_no_ground_truth_and_is_deterministic(model):
    image = example(64, 96, [0])
    (first,), (second,) = evaluate(model, image), evaluate(model, {**image, "instances": None})
    assert torch.equal(first["sem_seg"], second["sem_seg"])
    assert torch.equal(first["instances"].scores, second["instances"].scores)
    assert torch.equal(first["instances"].pred_boxes.tensor, second["instances"].pred_boxes.tensor)
    assert torch.equal(first["panoptic_seg"][0], second["panoptic_seg"][0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("family", "options"), [
    ("Mask2Former", {}), ("Mask DINO", {}), ("Mask DINO", {"MODEL.MaskDINO.INITIALIZE_BOX_TYPE": "bitmask"}),
    ("Mask DINO", {"MODEL.MaskDINO.TWO_STAGE": False})], ids=str)
def test_autocast(family, options, dtype):
    model = FAMILIES[family](options)
    images = example(64, 96, [0, 2]), example(96, 64, [1])

    def total():
        torch.manual_seed(5)
        return sum(train(model, *images).values()).item()

    expected, exact = total(), evaluate(model, *images)
    with torch.autocast("cpu", dtype):
        actual, results = total(), evaluate(model, *images)
    assert actual == pytest.approx(expected, rel=0.03)
    for result, reference in zip(results, exact, strict=True):
        instances = result["instances"]
        assert_result(result, *instances.image_size)
        assert instances.scores.dtype == instances.pred_boxes.tensor.dtype == torch.float32
        if family == "Mask2Former":     # Mask DINO's queries may be other tokens
            assert (result["sem_seg"] - reference["sem_seg"]).abs().mean() < 0.05 * reference["sem_seg"].mean()


@both_families
def test_one_class(family):
    model = FAMILIES[family]({"MODEL.SEM_SEG_HEAD.NUM_CLASSES": 1})
    assert set(train(model, example(64, 64, [0, 0]))) == NAMES[family]
    result, = evaluate(model, example(64, 64))
    assert_result(result, 64, 64, num_classes=1)
    assert len(result["instances"]) == 6                # one pair a query, fewer than the ten asked for


def test_messages_name_the_image(model):
    with pytest.raises(ValueError, match="num_classes is 3, but street.jpg has a class index of 3"):
        model.train()([example(64, 64, [3], file_name="street.jpg")])
    with pytest.raises(ValueError, match="image 17: training needs 'instances'"):
        model.train()([example(64, 64, image_id=17)])


@pytest.mark.parametrize(("family", "part"), [("Mask2Former", "class_embed.bias"), ("Mask DINO", "class_embed.bias"),
                                              ("Mask DINO", "_bbox_embed.layers.2.bias")])
def test_diverged_weights_name_image_and_term(family, part):
    model = FAMILIES[family]()
    nn.init.constant_(model.sem_seg_head.predictor.get_parameter(part), float("nan"))
    with pytest.raises(ValueError, match="street.jpg: the matching cost 'class' is not finite"):
        model.train()([example(64, 64, [1], file_name="street.jpg")])

"""The whole model on unusual input: no objects, emptied masks, odd and tiny images, many objects, half precision."""
import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks

from helpers.small_models import RESNET18, example, small_model

TERMS = ("loss_ce", "loss_mask", "loss_dice")
NAMES = {f"{term}{suffix}" for term in TERMS for suffix in ("", "_0", "_1", "_2")}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return small_model()


def train(model, *examples):
    """The losses, all finite, after a backward pass."""
    model.train()
    model.zero_grad()
    losses = model(examples)
    assert set(losses) == NAMES
    assert all(loss.isfinite() and loss.dim() == 0 for loss in losses.values())
    sum(losses.values()).backward()
    return losses


def evaluate(model, *examples):
    model.eval()
    with torch.no_grad():
        return model(examples)


def assert_gradients(model):
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_every_parameter_learns():
    model = small_model(RESNET18)
    for name, parameter in model.named_parameters():
        # At the start these are zero, so that where a token stands, and on which level, changes nothing.
        if name.endswith(("sampling_offsets.weight", "attention_weights.weight")):
            torch.nn.init.normal_(parameter, std=0.01)
    train(model, example(64, 96, [0, 2]), example(96, 64, [1]))
    assert_gradients(model)
    for name, parameter in model.named_parameters():
        assert parameter.grad.any(), name


def test_batch_of_one(model):
    train(model, example(64, 64, [0]))
    assert_gradients(model)


def test_image_without_objects_in_a_batch(model):
    train(model, example(64, 64, []), example(64, 64, [0, 1]))
    assert_gradients(model)


@pytest.mark.parametrize("size", [1, 2])
def test_batch_without_objects(model, size):
    losses = train(model, *(example(64, 64, []) for _ in range(size)))
    assert all(loss == 0 for name, loss in losses.items() if not name.startswith("loss_ce"))
    assert all(loss > 0 for name, loss in losses.items() if name.startswith("loss_ce"))
    assert_gradients(model)


def test_masks_emptied_by_a_crop(model):
    train(model, example(64, 64, [0, 1], masks=torch.zeros(2, 64, 64, dtype=torch.bool)))
    assert_gradients(model)


def test_more_objects_than_queries(model):
    train(model, example(64, 64, [0] * 20))
    assert_gradients(model)


def test_bit_masks_are_the_same_ground_truth(model):
    tensors = example(64, 64, [0, 1])
    bits = {**tensors, "instances": tensors["instances"][:]}
    bits["instances"].gt_masks = BitMasks(tensors["instances"].gt_masks)
    losses = []
    for one in (tensors, bits):
        torch.manual_seed(3)
        losses.append(train(model, one))
    assert losses[0] == losses[1]


SIZES = [(1, 1), (1, 70), (33, 1), (37, 53), (96, 64)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_odd_sizes_train_and_evaluate(model, height, width):
    train(model, example(height, width, [0]))
    assert_gradients(model)
    result, = evaluate(model, example(height, width))
    assert_result(result, height, width)


def assert_result(result, height, width, num_classes=3):
    assert result["sem_seg"].shape == (num_classes, height, width) and result["sem_seg"].isfinite().all()
    assert result["instances"].image_size == (height, width)
    assert result["instances"].pred_masks.shape[1:] == (height, width)
    assert result["instances"].scores.isfinite().all()
    segments, info = result["panoptic_seg"]
    assert segments.shape == (height, width) and segments.dtype == torch.int32
    assert set(segments.unique().tolist()) - {0} == {segment["id"] for segment in info}


def test_mixed_sizes_in_a_batch(model):
    train(model, *(example(height, width, [0, 1]) for height, width in SIZES[1:]))
    results = evaluate(model, *(example(height, width) for height, width in SIZES))
    assert len(results) == len(SIZES)
    for result, (height, width) in zip(results, SIZES):
        assert_result(result, height, width)


def test_an_image_counts_for_itself_whatever_its_neighbours_show(model):
    # Both fill the padded size, so that only the other image's content could leak.
    first, other = example(64, 64), example(64, 64)
    alone, = evaluate(model, first)
    together, _ = evaluate(model, first, other)
    assert torch.allclose(alone["sem_seg"], together["sem_seg"], atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(120, 30), (1, 1), (64, 96)])
def test_result_of_the_size_asked_for(model, height, width):
    result, = evaluate(model, example(64, 96, height=height, width=width))
    assert_result(result, height, width)


def test_boxes_are_those_of_the_masks(model):
    result, = evaluate(model, example(64, 96, height=50, width=70))
    instances = result["instances"]
    assert len(instances)
    for mask, box in zip(instances.pred_masks.numpy(), instances.pred_boxes.tensor.tolist()):
        rows, columns = np.nonzero(mask)
        expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else [0, 0, 0, 0]
        assert box == expected


def test_evaluation_is_deterministic_and_needs_no_ground_truth(model):
    image = example(64, 96)
    first, second = evaluate(model, image), evaluate(model, {**image, "instances": None})
    assert torch.equal(first[0]["sem_seg"], second[0]["sem_seg"])
    assert torch.equal(first[0]["instances"].scores, second[0]["instances"].scores)
    assert torch.equal(first[0]["panoptic_seg"][0], second[0]["panoptic_seg"][0])


def test_normalisation_is_not_in_the_state(model):
    assert not any(key.startswith("pixel_") for key in model.state_dict())
    assert torch.equal(model.pixel_mean.flatten(), torch.tensor([103.530, 116.280, 123.675]))


def test_padding_is_zero_after_normalisation():
    model = small_model()
    model.eval()
    seen = []
    model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    image = torch.full((3, 33, 20), 255, dtype=torch.uint8)
    evaluate(model, {"image": image})
    padded, = seen
    assert padded.shape == (1, 3, 64, 32)
    expected = (255 - model.pixel_mean) / model.pixel_std
    assert torch.allclose(padded[0, :, :33, :20], expected.expand(-1, 33, 20))
    assert not padded[:, :, 33:].any() and not padded[:, :, :, 20:].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(model, dtype):
    images = example(64, 96, [0, 2]), example(96, 64, [1])

    def total():
        torch.manual_seed(5)
        losses = train(model, *images)
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        return sum(losses.values()).item()

    expected, exact = total(), evaluate(model, *images)
    with torch.autocast("cpu", dtype):
        actual, results = total(), evaluate(model, *images)
    assert_gradients(model)
    assert actual == pytest.approx(expected, rel=0.03)
    for result, reference in zip(results, exact):
        assert_result(result, *result["instances"].image_size)
        assert result["instances"].scores.dtype == torch.float32
        assert (result["sem_seg"] - reference["sem_seg"]).abs().mean() < 0.05 * reference["sem_seg"].mean()


def test_one_class():
    model = small_model({"MODEL.SEM_SEG_HEAD.NUM_CLASSES": 1})
    train(model, example(64, 64, [0, 0]))
    result, = evaluate(model, example(64, 64))
    assert_result(result, 64, 64, num_classes=1)
    assert len(result["instances"]) == 6                # one pair a query, fewer than the ten asked for


def test_messages_name_the_image(model):
    model.train()
    with pytest.raises(ValueError, match="num_classes is 3, but street.jpg has a class index of 3"):
        model([example(64, 64, [3], file_name="street.jpg")])
    with pytest.raises(ValueError, match="image 17: training needs 'instances'"):
        model([example(64, 64, image_id=17)])


def test_diverged_weights_name_image_and_term():
    model = small_model()
    torch.nn.init.constant_(model.sem_seg_head.predictor.class_embed.bias, float("nan"))
    with pytest.raises(ValueError, match="street.jpg: the matching cost 'class' is not finite"):
        model.train()([example(64, 64, [1], file_name="street.jpg")])


def test_only_the_results_asked_for():
    model = small_model({"MODEL.MASK_FORMER.TEST.INSTANCE_ON": False, "MODEL.MASK_FORMER.TEST.PANOPTIC_ON": False})
    assert set(evaluate(model, example(64, 64))[0]) == {"sem_seg"}
    model = small_model({"MODEL.MASK_FORMER.TEST.SEMANTIC_ON": False, "MODEL.MASK_FORMER.TEST.INSTANCE_ON": False,
                         "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD": 0.999})
    result, = evaluate(model, example(64, 64))
    segments, info = result["panoptic_seg"]
    assert set(result) == {"panoptic_seg"} and not segments.any() and info == []


def test_size_divisibility_of_the_backbone():
    model = small_model({**RESNET18, "MODEL.MASK_FORMER.SIZE_DIVISIBILITY": -1})
    result, = evaluate(model, example(33, 47))
    assert_result(result, 33, 47)

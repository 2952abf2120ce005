"""The whole Mask2Former: its ground truth, its normalisation and padding, the results and sizes that it gives."""
import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks

from helpers.behaviour import assert_result, evaluate, train
from helpers.small_models import RESNET18, example, small_model


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return small_model()


def test_bit_masks_are_the_same_ground_truth(model):
    tensors = example(64, 64, [0, 1])
    bits = {**tensors, "instances": tensors["instances"][:]}
    bits["instances"].gt_masks = BitMasks(tensors["instances"].gt_masks)
    losses = []
    for one in (tensors, bits):
        torch.manual_seed(3)
        losses.append(train(model, one))
    assert losses[0] == losses[1]


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

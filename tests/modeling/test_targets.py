"""Ground truth of a batch: padding, accepted forms, and messages that name the image."""
import pytest
import torch
from detectron2.structures import BitMasks, Instances, PolygonMasks

from freqdino.modeling.targets import prepare_targets


def example(masks, classes=None, wrap=lambda masks: masks, size=None, **entries):
    instances = Instances(size or tuple(masks.shape[-2:]))
    instances.gt_classes = torch.zeros(len(masks), dtype=torch.int64) if classes is None else torch.tensor(classes)
    instances.gt_masks = wrap(masks)
    return {"instances": instances, **entries}


def prepare(*examples, padded=(8, 9), num_classes=3):
    return prepare_targets(examples, padded, num_classes, torch.device("cpu"))


@pytest.mark.parametrize("wrap", [lambda masks: masks, BitMasks, lambda masks: masks.to(torch.uint8)])
def test_masks_are_padded_at_the_right_and_the_bottom(wrap):
    masks = torch.ones(2, 5, 6, dtype=torch.bool)
    masks[1, :, 3:] = False
    target, = prepare(example(masks, [2, 0], wrap))
    assert target.labels.tolist() == [2, 0]
    assert target.masks.shape == (2, 8, 9) and target.masks.dtype == torch.bool
    assert torch.equal(target.masks[:, :5, :6], masks)
    assert target.masks.sum() == masks.sum()


def test_mixed_sizes_and_images_without_objects():
    masks = [torch.ones(size, dtype=torch.bool) for size in ((1, 8, 9), (3, 1, 2), (0, 4, 4))]
    first, second, third = prepare(*map(example, masks))
    assert [tuple(target.masks.shape) for target in (first, second, third)] == [(1, 8, 9), (3, 8, 9), (0, 8, 9)]
    assert second.masks.sum() == 6
    assert third.masks.dtype == torch.bool and third.labels.shape == (0,)


MASKS = torch.ones(2, 4, 4, dtype=torch.bool)


@pytest.mark.parametrize(("entries", "name"), [
    ({"file_name": "street/a.jpg", "image_id": 7}, "street/a.jpg"), ({"image_id": 7}, "image 7"),
    ({}, "image 1 of the batch")])
@pytest.mark.parametrize(("classes", "shown"), [([0, 3], 3), ([0, 254], 254), ([-1, 0], -1)])
def test_class_index_out_of_range(entries, name, classes, shown):
    with pytest.raises(ValueError, match=f"^num_classes is 3, but {name} has a class index of {shown}$"):
        prepare(example(MASKS), example(MASKS, classes, **entries))


def test_the_last_class_is_allowed():
    assert prepare(example(MASKS, [2, 0]))[0].labels.tolist() == [2, 0]


def test_no_instances():
    with pytest.raises(ValueError, match=r"a.jpg: training needs 'instances'.*\['image', 'file_name'\]"):
        prepare({"image": None, "file_name": "a.jpg"})


def test_no_masks():
    instances = Instances((4, 4))
    instances.gt_classes = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ValueError, match="^with_masks must be off, .* a.jpg: the ground truth has no masks"):
        prepare({"instances": instances, "file_name": "a.jpg"})


def test_polygons_are_not_masks():
    polygons = PolygonMasks([[[0, 0, 2, 0, 2, 2]], [[0, 0, 2, 0, 2, 2]]])
    with pytest.raises(ValueError, match="a.jpg: gt_masks is a PolygonMasks; a bool tensor"):
        prepare(example(MASKS, wrap=lambda _: polygons, file_name="a.jpg"))


def test_masks_of_another_size_than_the_image():
    message = r"a.jpg: gt_masks has shape \(2, 4, 4\), the image and its objects ask for \(2, 4, 5\)"
    with pytest.raises(ValueError, match=message):
        prepare(example(MASKS, size=(4, 5), file_name="a.jpg"))

"""Test-time augmentation of models whose answer follows from the image: what is mirrored, averaged and merged."""
import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch import nn

from freqdino.evaluation.tta import TestTimeAugmentation, merge_instances, mirrored
from helpers.refusals import refuses

HEIGHT, WIDTH = 8, 12


class BrightSquare(nn.Module):
    """Segments what is bright; sees it only in images at most ``largest`` pixels high, with the score ``score``."""

    def __init__(self, largest=100, score=0.8, names=("sem_seg", "instances")):
        super().__init__()
        self.largest, self.score, self.names, self.sizes = largest, score, names, []

    def forward(self, inputs):
        image, = inputs
        self.sizes.append(tuple(image["image"].shape[1:]))
        pixels = nn.functional.interpolate(image["image"][None].float(), (image["height"], image["width"]))[0, 0]
        seen = self.sizes[-1][0] <= self.largest
        mask = (pixels > 128)[None][:int(seen)]
        instances = Instances((image["height"], image["width"]))
        instances.pred_masks = mask
        instances.pred_boxes = Boxes(torch.tensor([box_of(part) for part in mask]).view(-1, 4))
        instances.scores = torch.full((len(mask),), self.score)
        instances.pred_classes = torch.ones(len(mask), dtype=torch.int64)
        bright = (pixels > 128).float() * seen
        results = {"sem_seg": torch.stack([1 - bright, bright]), "instances": instances, "panoptic_seg": None}
        return [{name: results[name] for name in self.names}]


def box_of(mask):
    rows, columns = mask.nonzero(as_tuple=True)
    return [float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)]


def scene():
    """A bright rectangle on the left."""
    image = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)
    image[:, 2:6, 1:5] = 255
    return {"image": image, "height": HEIGHT, "width": WIDTH}


def augmented(model, **options):
    return TestTimeAugmentation(model, **{"min_sizes": [8, 16], "max_size": 100, "flip": True, "max_instances": 5,
                                          **options})


def instances(boxes, scores, classes, masks=None):
    result = Instances((HEIGHT, WIDTH))
    result.pred_boxes, result.scores = Boxes(torch.tensor(boxes).view(-1, 4)), torch.tensor(scores)
    result.pred_classes = torch.tensor(classes, dtype=torch.int64)
    if masks is not None:
        result.pred_masks = masks
    return result


def test_sizes_and_mirror_images_agree_on_what_all_of_them_see():
    model = BrightSquare()
    result, = augmented(model)([scene()])
    assert model.sizes == [(8, 12), (8, 12), (16, 24), (16, 24)]
    expected = scene()["image"][0] > 128
    assert torch.equal(result["sem_seg"][1], expected.float())
    found = result["instances"]
    assert torch.equal(found.pred_masks, expected[None]) and found.pred_classes.tolist() == [1]
    torch.testing.assert_close(found.pred_boxes.tensor, torch.tensor([[1.0, 2.0, 5.0, 6.0]]))
    torch.testing.assert_close(found.scores, torch.tensor([0.8]))


def test_what_half_of_them_see_counts_half():
    result, = augmented(BrightSquare(largest=8))([scene()])
    torch.testing.assert_close(result["sem_seg"][1].max(), torch.tensor(0.5))
    torch.testing.assert_close(result["instances"].scores, torch.tensor([0.4]))


def test_without_mirror_images_and_with_one_kind_of_result():
    model = BrightSquare(names=("sem_seg",))
    result, = augmented(model, flip=False)([scene()])
    assert set(result) == {"sem_seg"} and model.sizes == [(8, 12), (16, 24)]


def test_nothing_found():
    found = augmented(BrightSquare(largest=1))([scene()])[0]["instances"]
    assert len(found) == 0 and found.pred_masks.shape == (0, HEIGHT, WIDTH)


def test_boxes_and_masks_vote_by_their_scores():
    left, right = torch.zeros(2, 1, HEIGHT, WIDTH, dtype=torch.bool)
    left[:, :4, :4] = True
    right[:, :4, 1:5] = True
    merged = merge_instances([instances([[0.0, 0.0, 4.0, 4.0]], [0.6], [2], left),
                              instances([[1.0, 0.0, 5.0, 4.0]], [0.2], [2], right)], 0.5, 5)
    torch.testing.assert_close(merged.pred_boxes.tensor, torch.tensor([[0.25, 0.0, 4.25, 4.0]]))
    torch.testing.assert_close(merged.scores, torch.tensor([0.4]))
    assert torch.equal(merged.pred_masks, left)     # the column of the weaker vote has 0.25, the other 0.75


def test_other_classes_and_distant_boxes_stay_apart_best_first():
    merged = merge_instances([instances([[0.0, 0.0, 4.0, 4.0], [6.0, 0.0, 9.0, 4.0]], [0.2, 0.6], [2, 2]),
                              instances([[0.0, 0.0, 4.0, 4.0]], [0.8], [1])], 0.5, 5)
    torch.testing.assert_close(merged.scores, torch.tensor([0.4, 0.3, 0.1]))
    assert merged.pred_classes.tolist() == [1, 2, 2]
    assert merge_instances([merged], 0.5, 1).scores.tolist() == pytest.approx([0.4])


def test_two_of_one_augmentation_that_overlap_count_once():
    merged = merge_instances([instances([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 3.5]], [0.8, 0.4], [1, 1])], 0.5, 5)
    torch.testing.assert_close(merged.scores, torch.tensor([0.8]))


def test_empty_boxes_and_scores_of_zero_are_kept():
    merged = merge_instances([instances([[0.0, 0.0, 0.0, 0.0]], [0.0], [1])], 0.5, 5)
    assert merged.scores.tolist() == [0.0] and merged.pred_boxes.tensor.tolist() == [[0.0] * 4]


def test_mirror_image_of_instances_leaves_the_original_alone():
    original = instances([[1.0, 2.0, 5.0, 6.0]], [0.5], [0])
    assert mirrored(original).pred_boxes.tensor.tolist() == [[7.0, 2.0, 11.0, 6.0]]
    assert original.pred_boxes.tensor.tolist() == [[1.0, 2.0, 5.0, 6.0]]


test_sizes_that_make_no_sense = refuses(lambda options: augmented(BrightSquare(), **options), [
    ({"min_sizes": []}, r"min_sizes must be positive and at most max_size 100, got \[\]"),
    ({"min_sizes": [0, 8]}, r"max_size 100, got \[0, 8\]"),
    ({"max_size": 10}, r"max_size 10, got \[8, 16\]"),
])


def test_results_that_cannot_be_merged():
    with pytest.raises(ValueError, match=r"gives \['panoptic_seg', 'sem_seg'\]; test-time augmentation merges"):
        augmented(BrightSquare(names=("sem_seg", "panoptic_seg")))([scene()])

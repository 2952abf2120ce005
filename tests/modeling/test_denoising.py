"""Noised ground truth: how many copies, which slots, how far labels and boxes stray, who sees whom."""
import pytest
import torch

from freqdino.modeling.denoising import NoisedQueries, noised_queries
from freqdino.modeling.targets import ImageTargets

CLASSES = 7


def targets(*counts):
    """One image for each count, with random boxes inside it."""
    images = []
    for count in counts:
        centre, size = torch.rand(count, 2) * 0.4 + 0.3, torch.rand(count, 2) * 0.5 + 0.05
        images.append(ImageTargets(torch.randint(CLASSES, (count,)), None, torch.cat((centre, size), dim=1), "a.jpg"))
    return images


def noised(images, num_denoising=100, noise_scale=0.4, num_classes=CLASSES):
    return noised_queries(images, num_denoising=num_denoising, noise_scale=noise_scale, num_classes=num_classes)


@pytest.mark.parametrize(("counts", "groups"), [
    ((1,), 100), ((3,), 33), ((3, 8), 12), ((51,), 1), ((100,), 1), ((0, 7), 14)])
def test_as_many_groups_as_fit(counts, groups):
    result = noised(targets(*counts))
    assert result.groups == groups
    slots = groups * max(counts)
    assert result.labels.shape == result.used.shape == (len(counts), slots)
    assert result.boxes.shape == (len(counts), slots, 4)


def test_one_group_of_more_objects_than_queries():
    result = noised(targets(2, 13), num_denoising=10)
    assert result.groups == 1 and result.labels.shape == (2, 13)
    assert result.used.sum(dim=1).tolist() == [2, 13]


@pytest.mark.parametrize("counts", [(0,), (0, 0, 0)])
def test_nothing_to_noise(counts):
    assert noised(targets(*counts)) is None


def test_slots_and_matches_of_images_with_different_counts():
    images = targets(2, 0, 3)
    result = noised(images, num_denoising=7, noise_scale=0.0)
    # Two groups of three slots: slot 3 g + j holds object j.
    assert result.used.tolist() == [[True, True, False, True, True, False], [False] * 6, [True] * 6]
    assert [slots.tolist() for slots, _ in result.matches] == [[0, 1, 3, 4], [], [0, 1, 2, 3, 4, 5]]
    assert [objects.tolist() for _, objects in result.matches] == [[0, 1, 0, 1], [], [0, 1, 2, 0, 1, 2]]
    for image, (slots, objects) in enumerate(result.matches):
        assert torch.equal(result.labels[image, slots], images[image].labels[objects])
        assert torch.equal(result.boxes[image, slots], images[image].boxes[objects])


def test_unused_slots_are_boxes_in_the_middle():
    result = noised(targets(1, 4))
    assert (result.boxes[0, ~result.used[0]] == 0.5).all()
    assert not result.labels[0, ~result.used[0]].any()


@pytest.mark.parametrize("scale", [0.4, 1.0])
def test_share_of_labels_replaced(scale):
    # A replaced label is random and may be the old one: scale / 2 * (1 - 1 / classes) of them differ.
    image = ImageTargets(torch.full((400,), 3), None, torch.full((400, 4), 0.5), "a.jpg")
    labels = noised([image], num_denoising=20_000, noise_scale=scale).labels
    share = scale / 2 * (1 - 1 / CLASSES)
    assert labels.numel() == 20_000
    assert (labels != 3).float().mean().item() == pytest.approx(share, abs=4 * (share * (1 - share) / 20_000) ** 0.5)
    counts = torch.bincount(labels[labels != 3], minlength=CLASSES)
    assert counts.shape == (CLASSES,) and counts[3] == 0
    others = counts[torch.arange(CLASSES) != 3]
    assert (others - others.float().mean()).abs().max() < 5 * others.float().mean().sqrt()


def test_reach_of_the_boxes():
    centre_and_size = torch.tensor([0.5, 0.45, 0.2, 0.3])
    image = ImageTargets(torch.zeros(1, dtype=torch.int64), None, centre_and_size[None], "a.jpg")
    boxes = noised([image], num_denoising=5000, noise_scale=0.4).boxes[0]
    reach = torch.tensor([0.5 * 0.2, 0.5 * 0.3, 0.2, 0.3]) * 0.4
    offset = (boxes - centre_and_size) / reach          # uniform in -1..1
    assert offset.abs().max() <= 1 + 1e-5
    assert (offset.amin(dim=0) < -0.99).all() and (offset.amax(dim=0) > 0.99).all()
    assert offset.mean(dim=0).abs().max() < 4 * (1 / 3 / 5000) ** 0.5
    assert torch.corrcoef(offset.T).fill_diagonal_(0).abs().max() < 0.07


def test_boxes_are_clamped():
    boxes = torch.tensor([[0.02, 0.98, 0.9, 0.9], [1.0, 0.0, 1.0, 1.0]])
    image = ImageTargets(torch.zeros(2, dtype=torch.int64), None, boxes, "a.jpg")
    result = noised([image], noise_scale=1.0).boxes
    assert 0 <= result.min() and result.max() <= 1
    assert (result == 0).any() and (result == 1).any()


def test_one_class():
    image = ImageTargets(torch.zeros(4, dtype=torch.int64), None, torch.full((4, 4), 0.5), "a.jpg")
    assert not noised([image], noise_scale=2.0, num_classes=1).labels.any()


def test_ground_truth_stays_as_it_is():
    images = targets(3)
    labels, boxes = images[0].labels.clone(), images[0].boxes.clone()
    noised(images)
    assert torch.equal(images[0].labels, labels) and torch.equal(images[0].boxes, boxes)


def test_who_sees_whom():
    result = NoisedQueries(labels=torch.zeros(1, 4, dtype=torch.int64), boxes=torch.zeros(1, 4, 4),
                           used=torch.ones(1, 4, dtype=torch.bool), matches=[], groups=2)
    seen = ["110011", "110011", "001111", "001111", "000011", "000011"]     # groups 0, 1 and two other queries
    assert (~result.blocked(2)).int().tolist() == [[int(value) for value in row] for row in seen]


def test_one_group_sees_itself_and_everything_else():
    result = noised(targets(3), num_denoising=3)
    blocked = result.blocked(2)
    assert not blocked[:3].any() and blocked[3:, :3].all() and not blocked[3:, 3:].any()

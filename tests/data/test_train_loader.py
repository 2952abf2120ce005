"""Batches that follow from the seed alone: whatever the workers, and whatever pauses there were."""
import random

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, Sampler

from freqdino.data.random_state import random_state, random_state_kept, seed_generators, set_random_state
from freqdino.data.train_loader import FromStart, SampleStream, TrainLoader


class Draws(Dataset):
    """Sample ``index``: its number and one draw from each generator."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return {"index": index, "draws": (random.random(), np.random.rand(), torch.rand(()).item())}


class Endless(Sampler):
    """0, 1, 2, 3, 0, 1, ... from ``first`` on."""

    def __init__(self, first):
        self.first = first

    def __iter__(self):
        position = self.first
        while True:
            yield position % 4
            position += 1


def loader(*, seed=5, batch_size=2, workers=0, group_of=lambda sample: 0):
    return TrainLoader(lambda seed: SampleStream(Draws(), Endless(seed % 4), seed), seed=seed, batch_size=batch_size,
                       workers=workers, group_of=group_of)


def take(batches, count):
    return [next(batches) for _ in range(count)]


def indices(batches):
    return [[sample["index"] for sample in batch] for batch in batches]


def test_workers_change_nothing():
    alone = take(iter(loader()), 5)
    assert indices(alone) == [[1, 2], [3, 0], [1, 2], [3, 0], [1, 2]]     # the sampler begins at 5 mod 4
    assert len({sample["draws"] for batch in alone for sample in batch}) == 10
    for workers in (1, 3):
        assert take(iter(loader(workers=workers)), 5) == alone


def test_workers_take_no_threads_from_the_training():
    class Threads(Draws):
        def __getitem__(self, index):
            return {"index": index, "threads": torch.get_num_threads()}

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        batches = TrainLoader(lambda seed: SampleStream(Threads(), Endless(0), seed), seed=0, batch_size=2, workers=1,
                              group_of=lambda sample: 0)
        assert [sample["threads"] for sample in next(iter(batches))] == [1, 1]
    finally:
        torch.set_num_threads(threads)


def test_training_draws_what_it_would_without_data():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    batches = iter(loader())
    first = torch.rand(1)
    next(batches)
    assert torch.equal(torch.cat([first, torch.rand(1)]), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_going_on_from_a_place(workers):
    """Odd records wait for an odd partner: after two batches of two, one of the five that were read is left over."""
    of_parity = {"group_of": lambda sample: int(sample["index"] == 3), "seed": 4}
    batches = iter(straight := loader(**of_parity))
    assert indices(take(batches, 2)) == [[0, 1], [2, 0]]        # 3 waits
    place = straight.state_dict()
    assert place == {"seed": 4, "records": 4, "next": 5, "waiting": [3]}
    rest = take(batches, 4)
    assert indices(rest) == [[1, 2], [3, 3], [0, 1], [2, 0]]

    resumed = loader(**{**of_parity, "seed": 9}, workers=workers)   # the seed of a run that drew another one
    resumed.load_state_dict(place)
    assert resumed.state_dict() == {**place, "waiting": []}
    assert take(iter(resumed), 4) == rest


def test_a_batch_of_another_size_goes_on_at_the_same_sample():
    batches = iter(straight := loader())
    take(batches, 1)
    resumed = loader(batch_size=3)
    resumed.load_state_dict(straight.state_dict())
    assert indices(take(iter(resumed), 1)) == [[3, 0, 1]]


def test_the_place_among_other_records_is_refused():
    with pytest.raises(ValueError, match="the training data had 9 records and have 4"):
        loader().load_state_dict({"seed": 5, "records": 9, "next": 0, "waiting": []})


def test_from_the_start_the_place_stays():
    batches = iter(straight := loader())
    first = take(batches, 3)
    again = FromStart(straight)
    assert take(iter(again), 2) == first[:2] and take(iter(again), 1) == first[:1]
    assert straight.state_dict()["next"] == 6


def draw():
    return random.random(), np.random.rand(), np.random.randn(), random.gauss(0, 1), torch.rand(()).item()


def test_random_states_are_kept_and_saved(tmp_path):
    seed_generators(1, 2)
    draw()                                  # one normal number of two is left over in NumPy and in Python
    torch.save(random_state(), tmp_path / "state.pth")
    with random_state_kept():
        expected = draw()
    assert draw() == expected
    set_random_state(torch.load(tmp_path / "state.pth", weights_only=True))
    assert draw() == expected
    seed_generators(1, 2)
    first = draw()
    seed_generators(2, 1)
    assert draw() != first

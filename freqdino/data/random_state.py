"""The generators that training draws from, Python's, NumPy's and PyTorch's: seeded, kept apart, saved and restored."""
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """The state of all generators of this process, as tensors and plain values, so that a checkpoint can hold it."""
    name, key, *place = np.random.get_state()
    state = {"python": random.getstate(), "torch": torch.get_rng_state(),
             "numpy": (name, torch.from_numpy(key.astype(np.int64)), *place)}
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Set all generators of this process to what `random_state` returned."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, key, *place = state["numpy"]
    np.random.set_state((name, key.numpy().astype(np.uint32), *place))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def random_state_kept() -> Iterator[None]:
    """What the block draws does not move the generators."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)


def seed_generators(*numbers: int) -> None:
    """Seed the generators of the CPU from numbers that are at least 0; other numbers give other, unrelated draws."""
    words = np.random.SeedSequence(numbers).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    torch.default_generator.manual_seed(int(words[2]))

"""Endless batches of training samples that depend on the seed and on nothing else, from any place in the data on.

Detectron2's samplers name the records. Each sample has a position in the process's endless list of them, and draws its
augmentation from generators that are seeded by that position: so neither the number of workers nor a pause in between
changes what is learnt.
"""
import copy
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, get_worker_info

from freqdino.data.random_state import random_state_kept, seed_generators

BATCHES_AHEAD = 2                           # of each worker, as a DataLoader has it


class SampleStream(IterableDataset):
    """(position, sample) without end, in the order of the sampler; each worker of a DataLoader gives its share.

    Args:
        samples: maps the index of a record to a sample.
        sampler: endless indices of this process; the same in each iteration over it.
        seed: at least 0.
    """

    def __init__(self, samples: Dataset, sampler: Sampler, seed: int):
        self.samples, self.sampler, self.seed = samples, sampler, seed
        self.rank, self.processes = comm.get_rank(), comm.get_world_size()
        self.again, self.start = frozenset(), 0     # positions to read: those of ``again``, then all from ``start`` on

    def __iter__(self) -> Iterator[tuple[int, dict]]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        wanted = ((position, index) for position, index in enumerate(self.sampler)
                  if position >= self.start or position in self.again)
        for number, (position, index) in enumerate(wanted):
            if number % workers == worker:
                yield position, self.sample(position, index)

    def sample(self, position: int, index: int) -> dict:
        with random_state_kept():
            seed_generators(self.seed, position * self.processes + self.rank)
            return self.samples[index]


class TrainLoader:
    """Lists of ``batch_size`` samples without end, and the place in the data.

    Args:
        make_stream: gives the stream of a seed.
        seed: at least 0, the same in all processes.
        workers: processes that read samples; 0: this one does.
        group_of: the number, 0 or 1, of the group of a sample; a batch has samples of one group.
    """

    def __init__(self, make_stream: Callable[[int], SampleStream], *, seed: int, batch_size: int, workers: int,
                 group_of: Callable[[dict], int]):
        self.make_stream, self.seed, self.stream = make_stream, seed, make_stream(seed)
        self.batch_size, self.workers, self.group_of = batch_size, workers, group_of
        self._next, self._waiting = 0, ([], [])

    def __iter__(self) -> Iterator[list[dict]]:
        self._next, self._waiting = self.stream.start, ([], [])
        for position, sample in DataLoader(
                self.stream, batch_size=None, collate_fn=_as_it_is, num_workers=self.workers,
                prefetch_factor=BATCHES_AHEAD * self.batch_size if self.workers else None,
                worker_init_fn=_outlive_signals, generator=torch.Generator()):  # its own, not the one training uses
            self._next = max(self._next, position + 1)
            group = self._waiting[self.group_of(sample)]
            group.append((position, sample))
            if len(group) >= self.batch_size:
                batch = [sample for _, sample in group[:self.batch_size]]
                del group[:self.batch_size]
                yield batch

    @property
    def pictures(self) -> int:
        """How many there are to learn from."""
        return len(self.stream.samples)

    def state_dict(self) -> dict[str, Any]:
        """The place in the data after the batches that were taken."""
        waiting = sorted(position for group in self._waiting for position, _ in group)
        return {"seed": self.seed, "records": self.pictures, "next": self._next, "waiting": waiting}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there, in the order of its seed. Raises ValueError for a place among other numbers of records."""
        if state["records"] != self.pictures:
            raise ValueError(f"the training data had {state['records']} records and have {self.pictures}")
        if state["seed"] != self.seed:
            self.seed, self.stream = state["seed"], self.make_stream(state["seed"])
        self.stream.again, self.stream.start = frozenset(state["waiting"]), state["next"]
        self._next, self._waiting = state["next"], ([], [])


class FromStart:
    """The batches of a loader from the start of its data in each iteration; its own place stays."""

    def __init__(self, loader: TrainLoader):
        self.loader = loader

    def __iter__(self) -> Iterator[list[dict]]:
        loader, stream = copy.copy(self.loader), copy.copy(self.loader.stream)
        stream.again, stream.start = frozenset(), 0
        loader.stream, loader.workers = stream, 0
        return iter(loader)


def _as_it_is(sample):
    return sample


def _outlive_signals(worker: int) -> None:
    """The training process decides when to stop; its workers end when it says so, not by a signal that reaches all."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):      # not on macOS: there SIGTERM ends a worker, whoever sends it
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_for_the_parent, daemon=True).start()


def _end_for_the_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)

"""Processes that torchrun or a cluster's scheduler has started: found by their environment, joined to one group.

Source: the environment variables of torch.distributed's ``env://`` initialisation and of torchrun.
"""
import argparse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from detectron2.utils import comm
from torch import distributed, nn

from freqdino.errors import ConfigError


class StartedProcess(NamedTuple):
    """This process among those that were started: its number in all and on its machine, and how many these are."""
    rank: int
    size: int
    local_rank: int
    local_size: int


def started_process(environment: Mapping[str, str], args: argparse.Namespace) -> StartedProcess | None:
    """What the environment says, written into ``args`` as --num-gpus, --num-machines, --machine-rank and --dist-url.

    None where RANK and WORLD_SIZE are not set: then this process starts the others. Without LOCAL_WORLD_SIZE, which
    torchrun sets, it is the only one of its machine. Raises ConfigError for an environment or options that contradict.
    """
    if not {"RANK", "WORLD_SIZE"} <= environment.keys():
        return None
    said = {name: environment.get(name, default) for name, default in
            (("RANK", ""), ("WORLD_SIZE", ""), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1"))}
    described = ", ".join(f"{name} {value!r}" for name, value in said.items())
    try:
        process = StartedProcess(*map(int, said.values()))
    except ValueError:
        raise ConfigError(f"the environment has {described}: numbers are expected, as torchrun sets them") from None
    machines, rest = divmod(process.size, max(1, process.local_size))
    if (not 0 <= process.rank < process.size or not 0 <= process.local_rank < process.local_size or rest
            or process.rank % process.local_size != process.local_rank):
        raise ConfigError(f"the environment has {described}: each machine needs as many processes, numbered one "
                          "machine after the other")
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in environment]
    if missing and process.size > 1:
        raise ConfigError(f"the environment has RANK and WORLD_SIZE, but not {' and '.join(missing)}: torchrun sets "
                          "all")
    place = {"num_gpus": process.local_size, "num_machines": machines,
             "machine_rank": process.rank // process.local_size}
    for name, value in place.items():
        if getattr(args, name) not in (value, 0 if name == "machine_rank" else 1):
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{option} {getattr(args, name)}, but the environment says {value} ({described}): leave "
                              f"{option} out under torchrun, or unset RANK and WORLD_SIZE")
    vars(args).update(place, dist_url="env://")
    return process


@contextmanager
def joined(process: StartedProcess) -> Iterator[None]:
    """A context in which the process is one of its group, as Detectron2's launch has it in those that it starts."""
    on_cuda = torch.cuda.is_available()
    if on_cuda:
        torch.cuda.set_device(process.local_rank)
    distributed.init_process_group("nccl" if on_cuda else "gloo", rank=process.rank, world_size=process.size)
    with leaving():
        comm.create_local_process_group(process.local_size)
        comm.synchronize()
        yield


@contextmanager
def leaving() -> Iterator[None]:
    """A context after which the process has left its group.

    Whatever still holds a group when Python ends, as Detectron2's comm does, has gloo's threads ended from outside, and
    then now and then the process aborts after its work ("terminate called without an active exception").
    """
    try:
        yield
    finally:
        distributed.destroy_process_group()
        comm._LOCAL_PROCESS_GROUP = None
        comm.create_local_process_group.cache_clear()
        comm._get_global_gloo_group.cache_clear()


def share_buffers(model: nn.Module) -> None:
    """Give all processes the statistics of process 0, which a checkpoint keeps.

    Batch norms see the images of their own process alone, so that the processes would evaluate models that differ.
    """
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            if buffer.is_floating_point():
                distributed.broadcast(buffer, 0)

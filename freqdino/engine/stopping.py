"""A training that is asked to end: the step is finished, a checkpoint written, and all processes stop together."""
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
import torch.distributed as dist
from detectron2.engine import HookBase
from detectron2.utils import comm

from freqdino.errors import Stopped


class StopRequests(Protocol):
    """Who knows whether a signal asks this process to end."""

    received: int | None                    # its number

    def after_the_step(self) -> AbstractContextManager[None]:
        """In the block a signal is only noted."""

    def at_once(self) -> AbstractContextManager[None]:
        """In the block a signal raises Stopped, inside a block of `after_the_step` too; so does an earlier one."""


class StopHook(HookBase):
    """Raises Stopped after a step during which any process was asked to end, in all of them; to be the last hook."""

    def __init__(self, requests: StopRequests):
        self._requests = requests
        self._group: Any = None     # of all processes, where there are several

    def before_train(self) -> None:
        if comm.get_world_size() > 1:
            self._group = dist.new_group(backend="gloo")    # numbers of the CPU, whatever the training runs on

    def after_step(self) -> None:
        number = self._requests.received or 0
        if self._group is not None:
            highest = torch.tensor(number)
            dist.all_reduce(highest, op=dist.ReduceOp.MAX, group=self._group)
            number = int(highest)
        if number:
            if self.trainer.iter + 1 < self.trainer.max_iter:       # else the last checkpoint is written
                self.trainer.save_checkpoint()
            comm.synchronize()              # the first process to end takes the others with it
            raise Stopped(number)

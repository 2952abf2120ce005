"""SIGINT (Ctrl-C) and SIGTERM (a scheduler's), as the work of a command wants them: at once, or after a step."""
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from freqdino.errors import Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM)
IMPATIENCE = 1.0                            # seconds after which a second signal is one, not the first one's echo


class StopSignals:
    """A context in which the signals raise Stopped, or are noted in ``received``, in this process.

    ``for_children``: this process only waits for others, which do the work; they are told what it is told.
    Signals belong to the main thread; entered in another one, nothing changes.
    """

    def __init__(self, *, for_children: bool = False):
        self.received: int | None = None
        self._for_children = for_children
        self._noting = for_children
        self._process, self._before, self._when = os.getpid(), {}, 0.0

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame) -> None:
        if os.getpid() != self._process:    # a data loader's worker, which ends with this process
            return
        first = self.received is None
        if first:
            self.received, self._when = number, time.monotonic()
        if self._for_children:
            for child in multiprocessing.active_children():
                os.kill(child.pid, number)
        elif not self._noting or not first and time.monotonic() - self._when > IMPATIENCE:
            raise Stopped(number)

    @contextmanager
    def after_the_step(self) -> Iterator[None]:
        self._noting = True
        try:
            yield
        finally:
            self._noting = False

    @contextmanager
    def at_once(self) -> Iterator[None]:
        if self.received is not None:
            raise Stopped(self.received)
        noting, self._noting = self._noting, False
        try:
            yield
        finally:
            self._noting = noting

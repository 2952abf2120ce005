"""What the commands share: how they end, how they log, and parts of their command lines.

Nothing here imports torch or Detectron2 before a command line is read, so that ``--help`` answers at once.
"""
import argparse
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from freqdino.errors import USER_ERRORS, Stopped, keep_tracebacks_off_stdout, message_of, need_detectron2

SPINS = "1000"                              # turns of a waiting thread before it sleeps, some microseconds
SIGNALS = (signal.SIGINT, signal.SIGTERM)   # Ctrl-C, and what schedulers send
IMPATIENCE = 1.0                            # seconds after which a second signal is one, not the first one's echo
SIGNALLED = 128                             # a shell's status of a process that a signal ended: this plus its number


def tell(error: Exception, *, where: str = "") -> None:
    """An error of `USER_ERRORS` as a sentence on stderr, without traceback; ``where`` as in " in process 1"."""
    print(f"error{where}: {message_of(error)}", file=sys.stderr, flush=True)


def exit_status(work: Callable[[], int | None]) -> int:
    """What ``work`` returns (None: 0); 1, with the message on stderr, where it raises what a user can mend.

    Where a signal ends it, a sentence, and the status that shells have for the signal: 130 for Ctrl-C, 143 for SIGTERM.
    """
    share_processors()
    try:
        return work() or 0
    except USER_ERRORS as error:
        tell(error)
        return 1
    except KeyboardInterrupt:
        stopped = Stopped(signal.SIGINT)
    except Stopped as error:
        stopped = error
    print(stopped, file=sys.stderr, flush=True)
    return SIGNALLED + stopped.number


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
        if os.getpid() != self._process:    # a process that this one has forked, and tells to end by SIGTERM alone
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
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


def quiet_without_gpu() -> None:
    """Keep off stderr what torch's profiler and its extension builder say where there is no CUDA driver: nobody asked
    for one, and our own log says where a model runs.

    To be called before either is used. A KINETO_LOG_LEVEL that the user has set stays.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")     # beyond errors: it counts GPUs even for profiles of the CPU
    logging.getLogger("torch.utils.cpp_extension").addFilter(is_not_about_cuda)


def is_not_about_cuda(record: logging.LogRecord) -> bool:
    """Detectron2 imports the builder to log versions; it then warns of an nvcc without a GPU."""
    return "No CUDA runtime is found" not in record.getMessage()


def quiet_about_torchscript() -> None:
    """Keep off stderr that ``torch.jit.script`` is deprecated, as torch 2.14 says: fvcore and Detectron2 call it when
    they are imported, which nobody who runs a command can change.

    Warnings of a user who chose what to see (``-W``, PYTHONWARNINGS) stay.
    """
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)


def start_logging(*names: str) -> None:
    """Messages of these loggers, by default freqdino's and Detectron2's, on stdout."""
    need_detectron2()
    from detectron2.utils.logger import setup_logger

    logging.raiseExceptions = False         # a log that cannot be written, as on a full disk, is not worth a traceback
    names = names or ("freqdino", "detectron2")
    for name in names:
        setup_logger(name=name)
    keep_tracebacks_off_stdout(*names)


def share_processors() -> None:
    """Let threads that wait for each other sleep soon, where the user has not said how they wait; before torch loads.

    GNU's OpenMP, which torch brings, has them spin for milliseconds: beside other work the thread that they wait for
    then does not get their processor.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPINS


def close_full_logs(*names: str) -> None:
    """Close the log files of these loggers that a full disk takes no more of; else each would say so at the end."""
    for name in names:
        for handler in logging.getLogger(name).handlers:
            try:
                handler.flush()
            except (OSError, ValueError):       # ValueError: several loggers have one stream, which is closed by now
                with suppress(OSError):
                    handler.stream.close()


def make_parser(description: str, **options) -> argparse.ArgumentParser:
    """A parser that shows its description as it is written."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter,
                                   **options)


def require_at_least_one(parser: argparse.ArgumentParser, args: argparse.Namespace, *names: str) -> None:
    """End with the parser's error where one of the options, "--max-images" or others, is given and below 1."""
    for name in names:
        given = getattr(args, name.lstrip("-").replace("-", "_"))
        for value in given if isinstance(given, (list, tuple)) else [given]:
            if value is not None and value < 1:
                parser.error(f"{name} must be at least 1, got {value}")


def require_device(parser: argparse.ArgumentParser, device: str) -> None:
    """End with the parser's error for --device cuda where PyTorch finds none."""
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            parser.error("--device cuda: PyTorch finds no CUDA device")


def take_options_from_input(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Move configuration options that argparse gave to --input, which takes any number of words, to ``args.opts``."""
    if args.input:
        args.input, options = split_options(args.input)
        args.opts = options + args.opts
        if not args.input:
            parser.error("--input names no image")


def split_options(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Files and, from the first configuration key that is no file, trailing options."""
    need_detectron2()
    from detectron2.config import get_cfg

    sections = get_cfg()
    for position, word in enumerate(words):
        if word.partition(".")[0] in sections and not Path(word).exists():
            return list(words[:position]), list(words[position:])
    return list(words), []

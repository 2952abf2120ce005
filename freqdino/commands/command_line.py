"""What the commands share: how they end, how they log, and parts of their command lines.

Nothing here imports torch or Detectron2 before a command line is read, so that ``--help`` answers at once.
"""
import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from freqdino.errors import USER_ERRORS, keep_tracebacks_off_stdout, message_of, need_detectron2


def tell(error: Exception, *, where: str = "") -> None:
    """An error of `USER_ERRORS` as a sentence on stderr, without traceback; ``where`` as in " in process 1"."""
    print(f"error{where}: {message_of(error)}", file=sys.stderr, flush=True)


def exit_status(work: Callable[[], int | None]) -> int:
    """What ``work`` returns (None: 0); 1, with the message on stderr, where it raises what a user can mend."""
    try:
        return work() or 0
    except USER_ERRORS as error:
        tell(error)
        return 1


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


def start_logging(*names: str) -> None:
    """Messages of these loggers, by default freqdino's and Detectron2's, on stdout."""
    need_detectron2()
    from detectron2.utils.logger import setup_logger

    names = names or ("freqdino", "detectron2")
    for name in names:
        setup_logger(name=name)
    keep_tracebacks_off_stdout(*names)


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

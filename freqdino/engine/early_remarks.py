"""What is said while a configuration is loaded, before OUTPUT_DIR has its log.txt: kept, and repeated there."""
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

NAME = "freqdino"


class _Collector(logging.Handler):
    def __init__(self, said: list[str]):
        super().__init__(logging.WARNING)
        self.said = said

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


@contextmanager
def remembered() -> Iterator[list[str]]:
    """The list to which this project's warnings are added inside the block."""
    collector = _Collector([])
    logger = logging.getLogger(NAME)
    logger.addHandler(collector)
    try:
        yield collector.said
    finally:
        logger.removeHandler(collector)


def repeat_in_file(remarks: Sequence[str], path: str) -> None:
    """Write warnings that stood on the screen already into the file ``path`` of this project's logger."""
    for handler in logging.getLogger(NAME).handlers:
        if getattr(getattr(handler, "stream", None), "name", None) == path:
            for remark in remarks:
                handler.handle(logging.LogRecord(NAME, logging.WARNING, __file__, 0, remark, None, None))
            return

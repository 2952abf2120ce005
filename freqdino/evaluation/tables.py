"""Markdown tables of results, counts and measurements: the one place where they are written."""
from collections.abc import Collection, Iterable, Iterator, Sequence
from numbers import Integral

from tabulate import tabulate

NOTHING = "–"


def number(value: float | str | None, *, digits: int = 2, sign: str = "") -> str:
    """Whole numbers as they are, others with ``digits`` decimals, None as a dash, text as text; ``sign`` "+" says it.

    Thousands are set apart.
    """
    if value is None:
        return NOTHING
    if isinstance(value, str):
        return value
    return f"{value:{sign},d}" if isinstance(value, Integral) else f"{value:{sign},.{digits}f}"


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence], *, text: Collection[int] = (0,),
                   digits: int = 2, aligned: bool = True) -> str:
    """Cells as `number` writes them, in columns that are aligned, those whose index is in ``text`` to the left.

    A table that is not aligned is for files, where one long cell would otherwise change every line.
    """
    sides = {"colalign": ["left" if index in text else "right" for index in range(len(headings))]}
    return tabulate([[number(cell, digits=digits) for cell in row] for row in rows], headers=headings, tablefmt="pipe",
                    disable_numparse=True, **(sides if aligned else {"stralign": None, "numalign": None}))


def growing_table(headings: Sequence[str], blocks: Iterable[Sequence[Sequence]], *, text: Collection[int] = (0,)
                  ) -> Iterator[str]:
    """The lines of a `markdown_table`, those of a block of rows as soon as it is there."""
    for index, rows in enumerate(blocks):
        yield from markdown_table(headings, rows, text=text).splitlines()[2 if index else 0:]

"""The tables of `analyze_model.py`, as lines of Markdown."""
from collections.abc import Iterator, Sequence

from freqdino.analysis.costs.measuring import TOTAL, Analysis
from freqdino.analysis.costs.parts import REST

NOTHING = "-"


def one_model_table(analysis: Analysis) -> Iterator[str]:
    """A row for each part, a column for each quantity."""
    yield from table(["part", *analysis.figures], [
        [part, *(number(numbers.get(part)) for numbers in analysis.figures.values())]
        for part in parts_of(analysis)])


def two_model_table(first: Analysis, second: Analysis) -> Iterator[str]:
    """A row for each quantity and part: A, B, the difference and its percentage of A. A part that one lacks is 0."""
    rows = []
    for quantity, numbers in first.figures.items():
        others = second.figures[quantity]
        for part in (part for part in parts_of(first, second) if part in numbers or part in others):
            a, b = numbers.get(part, 0), others.get(part, 0)
            percent = f"{100 * (b - a) / a:+.1f}" if a else NOTHING
            rows.append([quantity, part, number(a), number(b), number(b - a, "+"), percent])
    yield from table(["quantity", "part", "A", "B", "B - A", "%"], rows, text_columns=2)


def parts_of(*analyses: Analysis) -> list[str]:
    """The parts in which anything is or happens, the model's own order, the rest and the total last."""
    busy = dict.fromkeys(part for analysis in analyses for part in analysis.figures["GFLOPs"]
                         if analysis.figures["GFLOPs"][part] or analysis.figures["parameters"][part])
    return [part for part in busy if part not in (REST, TOTAL)] + [REST, TOTAL]


def number(value: float | None, sign: str = "") -> str:
    """Counts of single things as they are, the rest with two decimals."""
    if value is None:
        return NOTHING
    return f"{value:{sign},d}" if isinstance(value, int) else f"{value:{sign},.2f}"


def table(headings: Sequence[str], rows: list[list[str]], text_columns: int = 1) -> Iterator[str]:
    """Markdown with aligned columns; numbers, from column ``text_columns`` on, to the right."""
    widths = [max(map(len, column)) for column in zip(headings, *rows)]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) if index < text_columns else cell.rjust(width)
                                 for index, (cell, width) in enumerate(zip(cells, widths))) + " |"

    yield line(headings)
    yield line(["-" * width if index < text_columns else "-" * (width - 1) + ":"
                for index, width in enumerate(widths)])
    yield from map(line, rows)

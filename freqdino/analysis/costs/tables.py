"""The tables of `analyze_model.py`, in Markdown."""
from freqdino.analysis.costs.measuring import TOTAL, Analysis
from freqdino.analysis.costs.parts import REST
from freqdino.evaluation.tables import markdown_table, number


def one_model_table(analysis: Analysis) -> str:
    """A row for each part, a column for each quantity."""
    return markdown_table(["part", *analysis.figures], part_rows(analysis))


def part_rows(analysis: Analysis) -> list[list]:
    """For each part its name and its figures, None where it has none."""
    return [[part, *(numbers.get(part) for numbers in analysis.figures.values())] for part in parts_of(analysis)]


def two_model_table(first: Analysis, second: Analysis) -> str:
    """A row for each quantity and part: A, B, the difference and its percentage of A. A part that one lacks is 0."""
    rows = []
    for quantity, numbers in first.figures.items():
        others = second.figures[quantity]
        for part in (part for part in parts_of(first, second) if part in numbers or part in others):
            a, b = numbers.get(part, 0), others.get(part, 0)
            percent = number(100 * (b - a) / a, digits=1, sign="+") if a else None
            rows.append([quantity, part, a, b, number(b - a, sign="+"), percent])
    return markdown_table(["quantity", "part", "A", "B", "B - A", "%"], rows, text=(0, 1))


def parts_of(*analyses: Analysis) -> list[str]:
    """The parts in which anything is or happens, the model's own order, the rest and the total last."""
    busy = dict.fromkeys(part for analysis in analyses for part in analysis.figures["GFLOPs"]
                         if analysis.figures["GFLOPs"][part] or analysis.figures["parameters"][part])
    return [part for part in busy if part not in (REST, TOTAL)] + [REST, TOTAL]

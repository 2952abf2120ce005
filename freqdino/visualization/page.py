"""The report as one HTML file: everything it shows is inside it, so it opens from disk without a network."""
import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np
from PIL import Image

from freqdino.evaluation.results import COLUMNS
from freqdino.evaluation.tables import number
from freqdino.visualization.charts import line_chart

JPEG_QUALITY = 90
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1060px; margin: 2em auto; padding: 0 1em; color: #222; }
h1 { margin-bottom: 0; } h2 { border-bottom: 1px solid #ccc; margin-top: 2em; } h3 { margin-bottom: .3em; }
table { border-collapse: collapse; font-size: 14px; margin: .6em 0; display: block; overflow-x: auto; }
th, td { padding: 2px 10px; border-bottom: 1px solid #e4e4e4; text-align: left; vertical-align: top; }
td:first-child, td:last-child { white-space: nowrap; } td { overflow-wrap: anywhere; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.charts, .images { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr)); gap: 1em; }
figure { margin: 0; } figcaption { font-size: 14px; } figure img { width: 100%; display: block; }
.note { color: #555; }
"""


def page(title: str, introduction: str, sections: Mapping[str, str]) -> str:
    """The whole file; ``sections``: heading -> HTML. A section's id is its heading's first word in small letters."""
    body = "\n".join(f'<section id="{section_id(heading)}">\n<h2>{escape(heading)}</h2>\n{content}\n</section>'
                     for heading, content in sections.items())
    links = " · ".join(f'<a href="#{section_id(heading)}">{escape(heading)}</a>' for heading in sections)
    return (f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta name="viewport" content="width=device-width">\n<link rel="icon" href="data:,">\n'
            f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n"
            f"{paragraph(introduction)}\n<nav>{links}</nav>\n{body}\n</body>\n</html>\n")


def section_id(heading: str) -> str:
    return heading.split()[0].lower()


def paragraph(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def table(headings: Sequence[str], rows: Iterable[Sequence], *, text_columns: int = 1, digits: int = 1) -> str:
    """Cells are escaped; those from column ``text_columns`` on are numbers, None of them a dash."""
    def row(cells, tag):
        return "<tr>" + "".join(
            f"<{tag}>{escape(str(cell))}</{tag}>" if index < text_columns else
            f'<{tag} class="number">{escape(number(cell, digits=digits))}</{tag}>'
            for index, cell in enumerate(cells)) + "</tr>"

    return (f'<table><thead>{row(headings, "th")}</thead>\n<tbody>' + "\n".join(row(cells, "td") for cells in rows)
            + "</tbody></table>")


def metrics_tables(results: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> str:
    """For each data set of results.json a table for each task, and one with a row for each class."""
    parts = []
    for dataset, tasks in results.items():
        parts.append(f"<h3>{escape(dataset)}</h3>")
        for task, metrics in tasks.items():
            whole = {name: value for name, value in metrics.items() if "-" not in name}
            parts.append(table([task, *whole], [["all", *whole.values()]]))
        columns = [(heading, task, metric) for heading, task, metric in CLASS_COLUMNS
                   if any(name.startswith(f"{metric}-") for name in tasks.get(task, {}))]
        if not columns:
            continue
        classes = dict.fromkeys(name.removeprefix(f"{metric}-") for _, task, metric in columns for name in tasks[task]
                                if name.startswith(f"{metric}-"))
        parts.append(table(["class", *(heading for heading, _, _ in columns)], [
            [name, *(tasks[task].get(f"{metric}-{name}") for _, task, metric in columns)] for name in classes]))
    return "\n".join(parts)


# As summarize_run's; the mean over classes is called mIoU, that of a class IoU.
CLASS_COLUMNS = tuple((heading.removeprefix("m") if task == "sem_seg" else heading, task,
                       metric.removeprefix("m")) for heading, task, metric in COLUMNS)


def picture(pixels: np.ndarray, caption: str) -> str:
    """An RGB picture (H, W, 3) as a figure, in the file itself."""
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, format="JPEG", quality=JPEG_QUALITY)
        return _figure(file.getvalue(), "jpeg", caption, caption)


def chart(series: Mapping[str, Sequence[tuple[float, float]]], *, title: str, x_label: str) -> str:
    """A `line_chart` as a figure, in the file itself; where it cannot be seen, the lines' ends are read out."""
    ends = ", ".join(f"{name} {points[0][1]:.4g} at {points[0][0]:g} to {points[-1][1]:.4g} at {points[-1][0]:g}"
                     for name, points in series.items())
    with io.BytesIO() as file:
        line_chart(series, x_label=x_label).savefig(file, format="svg", metadata={"Date": None})
        return _figure(file.getvalue(), "svg+xml", title, f"{title} by {x_label}: {ends}")


def _figure(data: bytes, kind: str, caption: str, description: str) -> str:
    return (f'<figure><img alt="{escape(description)}" src="data:image/{kind};base64,'
            f'{base64.b64encode(data).decode()}"><figcaption>{escape(caption)}</figcaption></figure>')

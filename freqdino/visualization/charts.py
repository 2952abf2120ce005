"""Line charts as inline SVG, without a library: the page that holds them needs no network."""
import math
from collections.abc import Mapping, Sequence
from html import escape

COLORS = ("#3366cc", "#dc3912", "#109618", "#ff9900", "#990099", "#0099c6", "#dd4477", "#66aa00", "#316395", "#994499")
WIDTH, HEIGHT = 640, 280
LEFT, RIGHT, TOP, BOTTOM = 56, 24, 12, 40       # margins
MOST_TICKS = 6


def line_chart(series: Mapping[str, Sequence[tuple[float, float]]], *, title: str, x_label: str) -> str:
    """A figure of lines over common axes, which begin at 0 or below, with a legend.

    Every point shows its numbers under the mouse.

    Args:
        series: name -> (x, y) points in the order of x, at least one point in all.
    """
    points = [point for line in series.values() for point in line]
    x_axis = Axis([0, *(x for x, _ in points)], LEFT, WIDTH - RIGHT)
    y_axis = Axis([0, *(y for _, y in points)], HEIGHT - BOTTOM, TOP)
    parts = []
    for tick in y_axis.ticks:
        y = y_axis(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
                     f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in x_axis.ticks:
        parts.append(f'<text x="{x_axis(tick):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH) / 2:.0f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
    for index, (name, line) in enumerate(series.items()):
        color = COLORS[index % len(COLORS)]
        places = [(x_axis(x), y_axis(y)) for x, y in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline fill="none" stroke="{color}" stroke-width="1.5" points="{path}"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="{color}"><title>{escape(name)} at {given_x:g}: '
                  f'{given_y:.4g}</title></circle>' for (x, y), (given_x, given_y) in zip(places, line)]
    legend = "".join(f'<li><span style="background:{COLORS[index % len(COLORS)]}"></span>{escape(name)}</li>'
                     for index, name in enumerate(series))
    return (f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
            f'<ul class="legend">{legend}</ul></figure>')


class Axis:
    """Maps values to places from ``start`` to ``end``; its ticks are round numbers that enclose the values."""

    def __init__(self, values: Sequence[float], start: float, end: float):
        low, high = min(values), max(values)
        step = round_up((high - low) / (MOST_TICKS - 2)) if high > low else 1.0
        first, last = math.floor(low / step), math.ceil(high / step)
        self.ticks = [round(step * index, 10) for index in range(first, max(last, first + 1) + 1)]
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        share = (value - self.ticks[0]) / (self.ticks[-1] - self.ticks[0])
        return self._start + share * (self._end - self._start)


def round_up(number: float) -> float:
    """The next of 1, 2, 5, 10, 20, ... times a power of ten."""
    power = 10.0 ** math.floor(math.log10(number))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= number * (1 - 1e-9))

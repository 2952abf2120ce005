"""Figures by matplotlib, drawn one way for the report and for the analyses: panels of curves, rows of pictures."""
from collections.abc import Mapping, Sequence
from itertools import zip_longest

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator


def line_chart(series: Mapping[str, Sequence[tuple[float, float]]], *, x_label: str) -> Figure:
    """Lines over common axes, which begin at 0 or below, with a legend.

    Args:
        series: name -> (x, y) points in the order of x, x not below 0; at least one point in all.
    """
    figure, axes = curve_figure([""])
    axis, = axes.values()
    for name, points in series.items():
        curve(axis, *zip(*points), name, marker=".")
    axis.set_xlim(left=0)
    if all(y >= 0 for points in series.values() for _, y in points):
        axis.set_ylim(bottom=0)
    finish(axes, x_label, "", size=10)
    return figure


def array(numbers: list) -> np.ndarray:
    """JSON's None as NaN."""
    return np.array(numbers, dtype=float)


def curve(axis: Axes, x: list, y: list, label: str | None = None, **style) -> None:
    """A line through what is defined."""
    x, y = array(x), array(y)
    known = np.isfinite(y)
    axis.plot(x[known], y[known], label=label, **style)


def curve_figure(groups: Sequence[str], title: str = "") -> tuple[Figure, dict[str, Axes]]:
    """A figure with a panel for each group."""
    figure = Figure(figsize=(4.5 * min(len(groups), 3) + 1, 3.4 * -(-len(groups) // 3)), layout="constrained")
    figure.suptitle(title, fontsize=9)
    axes = figure.subplots(-(-len(groups) // 3), min(len(groups), 3), squeeze=False).flatten()
    for axis, group in zip_longest(axes, groups):
        if group is None:
            axis.set_axis_off()
        else:
            axis.set_title(short(group), fontsize=7)
    return figure, dict(zip(groups, axes))


def finish(axes: dict[str, Axes], x_label: str, y_label: str, *, log: bool = False, size: int = 7) -> None:
    """Names and ticks of the axes in letters of ``size`` points and less, and a legend where a line has a label."""
    for axis in axes.values():
        axis.set_xlabel(x_label, fontsize=size)
        axis.set_ylabel(y_label, fontsize=size)
        axis.tick_params(which="both", labelsize=size - 1)      # both: a logarithmic axis labels its minor ticks
        if log and axis.lines:
            axis.set_yscale("log")
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=size - 2)


def panel_rows(rows: Sequence[Sequence[tuple[str, np.ndarray]]], title: str, scale: str, *,
               limits: tuple[float, float] | None = None, counted: str = "") -> Figure:
    """Rows of pictures under their titles; all of one colour scale, whose meaning is ``scale``. With "" each has its
    own, whose range stands in its title. ``counted`` is what the rows and columns of matrices number."""
    columns = max(map(len, rows))
    figure = Figure(figsize=(2.2 * columns + 1, 2.3 * len(rows) + 0.6), layout="constrained")
    figure.suptitle(title, fontsize=9)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    shared = {}
    if scale:
        finite = np.concatenate([picture[np.isfinite(picture)] for row in rows for _, picture in row])
        low, high = limits or ((finite.min(), finite.max()) if finite.size else (0, 1))
        shared = {"vmin": low, "vmax": high}
    for row, panels in zip(axes, rows):
        for axis, panel in zip_longest(row, panels):
            axis.set_axis_off()
            if panel is not None:
                if counted:
                    axis.set_axis_on()
                    count_from_zero(axis.xaxis, axis.yaxis)
                    axis.tick_params(labelsize=5)
                    axis.set_xlabel(counted, fontsize=6)
                    axis.set_ylabel(counted, fontsize=6)
                image = axis.imshow(panel[1], cmap="viridis", **shared)
                own = "" if scale else f"\n{np.nanmin(panel[1]):.3g} to {np.nanmax(panel[1]):.3g}"
                axis.set_title(panel[0] + own, fontsize=6)
    if scale:
        bar = figure.colorbar(image, ax=axes, shrink=0.8)
        bar.set_label(scale, fontsize=7)
        bar.ax.tick_params(labelsize=6)
    return figure


def count_from_zero(*axes: Axis) -> None:
    """Ticks at whole numbers only."""
    for axis in axes:
        axis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))


def short(name: str) -> str:
    """The last parts of a long module name."""
    return ".".join(name.split(".")[-3:])

"""Figures of the subjects' numbers, of one model or of several side by side: nothing is drawn that JSON does not hold.

Every function takes runs, pairs of a label and a subject's numbers, and returns file name -> figure.
"""
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from freqdino.visualization.charts import array, count_from_zero, curve, curve_figure, finish, panel_rows, short

Runs = Sequence[tuple[str, dict]]

COLUMNS = 6                     # of panels
LINE_STYLES = ("-", "--")       # of the runs
SMALLEST_DRAWN = 1e-6           # on logarithmic axes
HATCHES = ("", "//")            # of the runs
# Of responses: where both are the same, plain shows as a rim of inverted.
STACK_STYLES = {"plain": {"color": "tab:blue", "linewidth": 3, "alpha": 0.5},
                "inverted": {"color": "tab:red", "linewidth": 1.2}}
LOCAL_PANELS = {"response": "log10 of |F| of the kernel", "inverted_response": "log10 of |F| of the inverted kernel"}


def in_rows(runs: Sequence[Sequence[tuple[str, np.ndarray]]]) -> list[list[tuple[str, np.ndarray]]]:
    """The runs' panels in rows of COLUMNS, those of one place of all runs under each other."""
    longest = max(map(len, runs))
    return [row for start in range(0, longest, COLUMNS) for panels in runs if (row := panels[start:start + COLUMNS])]


def labelled(label: str, name: str) -> str:
    return f"{label}\n{name}" if label else name


def groups_of(runs: Runs) -> list[str]:
    return list(dict.fromkeys(layer["group"] for _, numbers in runs for layer in numbers["layers"]))


def log10(numbers: list) -> np.ndarray:
    return np.log10(np.maximum(array(numbers), SMALLEST_DRAWN))


def attention(runs: Runs) -> dict[str, Figure]:
    rows = in_rows([[(labelled(label, short(layer["name"])), log10(layer["response"])) for layer in numbers["layers"]]
                    for label, numbers in runs])
    figures = {"attention_responses": panel_rows(rows, "Response |F(Y)| / |F(V)|, frequency zero in the middle",
                                                 "log10 of the response")}
    groups = groups_of(runs)
    figures["attention_profiles"], axes = curve_figure(groups, "Response by frequency and layer")
    for (label, numbers), style in zip(runs, LINE_STYLES):
        for group in groups:
            layers = [layer for layer in numbers["layers"] if layer["group"] == group]
            for depth, layer in enumerate(layers):
                curve(axes[group], numbers["frequencies"], layer["profile"], labelled(label, short(layer["name"])),
                      linestyle=style, color=colormaps["viridis"](depth / max(len(layers) - 1, 1)))
    finish(axes, "frequency (cycles per token)", "|F(Y)| / |F(V)|", log=True)
    figures["attention_stacked"], axes = curve_figure(groups, "Product of the layers' responses")
    for (label, numbers), style in zip(runs, LINE_STYLES):
        for stack in numbers["stacked"]:
            for kind, look in STACK_STYLES.items():
                if stack[kind] is not None:
                    curve(axes[stack["group"]], numbers["frequencies"], stack[kind],
                          f"{label} {kind}".strip(), linestyle=style, **look)
    finish(axes, "frequency (cycles per token)", "product over layers", log=True)
    local = [(label, numbers["local"], numbers["frequencies"]) for label, numbers in runs if numbers["local"]]
    if local:
        rows = [row for _, some, _ in local for row in some["every_layer"]]
        held = f"equation 24 holds in {sum(row['low_pass'] for row in rows)} of {len(rows)} layers"
        figures["attention_kernel"] = panel_rows(
            [[(labelled(label, f"{short(some['layer'])} at (y, x) = {tuple(some['token'])}"), array(some["kernel"])),
              *((title, log10(some[key])) for key, title in LOCAL_PANELS.items() if some[key] is not None)]
             for label, some, _ in local], f"Attention as a kernel at one token (mean of the heads)\n{held}", "")
        place = f"at (y, x) = {', '.join(dict.fromkeys(str(tuple(some['token'])) for _, some, _ in local))}"
        figures["attention_kernel_stacked"], axes = curve_figure([place], "Product over layers of the kernels' |F|")
        for (label, some, frequencies), style in zip(local, LINE_STYLES):
            for kind, look in STACK_STYLES.items():
                if some[f"stacked_{kind}"] is not None:
                    curve(axes[place], frequencies, some[f"stacked_{kind}"], f"{label} {kind}".strip(),
                          linestyle=style, **look)
        finish(axes, "frequency (cycles per token)", "product over layers", log=True)
    return figures


def representation(runs: Runs) -> dict[str, Figure]:
    measures = {"effective_rank": "effective rank", "similarity": "mean |cosine| of two tokens"}
    figure, axes = curve_figure(list(measures.values()), "Tokens by layer")
    for (label, numbers), style in zip(runs, LINE_STYLES):
        for color, group in enumerate(groups_of(runs)):
            layers = [layer for layer in numbers["layers"] if layer["group"] == group]
            for key, title in measures.items():
                curve(axes[title], list(range(len(layers))), [layer[key] for layer in layers],
                      f"{label} {short(group)}".strip(), linestyle=style, marker=".", color=f"C{color}")
    finish(axes, "layer of the stack", "")
    count_from_zero(*(axis.xaxis for axis in axes.values()))
    figures = {"representation_layers": figure}
    across = [[(labelled(label, short(stack["group"])), array(stack["similarity"])) for stack in numbers["across"]]
              for label, numbers in runs]
    if any(across):
        figures["representation_across"] = panel_rows(in_rows(across), "Similarity across the layers of a stack",
                                                      "mean |cosine|", limits=(0, 1), counted="layer")
    maps = [[panel for layer in numbers["layers"] for panel in (
        (labelled(label, short(layer["name"])), array(layer["map"])),
        ("log10 of the spectrum", log10(layer["spectrum"])))] for label, numbers in runs]
    figures["representation_maps"] = panel_rows(
        in_rows(maps), "Mean |feature| and mean amplitude spectrum of the channels", "")
    return figures


def gates(runs: Runs) -> dict[str, Figure]:
    figures = {}
    for name, key, kind, title in (
            ("gates_inversion", "inversion", "high", "High-pass coefficient of attention inversion"),
            ("gates_scales", "scales", "weights", "FreqScale's weights, frequency zero in the middle")):
        panels = [[(labelled(label, short(item["name"])), array(item[kind])) for item in numbers[key]]
                  for label, numbers in runs]
        if any(panels):
            figures[name] = panel_rows(in_rows(panels), f"{title} (mean of the channels)", "")
    return figures


def fdconv(runs: Runs) -> dict[str, Figure]:
    layers = ", ".join(dict.fromkeys(short(numbers["layer"]) for _, numbers in runs))
    figures = {"fdconv_spectra": panel_rows(
        in_rows([[(labelled(label, f"group {item['group']}"), log10(item["amplitude"])) for item in numbers["spectra"]]
                 for label, numbers in runs]), f"{layers}: spectra of the group kernels, frequency zero in the middle",
        "log10 of the amplitude")}
    figures["fdconv_profiles"], axes = curve_figure(["dark to bright: group 0 to the last"],
                                                    f"{layers}: amplitude of the group kernels by frequency")
    axis, = axes.values()
    for (label, numbers), style in zip(runs, LINE_STYLES):
        for group, profile in enumerate(numbers["profiles"]):
            curve(axis, numbers["frequencies"], profile, label if label and not group else None, linestyle=style,
                  color=colormaps["viridis"](group / max(len(numbers["profiles"]) - 1, 1)))
    finish(axes, "frequency (cycles per element of the matrix)", "mean |F|")
    figures["fdconv_similarity"] = panel_rows(
        [[(labelled(label, numbers["layer"]), array(numbers["similarity"])) for label, numbers in runs]],
        "Cosine similarity of the group kernels", "cosine", limits=(-1, 1), counted="group")
    rows = [[(labelled(label, f"{kind} of band {band}"), array(picture)) for band, picture in enumerate(
        numbers["bands"][key])] for label, numbers in runs if numbers["bands"] for kind, key in (
            ("mask", "masks"), ("weights", "weights"))]
    if rows:
        figures["fdconv_bands"] = panel_rows(rows, f"{layers}: frequency bands, finest first (frequency zero in the "
                                             "middle), and their weights on the image", "")
    return figures


def freqfusion(runs: Runs) -> dict[str, Figure]:
    measures = {"intra_category_similarity": "intra-category similarity", "similarity_margin": "similarity margin"}
    figure, axes = curve_figure(list(measures.values()), "Before and after fusion, on ground truth")
    bars = [(label, unit, hatch) for (label, numbers), hatch in zip(runs, HATCHES) for unit in numbers["units"]]
    stages = list(bars[0][1]["stages"])
    width = 0.8 / len(stages)
    for key, title in measures.items():
        axis = axes[title]
        for place, (label, unit, hatch) in enumerate(bars):
            for index, stage in enumerate(stages):
                bar = axis.bar(place + (index - (len(stages) - 1) / 2) * width, array(unit["stages"][stage][key]),
                               width * 0.95, hatch=hatch, color=f"C{index}", label=None if place else stage)
                axis.bar_label(bar, fmt="%.2f", fontsize=5, rotation=90, padding=2)
        axis.set_xticks(range(len(bars)), [labelled(label, short(unit["name"])) for label, unit, _ in bars],
                        rotation=15, horizontalalignment="right", rotation_mode="anchor")
        axis.margins(y=0.15)        # for the numbers above the bars
        axis.tick_params(labelsize=6)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=len(stages), fontsize=6)
    rows = [[(labelled(label, f"{short(numbers['kernels']['unit'])}\n{kind} filter, group {group}, at (y, x) = "
                              f"{tuple(numbers['kernels']['point'])}"), array(kernel))
             for kind, key in (("low-pass", "low_pass"), ("high-pass", "high_pass"))
             for group, kernel in enumerate(numbers["kernels"][key] or [])] for label, numbers in runs]
    return {"freqfusion_similarity": figure,
            "freqfusion_kernels": panel_rows(rows, "Filters of one unit at one pixel", "")}

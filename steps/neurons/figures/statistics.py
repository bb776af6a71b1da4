"""The figures that need the neuron table only (the paper's numbers).

``universal_percentiles`` (F3), ``frequency_cosine`` (F9), ``redundancy`` (F10), ``metric_densities``
(F11, over the models of the study) and ``metrics_by_layer`` (F14). Metrics that the table lacks are left
out; where no neuron is universal, figures say so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steps.core.figures import COLOURS, new_figure, note, say, say_only, whole_numbers
from steps.neurons.selection.tables import METRICS

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure

    _Drawn = tuple[Figure, dict[str, Any]]
    _Draw = Callable[[pd.DataFrame, np.ndarray, str], _Drawn]


LACKING = "needs the weights of the models, which this study's table does not have"


DENSITY_BINS = 200
"""The paper's; fewer where a model has too few neurons to fill them."""


FILLED = 16
"""Neurons per bin, on average, that densities need."""


def reference_rows(neurons: pd.DataFrame) -> pd.DataFrame:
    """The rows of the reference model, the only one whose excess is known."""
    return neurons[neurons["excess_corr"].notna()].reset_index(drop=True)


def correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    """Pearson's correlation where both are known; nothing where one does not vary."""
    import numpy as np

    both = ~(np.isnan(x) | np.isnan(y))
    x, y = x[both], y[both]
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def universal_percentiles(neurons: pd.DataFrame, universal: np.ndarray, label: str) -> _Drawn:
    """Where universal neurons stand among the neurons of their layer: letter values of each metric."""
    import numpy as np

    rows = reference_rows(neurons)[universal]
    metrics = [metric for metric in METRICS if f"percentile[{metric}]" in rows]
    tails = [0.25, 0.125, 0.0625, 0.03125]
    data: dict[str, Any] = {"set": label, "neurons": len(rows), "quantiles": {}}
    if not len(rows):
        return say_only(label), data
    figure, axes = new_figure(width=6.4, height=0.8 + 0.42 * len(metrics))
    for place, metric in enumerate(reversed(metrics)):
        values = rows[f"percentile[{metric}]"].dropna().to_numpy(float)
        if not len(values):
            continue
        levels = [*tails[::-1], 0.5, *(1 - tail for tail in tails)]
        data["quantiles"][metric] = dict(
            zip(map(str, levels), np.quantile(values, levels).tolist(), strict=True)
        )
        for depth in reversed(range(len(tails))):
            low, high = np.quantile(values, [tails[depth], 1 - tails[depth]])
            shade = 0.85 * 0.6**depth
            axes.barh(place, high - low, left=low, height=0.8 * 0.72**depth, color=COLOURS[0], alpha=shade)
        axes.plot([np.median(values)] * 2, [place - 0.4, place + 0.4], color="black", linewidth=1.6)
    axes.axvline(50, color=COLOURS[6], linestyle=":", linewidth=1)
    axes.set_yticks(range(len(metrics)), [METRICS[metric] for metric in reversed(metrics)])
    axes.set(xlim=(0, 100), ylim=(-0.6, len(metrics) - 0.4), xlabel="percentile within the neuron's layer")
    axes.set_title(label)
    return figure, data


def frequency_cosine(neurons: pd.DataFrame, universal: np.ndarray, label: str) -> _Drawn:
    """How often a neuron fires against the cosine of its input and output weights."""
    if "in_out_sim" not in neurons:
        return say_only(LACKING), {}
    figure, axes = new_figure(width=5.6, height=4.2)
    each = {
        str(name): correlation(part["in_out_sim"].to_numpy(float), part["activation_frequency"].to_numpy())
        for name, part in neurons.groupby("model", sort=False)
    }
    rows = reference_rows(neurons)
    x, y, depth = (rows[name].to_numpy(float) for name in ("in_out_sim", "activation_frequency", "layer"))
    raster = len(rows) > 20_000
    points = axes.scatter(x, y, c=depth, s=5, alpha=0.6, linewidths=0, rasterized=raster)
    if universal.any():
        axes.scatter(
            x[universal],
            y[universal],
            s=14,
            facecolors="none",
            edgecolors=COLOURS[1],
            linewidths=0.6,
            rasterized=raster,
            label=label,
        )
        figure.legend(loc="outside lower center", fontsize=8)
    else:
        note(figure, label)
    name = str(rows["model"].iloc[0])
    found = each[name]
    axes.set(xlabel="cos(input, output weights)", ylabel="activation frequency")
    axes.set_title(f"{name}: correlation " + ("not defined" if found is None else f"{found:.2f}"))
    bar = figure.colorbar(points, ax=axes, label="layer", alpha=1)
    bar.locator = whole_numbers()
    return figure, {
        "set": label,
        "correlation": each,
        "in_out_sim": x.tolist(),
        "activation_frequency": y.tolist(),
        "layer": rows["layer"].tolist(),
        "universal": universal.tolist(),
    }


def redundancy(neurons: pd.DataFrame, universal: np.ndarray, label: str) -> _Drawn:
    """How alike the most similar neuron of the same model is."""
    import numpy as np

    data: dict[str, Any] = {"set": label}
    rows = reference_rows(neurons)
    shown = {"w_in_max_cos": "Input weights", "w_out_max_cos": "Output weights"}
    if not set(shown) & set(rows):
        return say_only(LACKING), data
    figure, both = new_figure(1, 2, width=4.4)
    for axes, (column, title) in zip(both, shown.items(), strict=True):
        if column not in rows:
            say(axes, LACKING)
            continue
        values = rows[column].to_numpy(float)
        known = ~np.isnan(values)
        edges = np.linspace(min(0.0, values[known].min(initial=0)), 1, 51)
        data[column] = {"edges": edges.tolist()}
        for chosen, name, colour in (
            (~universal, "other neurons", COLOURS[6]),
            (universal, "universal neurons", COLOURS[1]),
        ):
            counts, _ = np.histogram(values[known & chosen], edges)
            data[column][name] = counts.tolist()
            if counts.sum():
                text = f"{name} ({counts.sum():,})"
                axes.stairs(counts / counts.sum(), edges, label=text, color=colour, fill=True, alpha=0.35)
                axes.stairs(counts / counts.sum(), edges, color=colour)
        axes.set(xlabel="largest cosine with another neuron's", ylabel="share of neurons", title=title)
        axes.legend(fontsize=7)
    figure.suptitle(label, fontsize="medium")
    return figure, data


def metric_densities(neurons: pd.DataFrame, universal: np.ndarray, label: str) -> _Drawn:
    """Densities of the metrics over all neurons of each model."""
    import numpy as np

    metrics = [metric for metric in METRICS if metric in neurons]
    columns = min(3, len(metrics))  # a page holds three of this width without making them smaller
    figure, grid = new_figure(-(-len(metrics) // columns), columns, width=3.3, height=2.5, squeeze=False)
    data: dict[str, Any] = {}
    fewest = int(neurons["model"].value_counts().min())
    bins = min(DENSITY_BINS, max(10, fewest // FILLED))
    for axes, metric in zip(grid.flat, metrics, strict=False):
        whole = neurons[metric].dropna().to_numpy(float)
        low, high = np.quantile(whole, [0.001, 0.999]) if len(whole) else (0.0, 1.0)
        edges = np.linspace(low, high if high > low else low + 1, bins + 1)
        data[metric] = {"edges": edges.tolist()}
        for place, (name, part) in enumerate(neurons.groupby("model", sort=False)):
            counts, _ = np.histogram(part[metric].dropna(), edges)
            density = counts / (max(1, counts.sum()) * (edges[1] - edges[0]))
            data[metric][str(name)] = counts.tolist()
            colour = COLOURS[place % len(COLOURS)]
            axes.stairs(density, edges, label=str(name), linewidth=0.8, alpha=0.8, color=colour)
        axes.set(xlabel=METRICS[metric], ylabel="density")
    for axes in grid.flat[len(metrics) :]:
        axes.set_visible(False)
    figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure, data


def metrics_by_layer(neurons: pd.DataFrame, universal: np.ndarray, label: str) -> _Drawn:
    """The metrics of universal neurons, layer by layer, and the median of all neurons."""
    import numpy as np

    names = METRICS | {"vocab_skew": "W_U skew"}
    rows = reference_rows(neurons)
    metrics = [metric for metric in names if metric in rows]
    columns = min(3, len(metrics))
    figure, grid = new_figure(-(-len(metrics) // columns), columns, width=3.6, height=2.5, squeeze=False)
    layers = np.unique(rows["layer"])
    data: dict[str, Any] = {"set": label, "layers": layers.tolist(), "universal": {}, "median_of_all": {}}
    for axes, metric in zip(grid.flat, metrics, strict=False):
        groups = [
            rows.loc[universal & (rows["layer"] == layer), metric].dropna().to_numpy(float)
            for layer in layers
        ]
        full = [place for place, group in enumerate(groups) if len(group)]
        data["universal"][metric] = [
            np.quantile(g, [0.25, 0.5, 0.75]).tolist() if len(g) else None for g in groups
        ]
        if full:
            axes.boxplot(
                [groups[place] for place in full],
                positions=layers[full],
                whis=(5, 95),
                widths=0.6,
                showfliers=False,
                manage_ticks=False,
                patch_artist=True,
                boxprops={"facecolor": COLOURS[5], "linewidth": 0.8},
                medianprops={"color": "black"},
            )
        median = rows.groupby("layer")[metric].median().reindex(layers).to_numpy(float)
        data["median_of_all"][metric] = [None if np.isnan(m) else float(m) for m in median]
        axes.plot(layers, median, color=COLOURS[1], marker="o", markersize=3, label="median of all neurons")
        axes.set(xlabel="layer", ylabel=names[metric], xlim=(layers[0] - 0.6, layers[-1] + 0.6))
        axes.xaxis.set_major_locator(whole_numbers())
    for axes in grid.flat[len(metrics) :]:
        axes.set_visible(False)
    figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside lower center")
    figure.suptitle(label, fontsize="medium")
    return figure, data


STATISTICS: dict[str, _Draw] = {
    "universal_percentiles": universal_percentiles,
    "frequency_cosine": frequency_cosine,
    "redundancy": redundancy,
    "metric_densities": metric_densities,
    "metrics_by_layer": metrics_by_layer,
}


CAPTIONS = {
    "universal_percentiles": "Universal neurons are ranked among the neurons of their own layer. Half of them"
    " lie in the darkest box, and each wider box holds half of the rest; the line is the median, and the"
    " dotted line is where it would lie if they were like all others.",
    "frequency_cosine": "In the paper, neurons whose output weights point against their input weights fire"
    " most: it found correlations of -0.69 (GPT-2 small), -0.63 (medium) and -0.58 (Pythia-160m).",
    "redundancy": "For each neuron, the figure shows the largest cosine of its weights with those of another"
    " neuron of the same model.",
    "metric_densities": "Densities are taken over all neurons of a model, from the 0.1st to the 99.9th"
    " percentile.",
    "metrics_by_layer": "Universal neurons are shown layer by layer (boxes span the quartiles, whiskers the"
    " 5th to the 95th percentile), with the median of all neurons of the layer.",
}

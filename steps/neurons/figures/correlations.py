"""Figures of correlations, excess and clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steps.core.figures import COLOURS, new_figure, say, say_only, whole_numbers
from steps.core.text import plural
from steps.neurons.correlations.pairs import Pair

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure

    _Drawn = tuple[Figure, dict[str, Any]]


def layer_matches(pairs: list[Pair]) -> dict[int, np.ndarray]:
    """Share ``[layers of a, layers of b]`` of a layer's neurons whose best match lies in each layer.

    The mean over partners of one depth, by the number of their layers, the fewest first; 1 when summed over
    a row. Neurons without a match (they or all partner neurons are constant) do not count.
    """
    import numpy as np

    shares: dict[int, list[np.ndarray]] = {}
    for pair in pairs:
        here = np.arange(pair.neurons[0]) // pair.d_mlp[0]
        there = pair.row_top_index[:, 0] // pair.d_mlp[1]
        matched = pair.matched
        counts = np.zeros((pair.neurons[0] // pair.d_mlp[0], pair.neurons[1] // pair.d_mlp[1]))
        np.add.at(counts, (here[matched], there[matched]), 1)
        shares.setdefault(counts.shape[1], []).append(counts / np.maximum(1, counts.sum(1, keepdims=True)))
    return {layers: np.mean(shares[layers], axis=0) for layers in sorted(shares)}


def running_mean(x: np.ndarray, y: np.ndarray, windows: int = 25) -> tuple[np.ndarray, np.ndarray]:
    """Means of ``x`` and ``y`` over consecutive, equally large groups in the order of ``x``."""
    import numpy as np

    order = np.argsort(x, kind="stable")
    groups = np.array_split(order, min(windows, len(order)))
    return np.array([x[g].mean() for g in groups]), np.array([y[g].mean() for g in groups])


def correlation_summary(excess: pd.DataFrame, clusters: pd.DataFrame, pairs: list[Pair]) -> _Drawn:
    """Histograms, agreement between partners, and layer by layer matches for each depth of partners."""
    import numpy as np

    found = {layers: 100 * share for layers, share in layer_matches(pairs).items()}
    figure, (a, b, *maps) = new_figure(1, 2 + len(found), width=4.2)
    low = min(0.0, float(excess["excess_corr"].min()))
    edges = np.linspace(low, max(1.0, float(excess["mean_corr"].max())), 61)
    data: dict[str, Any] = {"edges": edges.tolist()}
    for column, label in (
        ("mean_corr", "mean over partners of the largest"),
        ("mean_baseline", "the same with rotated partners"),
        ("excess_corr", "excess: their difference"),
    ):
        counts, _ = np.histogram(excess[column], edges)
        data[column] = counts.tolist()
        a.stairs(counts, edges, label=label, linewidth=1.4)
    a.set(
        yscale="log",
        ylim=(0.7, 30 * len(excess)),  # room for the legend
        xlabel="correlation",
        ylabel="neurons",
        title="Correlation and baseline",
    )
    a.yaxis.set_major_formatter("{x:g}")
    a.legend(fontsize=7, loc="upper right")

    largest, smallest = excess["max_corr"].to_numpy(), excess["min_corr"].to_numpy()
    x, y = running_mean(largest, smallest)
    data |= {"max_corr": largest.tolist(), "min_corr": smallest.tolist()}
    data |= {"running_max": x.tolist(), "running_min": y.tolist()}
    if len(pairs) > 1:
        b.scatter(
            largest, smallest, s=4, alpha=0.4, linewidths=0, label="neuron", rasterized=len(largest) > 20_000
        )
        b.plot(x, y, color=COLOURS[1], label="running mean")
        ends = [min(0.0, smallest.min()), max(largest.max(), 0.01)]
        b.plot(ends, ends, color=COLOURS[6], linewidth=0.8, linestyle=":")
        b.set(xlabel="most similar partner", ylabel="least similar partner")
        b.set_title("Largest correlation by partner")
        b.legend(fontsize=7, loc="upper left")
    else:
        say(b, f"{pairs[0].b} is the only partner")

    one_depth = len(found) == 1
    for c, (layers, matches) in zip(maps, found.items(), strict=True):
        where = "" if one_depth else f" in {layers} {plural(layers, 'layer')}"
        data["layer_match_percent" if one_depth else f"layer_match_percent[{layers}]"] = matches.tolist()
        image = c.imshow(matches, origin="lower", vmin=0, vmax=max(50.0, matches.max()), aspect="auto")
        c.grid(visible=False)
        c.set(
            xlabel="layer of the best match",
            ylabel=f"layer of {pairs[0].a}",
            title=f"Where the best match lies{where} (%)",
        )
        c.set_xticks(range(matches.shape[1]))
        c.set_yticks(range(matches.shape[0]))
        if matches.size <= 64:
            for (i, j), value in np.ndenumerate(matches):
                colour = "white" if value < 35 else "black"
                c.text(j, i, f"{value:.0f}", ha="center", va="center", color=colour)
        figure.colorbar(image, ax=c)
    return figure, data


def excess_against_null(excess: pd.DataFrame, clusters: pd.DataFrame, pairs: list[Pair]) -> _Drawn:
    """Excess correlation, sorted and compared with what further rotations give, and both thresholds."""
    import numpy as np

    figure, (a, b) = new_figure(1, 2, width=4.6)
    null = np.mean([pair.rotated_max for pair in pairs], axis=0)
    centred = null - null.mean(0)
    value = excess["excess_corr_draws"].to_numpy()
    edges = np.linspace(min(value.min(), centred.min()), max(value.max(), 0.5) + 0.02, 81)
    share, _ = np.histogram(value, edges)
    null_share, _ = np.histogram(centred, edges)
    data: dict[str, Any] = {
        "edges": edges.tolist(),
        "neurons": share.tolist(),
        "null_draws": null_share.tolist(),
        "draws": len(null),
    }
    a.stairs(share / share.sum(), edges, label="neurons", fill=True, alpha=0.6)
    a.stairs(null_share / null_share.sum(), edges, label=f"{len(null)} rotations", linewidth=1.4)
    a.axvline(0.5, color=COLOURS[6], linestyle=":", linewidth=1, label="universal in the paper")
    a.set(xlabel="excess over the mean of all draws", ylabel="share", title="Excess and its null")
    a.legend(fontsize=7)

    chosen = excess["privileged_basis"].to_numpy()
    order = np.argsort(-value, kind="stable")
    rank = np.arange(1, len(value) + 1)
    data |= {"sorted_excess": value[order].tolist(), "privileged_basis": chosen[order].tolist()}
    colours = np.where(chosen[order], COLOURS[0], COLOURS[6])
    b.scatter(rank, value[order], s=5, c=colours, linewidths=0, rasterized=len(rank) > 20_000)
    b.axhline(0, color=COLOURS[6], linewidth=0.8)
    count = int(chosen.sum())
    b.set(xlabel="neurons by excess", ylabel="excess over the mean of all draws")
    found = f"{count} of {len(chosen)} (blue)" if count else "no neuron passes the calibrated threshold"
    b.set_title(f"Privileged basis: {found}")
    return figure, data


def cluster_sizes(excess: pd.DataFrame, clusters: pd.DataFrame, pairs: list[Pair]) -> _Drawn:
    """How large the clusters are and how stable."""
    import numpy as np

    each = clusters.drop_duplicates("cluster").sort_values("cluster")
    sizes, counts = np.unique(each["size"], return_counts=True)
    data = {
        "size": sizes.tolist(),
        "clusters": counts.tolist(),
        "cluster_size": each["size"].tolist(),
        "stability": each["stability"].tolist(),
    }
    if not len(each):
        return say_only("no neurons form a cluster at this scale"), data
    figure, (a, b) = new_figure(1, 2, width=4.2)
    a.bar(sizes, counts, width=0.8)
    a.set(xlabel="neurons in the cluster", ylabel="clusters", title=f"{len(each)} clusters")
    generator = np.random.default_rng(0)
    b.scatter(
        each["size"] + generator.uniform(-0.2, 0.2, len(each)),
        each["stability"],
        s=6,
        alpha=0.5,
        linewidths=0,
    )
    b.set(xlabel="neurons in the cluster", ylabel="stability (mean best Jaccard)", ylim=(0, 1.03))
    for axes in (a, b):
        axes.xaxis.set_major_locator(whole_numbers())
    b.set_title("Stability under resampled tokens")
    return figure, data


FIGURES: dict[str, Callable[[pd.DataFrame, pd.DataFrame, list[Pair]], _Drawn]] = {
    "correlation_summary": correlation_summary,
    "excess": excess_against_null,
    "clusters": cluster_sizes,
}

"""The figure of other measures and nulls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steps.core.figures import COLOURS, new_figure
from steps.neurons.selection.tables import MEASURES, NULLS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def similarity_figure(table: pd.DataFrame) -> tuple[Figure, dict[str, Any]]:
    """Each measure with its nulls, and how far the measures agree on which neurons are similar."""
    import numpy as np

    figure, axes = new_figure(2, 3, width=4.0)
    data: dict[str, Any] = {}
    for ax, measure in zip(axes[0], MEASURES, strict=True):
        shown = {"partners": table[measure], **{null: table[f"{measure}_{null}"] for null in NULLS}}
        low = min(0.0, *(float(values.min()) for values in shown.values()))
        edges = np.linspace(low, max(1.0, *(float(values.max()) for values in shown.values())), 51)
        data[measure] = {"edges": edges.tolist()}
        for label, values in shown.items():
            counts, _ = np.histogram(values, edges)
            data[measure][label] = counts.tolist()
            ax.stairs(counts, edges, label=label, linewidth=1.4)
        ax.set(yscale="log", ylim=(0.7, 30 * len(table)), xlabel=f"largest {measure}", ylabel="neurons")
        ax.set_title(f"{measure.capitalize()} and its nulls")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.legend(fontsize=7, loc="upper right")
    many = len(table) > 20_000
    for ax, measure in zip(axes[1], MEASURES[1:], strict=False):
        ranks = table[["pearson", measure]].rank()
        agreement = float(ranks["pearson"].corr(ranks[measure])) if ranks.var().all() else 0.0
        data[f"rank_correlation_pearson_{measure}"] = agreement
        ax.scatter(table["pearson"], table[measure], s=4, alpha=0.4, linewidths=0, rasterized=many)
        ax.set(xlabel="largest pearson", ylabel=f"largest {measure}")
        ax.set_title(f"Rank correlation {agreement:.2f}")
    place = np.arange(len(MEASURES))
    for number, null in enumerate(NULLS):
        mean = [float(table[f"{measure}_excess_{null}"].mean()) for measure in MEASURES]
        data[f"mean_excess_{null}"] = dict(zip(MEASURES, mean, strict=True))
        axes[1][2].bar(place + 0.27 * (number - 1), mean, width=0.25, label=null, color=COLOURS[number + 1])
    axes[1][2].axhline(0, color=COLOURS[6], linewidth=0.8)
    axes[1][2].set_xticks(place, MEASURES)
    axes[1][2].set(ylabel="mean excess over the null", title="Excess over each null")
    axes[1][2].legend(fontsize=7)
    return figure, data

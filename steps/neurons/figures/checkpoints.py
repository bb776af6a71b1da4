"""The figure of universality over training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steps.core.figures import COLOURS, new_figure
from steps.neurons.selection.universal import UniversalSettings, chosen, describe

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def training_figure(
    table: pd.DataFrame, settings: UniversalSettings, threshold: float
) -> tuple[Figure, dict[str, Any]]:
    """Excess, counts and persistence over training."""
    figure, (a, b, c) = new_figure(1, 3, width=4.0)
    groups = table.groupby("tokens")
    tokens = [int(value) for value in groups.groups]
    data: dict[str, Any] = {"tokens": tokens, "neurons": int(groups.size().iloc[0])}

    def draw(ax: Any, name: str, label: str, values: pd.Series, **style: Any) -> None:
        data[name] = [float(value) for value in values]
        ax.plot(tokens, data[name], marker="o", markersize=3, label=label, **style)

    draw(a, "excess_mean", "mean", groups["excess_corr"].mean(), color=COLOURS[0])
    for quantile, shade in ((0.5, 5), (0.9, 4), (0.99, 1)):
        values = groups["excess_corr"].quantile(quantile)
        draw(
            a, f"excess_quantile_{quantile:g}", f"{100 * quantile:g} % quantile", values, color=COLOURS[shade]
        )
    a.set(ylabel="excess correlation", title="Excess over draw 0")
    draw(b, "universal", f"excess above {threshold:g}", groups["universal"].sum(), color=COLOURS[1])
    draw(b, "privileged_basis", "calibrated", groups["privileged_basis"].sum(), color=COLOURS[0])
    b.set(ylabel=f"neurons of {data['neurons']}", ylim=(0, None), title="Neurons by either threshold")
    draw(c, "self_corr_mean", "correlation, mean", groups["self_corr"].mean(), color=COLOURS[0])
    last = table[table["tokens"] == tokens[-1]]
    members = last.loc[chosen(last, settings.universal_set, settings.top_share), ["layer", "neuron"]]
    data["set"] = describe(settings.universal_set, settings.top_share, len(members))
    if len(members):
        kept = table.merge(members, on=["layer", "neuron"]).groupby("tokens")["self_corr"].mean()
        draw(c, "self_corr_mean_universal", "of the universal neurons", kept, color=COLOURS[2])
    draw(
        c, "best_is_itself", "share best matched by itself", groups["best_is_itself"].mean(), color=COLOURS[1]
    )
    c.set(ylabel="with the last step", ylim=(min(0.0, *data["self_corr_mean"]), 1.03), title="Persistence")
    figure.suptitle(f"After the last step: {data['set']}", fontsize=9)
    for ax in (a, b, c):
        ax.set(xscale="log", xlabel="tokens seen in training")
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter("")
        ax.legend(fontsize=7)
    return figure, data

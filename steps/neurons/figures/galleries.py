"""Galleries of families of neurons."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from steps.core.figures import COLOURS, new_figure, say, say_only
from steps.neurons.activations.bins import bin_edges
from steps.neurons.explanations.families import FAMILIES

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure

    _Drawn = tuple[Figure, dict[str, Any]]


GALLERIES = ("all", "best", *FAMILIES)


TITLES = {
    "best": "One neuron of each family",
    "bos": "BOS neurons",
    "position": "Position neurons",
    "previous_token": "Previous-token neurons",
    "alphabet": "Alphabet neurons",
    "unigram": "Unigram neurons",
    "syntax": "Syntax neurons",
    "context": "Context and topic neurons",
    "none": "Others",
}


COLUMNS = 4


def gallery(
    name: str, table: pd.DataFrame, profiles: dict[str, np.ndarray], counts: np.ndarray, label: str
) -> _Drawn:
    """Panels of the neurons in ``table``, whose ``number`` is their place in ``profiles`` and ``counts``."""
    title = f"{TITLES[name]}: {label}"
    data: dict[str, Any] = {"set": label, "neurons": []}
    if not len(table):
        # the label of an empty set says "no neurons" itself
        return say_only(title if label.startswith("no ") else f"{TITLES[name]}: none among {label}"), data
    rows = -(-len(table) // COLUMNS)
    figure, grid = new_figure(rows, COLUMNS, width=3.0, height=2.2, squeeze=False)
    for axes in grid.flat[len(table) :]:
        axes.set_visible(False)
    for axes, row in zip(grid.flat, table.itertuples(), strict=False):
        known = {
            "layer": int(row.layer),
            "neuron": int(row.neuron),
            "feature": row.feature,
            "variance_reduction": float(row.variance_reduction),
            "variance_reduction_held_out": float(row.variance_reduction_held_out),
        }
        draw = _draw_position if row.family == "position" else _draw_bins
        data["neurons"].append(known | draw(axes, row.number, profiles, counts))
        shown = "" if row.family == "position" else f" {_short(row.feature)},"
        family = f" {row.family.replace('_', ' ')}:" if name == "best" else ""
        axes.set_title(
            f"L{row.layer}.{row.neuron}{family}{shown} {row.variance_reduction_held_out:.2f}", fontsize=8
        )
    figure.suptitle(f"{title} (held-out variance reduction)", fontsize=9)
    return figure, data


def _short(text: str, most: int = 26) -> str:
    # Names may hold blanks and signs of any kind.
    plain = text.replace("\n", " ")
    return plain if len(plain) <= most else f"{plain[: most - 1]}…"


def _draw_position(
    axes: Any, number: int, profiles: dict[str, np.ndarray], counts: np.ndarray
) -> dict[str, Any]:
    import numpy as np

    mean, std = profiles["position_mean"][number], profiles["position_std"][number]
    places = np.arange(len(mean))
    axes.fill_between(places, mean - std, mean + std, color=COLOURS[0], alpha=0.25, linewidth=0)
    axes.plot(places, mean, color=COLOURS[0], linewidth=1)
    axes.set(xlabel="position", ylabel="post-activation")
    return {"mean": mean.tolist(), "std": std.tolist()}


def _draw_bins(axes: Any, number: int, profiles: dict[str, np.ndarray], counts: np.ndarray) -> dict[str, Any]:
    import numpy as np

    on = profiles["bins_on"][number].astype(int)
    # Histograms may cover other tokens than explanations did.
    off = np.maximum(counts[number].astype(int) - on, 0)
    edges = bin_edges()
    step = edges[1] - edges[0]
    outer = np.concatenate([[edges[0] - step], edges, [edges[-1] + step]])
    used = np.flatnonzero(on + off)
    for values, label, colour in ((off, "other tokens", COLOURS[6]), (on, "with the feature", COLOURS[1])):
        axes.stairs(values / max(1, values.sum()), outer, label=label, color=colour, linewidth=1)
    axes.set(xlim=(outer[used[0]], outer[used[-1] + 1]), xlabel="pre-activation", ylabel="share")
    axes.set_yticks([])
    if axes.get_subplotspec().is_first_row() and axes.get_subplotspec().is_first_col():
        axes.legend(fontsize=6)
    return {"on": on.tolist(), "off": off.tolist()}


def overview(table: pd.DataFrame, universal: np.ndarray, label: str) -> _Drawn:
    """How many neurons each family has, by layer."""
    import numpy as np

    names = [*FAMILIES, "none"]
    layers = range(int(table["layer"].max()) + 1)
    figure, panels = new_figure(1, 2, width=5.4)
    data: dict[str, Any] = {"set": label, "families": names, "neurons": {}}
    for axes, title, rows in (
        (panels[0], "all neurons of the reference", table),
        (panels[1], label, table[universal]),
    ):
        counts = np.array(
            [[((rows["family"] == f) & (rows["layer"] == k)).sum() for k in layers] for f in names]
        )
        data["neurons"]["universal" if axes is panels[1] else "all"] = counts.tolist()
        if not len(rows):
            say(axes, label)
            continue
        left = np.zeros(len(names))
        for layer in layers:
            shade = 0.3 + 0.7 * (layer + 1) / len(layers)
            axes.barh(
                range(len(names)),
                counts[:, layer],
                left=left,
                color=COLOURS[0],
                alpha=shade,
                label=f"layer {layer}",
            )
            left += counts[:, layer]
        axes.set_yticks(range(len(names)), [TITLES[name] for name in names])
        axes.set(xlabel="neurons", ylim=(len(names) - 0.4, -0.6))
        axes.set_title(textwrap.fill(title, 52), fontsize=8)
        if len(layers) <= 6 and axes is panels[0]:
            axes.legend(fontsize=6)
    return figure, data

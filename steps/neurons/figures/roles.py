"""Figures of roles, and of roles by depth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steps.core.figures import COLOURS, legend_below, new_figure, note, say
from steps.core.statistics import exact
from steps.neurons.selection.rules import KURTOSIS, PERCENTILES, ROLE_COLUMNS, ROLES
from steps.neurons.selection.universal import UniversalSettings, describe

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


CAPTIONS = {
    "roles": "Bars show which share of the universal neurons in the last layers, and of all others there,"
    " predict tokens, suppress tokens or partition the vocabulary. The paper finds that almost all universal"
    " neurons do one of these. Its limit on the variance holds for d_model 1024; the width-free rule is"
    " ours.",
    "roles_by_depth": "The upper panels show percentiles, over the neurons of a layer, of the kurtosis and"
    " skewness of the cosines between output weights and unembedding, and how many neurons have each role,"
    " as means over all models (thin lines are single models). The lower ones show neurons with a kurtosis"
    " above 10 (prediction and suppression neurons), the median of their skewness, and its spread in the"
    " reference. In the paper, prediction neurons come first and suppression neurons last: the median turns"
    " negative at 85 to 90 % of the depth.",
}


LABELS = dict(zip(ROLE_COLUMNS, ("the paper's rule", "the width-free rule"), strict=True))


def draw_roles(
    table: pd.DataFrame, settings: UniversalSettings, last_layers: float
) -> tuple[Figure, dict[str, Any]]:
    """How many of the reference's neurons of the last layers have each role, universal ones and others.

    Args:
        table: the reference's rows of the role table, with the boolean column ``in_set``; without it, nothing
            is known of their excess, and all neurons are one group.
        settings: which set this is.
        last_layers: the share of the layers that counts as last.
    """
    import math

    layers = int(table["layers"].iloc[0])
    first = layers - math.ceil(exact(last_layers) * layers)
    last = table[table["layer"] >= first]
    if "in_set" in last:
        count = int(last["in_set"].sum())
        label = describe(settings.universal_set, settings.top_share, count)
        groups = {"universal": last[last["in_set"]], "others": last[~last["in_set"]]}
    else:
        label = "the excess is not known: weights alone do not tell which neurons are universal"
        groups = {"all neurons": last}
    figure, both = new_figure(1, 2, width=4.6)
    which = f"layers {first} to {layers - 1}" if first < layers - 1 else f"layer {first}"
    where = f"{which} of {table['model'].iloc[0]}"
    data: dict[str, Any] = {"set": label, "first_layer": first, "last_layer": layers - 1}
    for axes, (column, title) in zip(both, LABELS.items(), strict=True):
        data[column] = {}
        for place, (name, part) in enumerate(groups.items()):
            counts = {role: int((part[column] == role).sum()) for role in ROLES}
            counts["none"] = len(part) - sum(counts.values())
            data[column][name] = counts
            left = 0.0
            for (role, number), colour in zip(counts.items(), (*COLOURS[:3], "#d9d9d9"), strict=True):
                share = 100 * number / max(1, len(part))
                axes.barh(place, share, left=left, color=colour, label=role if place == 0 else None)
                left += share
        axes.set_yticks(range(len(groups)), [f"{name}\n({len(part)})" for name, part in groups.items()])
        axes.set(xlim=(0, 100), xlabel="% of these neurons", title=f"Roles by {title}")
    handles, names = both[0].get_legend_handles_labels()
    figure.legend(handles, names, fontsize=7, loc="outside lower center", ncols=4)
    figure.suptitle(f"{where}; {label}", fontsize="medium")
    return figure, data


def mean_over_models(depth: pd.DataFrame) -> pd.DataFrame:
    """The mean of every column at the depths of the model with most layers; others are interpolated."""
    import numpy as np
    import pandas as pd

    each = [part.set_index("depth") for _, part in depth.groupby("model", sort=False)]
    grid = max((part.index.to_numpy() for part in each), key=len)
    columns = depth.columns.drop(["model", "layer", "depth"])
    curves = [[np.interp(grid, part.index, part[name].astype(float)) for name in columns] for part in each]
    return pd.DataFrame(np.mean(curves, axis=0).T, columns=columns, index=grid)


def turns_negative(depth: pd.DataFrame) -> float | None:
    """Where the median skewness of one model's neurons of high kurtosis turns negative, as relative depth.

    That of the first layer from which on it is negative wherever it is known; None where it is not, or never
    was positive.
    """
    known = depth.dropna(subset="high_kurtosis_skew[50]").sort_values("depth")
    negative = known["high_kurtosis_skew[50]"].to_numpy() < 0
    if negative.all() or not negative[-1]:
        return None
    return float(known["depth"].iloc[len(negative) - int(negative[::-1].argmin())])


def draw_depth(depth: pd.DataFrame) -> tuple[Figure, dict[str, Any]]:
    """Kurtosis and skewness of vocabulary effects and roles over relative depth."""
    heavy = bool(depth["high_kurtosis"].any())
    figure, grid = new_figure(2 if heavy else 1, 3, width=3.4, height=3.4, squeeze=False)
    a, b, c = grid[0]
    models = list(depth["model"].unique())
    mean = mean_over_models(depth)
    data: dict[str, Any] = {"models": models, "depth": mean.index.tolist()}
    for axes, name in ((a, "kurt"), (b, "skew")):
        for percentile in PERCENTILES:
            column = f"vocab_{name}[{percentile}]"
            data[column] = [None if value != value else float(value) for value in mean[column]]
            shade = 0.25 + 0.75 * (1 - abs(percentile - 50) / 50)
            axes.plot(
                mean.index,
                mean[column],
                marker="o",
                markersize=2.5,
                color=COLOURS[0],
                alpha=shade,
                label=f"{percentile}%",
            )
    a.axhline(3, color=COLOURS[6], linestyle=":", linewidth=1)
    b.axhline(0, color=COLOURS[6], linestyle=":", linewidth=1)
    a.set(xlabel="relative depth", ylabel="kurtosis of cos(w_out, W_U)", title="Percentiles of kurtosis")
    b.set(xlabel="relative depth", ylabel="skewness of cos(w_out, W_U)", title="Percentiles of skewness")
    for axes in (a, b):
        legend_below(axes, 4)
    for role, colour in zip(ROLES, COLOURS, strict=False):
        for column, style in zip(LABELS, ("-", ":"), strict=True):
            values = mean[f"{role}[{column}]"]
            data[f"{role}[{column}]"] = values.tolist()
            shown = role if column == "role" else None
            c.plot(mean.index, values, style, marker="o", markersize=2.5, color=colour, label=shown)
        for _, part in depth.groupby("model", sort=False):
            c.plot(part["depth"], part[f"{role}[role]"], color=colour, alpha=0.15, linewidth=0.8)
    c.plot([], [], ":", color=COLOURS[6], label="dotted: width-free rule")
    c.set(xlabel="relative depth", ylabel="neurons per layer", title=f"Roles, mean of {len(models)} models")
    if mean[[f"{role}[role]" for role in ROLES]].to_numpy().sum() == 0:
        c.set_title("no neuron has a role by the paper's rule")
    legend_below(c)
    data["high_kurtosis"] = _high_kurtosis(depth)
    if heavy:
        _draw_high_kurtosis(depth, data["high_kurtosis"], *grid[1])
    else:
        note(figure, f"no neuron has a kurtosis above {KURTOSIS:g}")
    return figure, data


def _high_kurtosis(depth: pd.DataFrame) -> dict[str, Any]:
    """Neurons of high kurtosis, by model: how many, the median of their skewness, where it turns negative."""
    data: dict[str, Any] = {}
    for name, part in depth.groupby("model", sort=False):
        skew = part["high_kurtosis_skew[50]"]
        data[str(name)] = {
            "depth": part["depth"].tolist(),
            "neurons": part["high_kurtosis"].tolist(),
            "median_skew": [None if value != value else float(value) for value in skew],
            "turns_negative": turns_negative(part),
        }
    return data


def _draw_high_kurtosis(
    depth: pd.DataFrame, found: dict[str, Any], counts: Any, medians: Any, spread: Any
) -> None:
    """Draw what ``_high_kurtosis`` found, and the spread of the skewness in the first model."""
    for place, (name, part) in enumerate(depth.groupby("model", sort=False)):
        skew = part["high_kurtosis_skew[50]"]
        turn = found[str(name)]["turns_negative"]
        shown = str(name) if turn is None else f"{name}, negative from {turn:.2g} on"
        style = {"marker": "o", "markersize": 2.5, "color": COLOURS[place % len(COLOURS)], "label": shown}
        counts.plot(part["depth"], part["high_kurtosis"], **style)
        if skew.notna().any():
            medians.plot(part["depth"], skew, **style)
    medians.axhline(0, color=COLOURS[6], linestyle=":", linewidth=1)
    counts.set(xlabel="relative depth", ylabel="neurons per layer", title=f"Kurtosis above {KURTOSIS:g}")
    medians.set(
        xlim=counts.get_xlim(), xlabel="relative depth", ylabel="median skewness", title="Skewness of these"
    )
    legend_below(medians, 1 if len(found) < 4 else 2)
    first = depth[depth["model"] == depth["model"].iloc[0]].dropna(subset="high_kurtosis_skew[50]")
    if first.empty:
        say(spread, f"none in {depth['model'].iloc[0]}")
        return
    places = {"whislo": 5, "q1": 25, "med": 50, "q3": 75, "whishi": 95}
    boxes = [{k: row[f"high_kurtosis_skew[{p}]"] for k, p in places.items()} for _, row in first.iterrows()]
    spread.bxp(boxes, positions=first["layer"].to_numpy(), showfliers=False, manage_ticks=False)
    spread.axhline(0, color=COLOURS[6], linestyle=":", linewidth=1)
    spread.set(xlabel="layer", ylabel="skewness", title=f"Of {first['model'].iloc[0]}, 5 to 95 %")

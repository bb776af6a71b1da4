"""Roles of neurons from their effect on the vocabulary (paper, sections 5 and 6).

Reads the weight columns of ``neurons.weights`` and, for the activation kurtosis that some entropy queries
need, the neuron table. Writes three parquet tables and two figures with their data. ``roles``: a row per
neuron of every model:

==========================  =======================================================================
column                      definition
==========================  =======================================================================
``role``                    by the paper's rule: ``prediction``, ``suppression`` (kurtosis of cosines
                            above 10, by the sign of the skewness), else ``partition`` (variance above
                            0.005), else empty
``role_width_free``         the same with d_model times variance above 5.12
``entropy_rank``            place among the candidates of the configured query, by variance; null for others
``entropy_rank[QUERY]``     the same for each query whose columns are there
``null_space_p``            how often a random direction has as large a part in the null space as w_out
``entropy_p_adjusted``      the same, adjusted among the neurons of the model that the configured query
                            admits by layer, norm and activation kurtosis (Benjamini-Hochberg); null for
                            others
``entropy``                 whether it is at most ``q``: the calibrated call
``partner_layer _neuron``   of the neurons that one of these names: the neuron whose w_out is most opposite
``partner_cos``             its cosine; near -1 for an anti-entropy neuron
==========================  =======================================================================

and the columns of the weights that decide or label (``vocab_*``, ``l2_penalty``, ``null_space_*``,
``best_feature*``). ``depth``: for every model and layer, percentiles of kurtosis and skewness, how many
neurons have a kurtosis above 10 and percentiles of their skewness, and how many neurons have each role.
Figures: ``roles`` (how many of the universal neurons of the last layers have a role) and ``roles_by_depth``
(F6, F22).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from steps.core.errors import UserError
from steps.core.figures import COLOURS, legend_below, new_figure, note, save_figure, say
from steps.core.runner import Output, run
from steps.core.stores import read_table, require_rows, write_json
from steps.neurons.classify import (
    ENTROPY,
    KURTOSIS,
    ROLES,
    entropy_columns,
    entropy_ranks,
    entropy_test,
    roles,
)
from steps.neurons.universal import SET_COLUMNS, UniversalSettings, chosen, describe

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

KEYS = ["model", "layer", "neuron"]

KEPT = (
    "d_model",
    "layers",
    "l2_penalty",
    "w_out_norm",
    "vocab_mean",
    "vocab_var",
    "vocab_skew",
    "vocab_kurt",
    "null_space_fraction",
    "null_space_chance",
    "null_space_k",
    "best_feature",
    "best_feature_vr",
    "best_feature_sign",
)

OF_NEURONS = ["kurt", *SET_COLUMNS]
"""The columns read of the neuron table."""

PERCENTILES = (5, 10, 25, 50, 75, 90, 95)

CAPTIONS = {
    "roles": "Of the universal neurons in the last layers, and of all others there, how many predict tokens,"
    " suppress tokens or partition the vocabulary. The paper finds that almost all universal ones do one of"
    " these. Its limit on the variance holds for a width of 1024; the width-free rule is ours.",
    "roles_by_depth": "Above: percentiles over the neurons of a layer of the kurtosis and skewness of the"
    " cosines between output weights and unembedding, and neurons of each role, means over all models (thin"
    " lines: single models). Below: neurons of kurtosis above 10 (prediction and suppression neurons), the"
    " median of their skewness, and its spread in the reference. In the paper, prediction neurons come first"
    " and suppression neurons last: the median turns negative at 85 to 90 % of the depth.",
}

LABELS = {"role": "the paper's rule", "role_width_free": "the width-free rule"}


class Settings(UniversalSettings):
    """Which neurons are candidates, and which are shown."""

    q: float = Field(0.05, gt=0, lt=1, description="false discovery rate of entropy neurons")
    entropy_query: Literal["small", "medium", "pythia", "width_free"] = Field(
        "width_free", description="limits of entropy candidates: the paper's for a model set, or ours"
    )
    activations: bool = Field(
        True, description="take activation kurtosis and universal neurons from the neuron table"
    )
    last_layers: float = Field(
        0.25, gt=0, le=1, description="share of the layers that count as the last ones"
    )


def role_table(weights: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """The table of the module's docstring; ``weights`` has ``kurt`` where activations are known.

    Raises:
        UserError: the query needs the activation kurtosis, which is not there.
    """
    import pandas as pd

    query = settings.entropy_query
    if "kurt" in entropy_columns(ENTROPY[query]) and "kurt" not in weights:
        raise UserError(
            f"neurons.roles.entropy_query: {query} needs the activation kurtosis, which weights alone do not"
            " give; set neurons.roles.activations, or the query to pythia"
        )
    table = weights[[*KEYS, *KEPT]].copy()
    table["role"] = pd.array(roles(weights), dtype="str")
    table["role_width_free"] = pd.array(roles(weights, times_width=True), dtype="str")
    for name, limits in ENTROPY.items():
        if set(entropy_columns(limits)) <= set(weights):
            table[f"entropy_rank[{name}]"] = entropy_ranks(weights, limits)
    table["entropy_rank"] = table[f"entropy_rank[{query}]"]
    table["null_space_p"], table["entropy_p_adjusted"] = entropy_test(weights, ENTROPY[query])
    table["entropy"] = table["entropy_p_adjusted"] <= settings.q
    if "w_out_min_cos" in weights:
        candidate = table.filter(like="entropy_rank").notna().any(axis=1) | table["entropy"]
        for new, old in (("layer", "layer"), ("neuron", "neuron"), ("cos", "cos")):
            table[f"partner_{new}"] = weights[f"w_out_min_{old}"].where(candidate)
    return table


def depth_table(table: pd.DataFrame) -> pd.DataFrame:
    """Percentiles and counts of every model and layer; ``depth`` runs from 0 to 1 at the last layer."""
    import numpy as np
    import pandas as pd

    def percentiles(name: str, values: pd.Series) -> dict[str, float]:
        known = values.dropna().to_numpy(float)
        levels = np.percentile(known, PERCENTILES) if len(known) else [np.nan] * len(PERCENTILES)
        return {f"{name}[{p}]": float(value) for p, value in zip(PERCENTILES, levels, strict=True)}

    rows = []
    for (model, layer), part in table.groupby(["model", "layer"], sort=False):
        row: dict[str, Any] = {"model": model, "layer": layer}
        row["depth"] = layer / max(1, int(part["layers"].iloc[0]) - 1)
        for name in ("vocab_kurt", "vocab_skew"):
            row |= percentiles(name, part[name])
        heavy = part[part["vocab_kurt"] > KURTOSIS]
        row |= {"neurons": len(part), "high_kurtosis": len(heavy)}
        row |= percentiles("high_kurtosis_skew", heavy["vocab_skew"])
        for column in LABELS:
            row |= {f"{role}[{column}]": int((part[column] == role).sum()) for role in ROLES}
        rows.append(row)
    return pd.DataFrame(rows)


def draw_roles(table: pd.DataFrame, settings: Settings) -> tuple[Figure, dict[str, Any]]:
    """How many of the reference's universal neurons of the last layers have each role, beside all others.

    Args:
        table: the reference's rows of the role table, with the boolean column ``in_set``; without it, nothing
            is known of their excess, and all neurons are one group.
        settings: which set this is, and how many layers count as last.
    """
    import math

    layers = int(table["layers"].iloc[0])
    first = layers - math.ceil(settings.last_layers * layers)
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


COUNTED = ["model", "role", "role_width_free", "entropy", "entropy_rank"]
"""The columns that :func:`metrics` reads."""


def metrics(table: pd.DataFrame) -> dict[str, int]:
    """Counts for the reference model, whose rows come first.

    ``entropy_candidates`` are the neurons of the calibrated call, ``entropy_ranked`` those within all limits
    of the configured query.
    """
    own = table[table["model"] == table["model"].iloc[0]]
    return {
        **{role: int((own["role"] == role).sum()) for role in ROLES},
        **{f"{role}_width_free": int((own["role_width_free"] == role).sum()) for role in ROLES},
        "entropy_candidates": int(own["entropy"].sum()),
        "entropy_ranked": int(own["entropy_rank"].notna().sum()),
    }


def main(
    weights: Path,
    neurons: list[Path],
    settings: Settings,
    table: Output,
    depth: Output,
    figure: Output,
    data: Output,
    depth_figure: Output,
    depth_data: Output,
) -> None:
    """Write the tables and figures; ``neurons`` is the neuron table or nothing, the reference comes first."""
    known = read_table(weights, needed=[*KEYS, *KEPT]).to_pandas()
    activity = read_table(neurons[0], [*KEYS, *OF_NEURONS]).to_pandas() if neurons else None
    if activity is not None:
        require_rows(neurons[0], activity[KEYS], known[KEYS], weights)
        known = known.drop(columns="kurt", errors="ignore").merge(
            activity[[*KEYS, "kurt"]], on=KEYS, how="left", validate="one_to_one"
        )
    whole = role_table(known, settings)
    whole.to_parquet(table, index=False)
    layers = depth_table(whole)
    layers.to_parquet(depth, index=False)
    reference = whole[whole["model"] == whole["model"].iloc[0]].reset_index(drop=True)
    if activity is not None:
        own = reference[KEYS].merge(activity, on=KEYS, how="left", validate="one_to_one")
        reference["in_set"] = chosen(own, settings.universal_set, settings.top_share)
    for drawn, shown, out, out_data in (
        (*draw_roles(reference, settings), figure, data),
        (*draw_depth(layers), depth_figure, depth_data),
    ):
        save_figure(drawn, out)
        write_json(out_data, shown)


if __name__ == "__main__":
    run(main)

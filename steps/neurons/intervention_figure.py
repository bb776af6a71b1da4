"""The figure of the interventions, the paper's F7 and F25."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from steps.core.figures import COLOURS, new_figure, say

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

PANELS = (
    ("scale", "scale of the final norm"),
    ("entropy", "entropy (nats)"),
    ("loss", "loss (nats)"),
    ("reciprocal_rank", "1 / (rank + 1) of the next token"),
)


def plain(values: Any) -> list[Any]:
    """Values as JSON knows them: what is missing or infinite becomes null."""
    return [
        None if value is None or (isinstance(value, float) and not math.isfinite(value)) else value
        for value in (value.item() if hasattr(value, "item") else value for value in values)
    ]


def plain_ticks(*axes: Any) -> None:
    """Write the numbers of logarithmic axes out: texts are not typeset as formulas here."""
    from matplotlib.ticker import NullFormatter

    for axis in axes:
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())


def effects(interventions: pd.DataFrame) -> list[dict[str, Any]]:
    """Total and direct effects of mean ablation, a record per neuron.

    ``through_scale``: the share of the absolute change of the loss that is gone where the final norm's scale
    and later layers are frozen.
    """
    found = []
    for key, own in interventions[interventions["kind"].isin(["mean", "direct"])].groupby(
        ["role", "layer", "neuron"], sort=False
    ):
        kinds = own.set_index("kind")
        record: dict[str, Any] = dict(zip(("role", "layer", "neuron"), plain(key), strict=True))
        for name in ("loss_change", "entropy_change", "loss_change_abs", "entropy_change_abs"):
            record[f"total_{name}"] = float(kinds.loc["mean", name])
            record[f"direct_{name}"] = float(kinds.loc["direct", name])
        total = record["total_loss_change_abs"]
        record["through_scale"] = 1 - record["direct_loss_change_abs"] / total if total > 0 else None
        found.append(record)
    return found


def draw(
    interventions: pd.DataFrame, suppression: pd.DataFrame, neurons: pd.DataFrame, universal: str
) -> tuple[Figure, dict[str, Any]]:
    """Norm against variance, four measures by fixed value, effects, ablations, and suppressed classes.

    Args:
        interventions: the table of that name.
        suppression: the table of that name.
        neurons: the neuron table with ``l2_penalty`` and ``vocab_var``.
        universal: which neurons count as universal, in words.
    """
    figure, axes = new_figure(2, 4, width=3.6)
    weights, *sweeps = axes[0]
    sweeps.append(axes[1][0])
    _, direct, ablation, classes = axes[1]
    fixed = interventions[
        (interventions["kind"] == "fixed") & ~interventions["role"].isin(["universal", "matched"])
    ]
    nominal = interventions.iloc[0]
    whole = fixed[fixed["role"] != "control"].drop_duplicates(["layer", "neuron"])
    names = {(n.layer, n.neuron): f"L{n.layer}.{n.neuron} ({n.role})" for n in whole.itertuples()}
    colours = {key: COLOURS[number % 6] for number, key in enumerate(names)}
    data: dict[str, Any] = {
        "nominal": {name: float(nominal[name]) for name, _ in PANELS},
        "fixed": {
            name: plain(fixed[name])
            for name in ("layer", "neuron", "role", "value", *(name for name, _ in PANELS))
        },
        "effects": effects(interventions),
        "universal_set": universal,
        "suppression": {
            name: plain(suppression[name])
            for name in ("layer", "neuron", "mean_inside", "mean_outside", "welch_t")
        },
    }
    last = neurons[neurons["layer"] > neurons["layer"].max() - 2]
    weights.scatter(
        last["l2_penalty"], last["vocab_var"], s=4, c=COLOURS[6], alpha=0.4, rasterized=len(last) > 20_000
    )
    for layer, neuron in names:
        one = last[(last["layer"] == layer) & (last["neuron"] == neuron)]
        weights.scatter(one["l2_penalty"], one["vocab_var"], s=22, color=colours[layer, neuron])
    weights.set(xscale="log", yscale="log", xlabel="l2 penalty", ylabel="variance over the vocabulary")
    plain_ticks(weights.xaxis, weights.yaxis)
    weights.set_title("Last two layers")
    for axis, (name, label) in zip(sweeps, PANELS, strict=True):
        for number, (_, own) in enumerate(fixed[fixed["role"] == "control"].groupby(["layer", "neuron"])):
            own = own.sort_values("value")
            axis.plot(
                own["value"],
                own[name],
                color="#bbbbbb",
                linewidth=0.6,
                label="random neurons" if number == 0 else None,
            )
        for key, own in fixed[fixed["role"] != "control"].groupby(["layer", "neuron"], sort=False):
            own = own.sort_values("value")
            axis.plot(own["value"], own[name], color=colours[key], marker=".", label=names[key])
        axis.axhline(nominal[name], color="black", linewidth=0.8, linestyle=":", label="unchanged")
        axis.set(xlabel="fixed value", ylabel=label)
    sweeps[0].legend(fontsize=6)
    for record in data["effects"]:
        key = (record["layer"], record["neuron"])
        place = (max(record["total_loss_change_abs"], 1e-12), max(record["direct_loss_change_abs"], 1e-12))
        direct.scatter(*place, s=14, color=colours.get(key, "#bbbbbb"), zorder=3 if key in colours else 2)
    if data["effects"]:
        ends = [max(record["total_loss_change_abs"], 1e-12) for record in data["effects"]]
        direct.plot(sorted(ends), sorted(ends), color=COLOURS[6], linewidth=0.8, linestyle=":")
        direct.set(xscale="log", yscale="log")
        plain_ticks(direct.xaxis, direct.yaxis)
    direct.set(xlabel="total: mean absolute change of loss", ylabel="direct, final scale frozen")
    direct.set_title("Mean ablation")
    pairs = interventions.dropna(subset="pair").pivot(index="pair", columns="role", values="loss_change")
    if len(pairs):
        data["ablation"] = {role: plain(pairs[role]) for role in ("universal", "matched")}
        ablation.scatter(pairs["matched"], pairs["universal"], s=14)
        ends = [float(pairs.min().min()), float(pairs.max().max())]
        ablation.plot(ends, ends, color=COLOURS[6], linewidth=0.8, linestyle=":")
        ablation.set(xlabel="change of loss, matched", ylabel="change of loss, universal")
        ablation.set_title("Zero ablation\n" + universal.replace(": ", ":\n"), fontsize=7)
    else:
        data["ablation"] = {"universal": [], "matched": []}
        say(ablation, f"nothing to ablate: {universal}")
    seen = suppression.dropna(subset="difference")
    if len(seen):
        classes.scatter(seen["mean_outside"], seen["mean_inside"], s=14)
        ends = [
            float(seen[["mean_outside", "mean_inside"]].min().min()),
            float(seen[["mean_outside", "mean_inside"]].max().max()),
        ]
        classes.plot(ends, ends, color=COLOURS[6], linewidth=0.8, linestyle=":")
        classes.set(xlabel="activation, next token elsewhere", ylabel="activation, next token in the class")
        classes.set_title("Suppression neurons")
    else:
        say(classes, "no suppression neuron with a next token in its class")
    return figure, data

"""The figures of the interventions, the paper's F7 and F25, and of suppression neurons, F24."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steps.core.figures import COLOURS, legend_below, new_figure, plain, plain_ticks, say, say_only

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure


PANELS = (
    ("scale", "scale of the final norm"),
    ("entropy", "entropy (nats)"),
    ("loss", "loss (nats)"),
    ("reciprocal_rank", "1 / (rank + 1) of the next token"),
)


COSINE_BINS = 60


COLUMNS = 3
"""Neurons side by side in the figure of suppression neurons."""


def effects(interventions: pd.DataFrame) -> list[dict[str, Any]]:
    """Total and direct effects of mean ablation, a record per neuron.

    ``through_scale``: the share of the absolute change of the loss that is gone where the final norm's scale
    and later layers are frozen; negative where the change is larger then.
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
    interventions: pd.DataFrame,
    cosines: dict[tuple[int, int], np.ndarray],
    neurons: pd.DataFrame,
    universal: str,
) -> tuple[Figure, dict[str, Any]]:
    """Norm against variance, cosines, four measures by fixed value, effects of ablations.

    Args:
        interventions: the table of that name.
        cosines: of the swept neurons' (layer and number) output weights with the unembedding.
        neurons: the model's rows of the table of roles.
        universal: which neurons count as universal, in words.
    """
    import numpy as np

    figure, axes = new_figure(3, 3, width=3.3, height=2.9)
    weights, against, *sweeps = axes.flat[:6]
    direct, ablation, key_of_all = axes.flat[6:]
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
    end = max((float(np.abs(values).max()) for values in cosines.values()), default=1.0) or 1.0
    edges = np.linspace(-end, end, COSINE_BINS + 1)
    data["cosines"] = {"edges": edges.tolist(), "neurons": []}
    for layer, neuron in sorted(cosines, key=lambda key: key in names):  # controls below
        values = cosines[layer, neuron]
        counts, _ = np.histogram(values, edges)
        record = {"layer": layer, "neuron": neuron, "counts": counts.tolist()}
        data["cosines"]["neurons"].append(record)
        shown = (layer, neuron) in names
        against.stairs(
            counts / len(values),
            edges,
            color=colours[layer, neuron] if shown else "#bbbbbb",
            linewidth=1.4 if shown else 0.6,
        )
    against.set(xlabel="cos(w_out, W_U)", ylabel="share of the vocabulary")
    against.set_title("Output weights and unembedding")
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
    key_of_all.set_axis_off()
    key_of_all.legend(*sweeps[0].get_legend_handles_labels(), loc="center")
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
        title = f"Zero ablation of {len(pairs)} among\n" + universal.replace(": ", ":\n")
        ablation.set_title(title, fontsize=8)
    else:
        data["ablation"] = {"universal": [], "matched": []}
        say(ablation, f"nothing to ablate: {universal}")
    return figure, data


def draw_suppression(suppression: pd.DataFrame, counts: np.ndarray) -> tuple[Figure, dict[str, Any]]:
    """Activation of each suppression neuron before tokens of its class and before others.

    Args:
        suppression: the table of that name; of a neuron with both classes ``feature`` is drawn.
        counts: tokens by bin of activation, see :func:`steps.interp.interventions.activation_by_class`.
    """
    import numpy as np

    from steps.interp.interventions import activation_edges

    first = ~suppression.duplicated(["layer", "neuron"]).to_numpy()
    panels = int(first.sum())
    data: dict[str, Any] = {"neurons": []}
    if not panels:
        return say_only("no neuron comes near to suppression"), data
    columns = min(COLUMNS, panels)
    figure, grid = new_figure(-(-panels // columns), columns, width=3.3, height=3.0, squeeze=False)
    places = iter(grid.flat)
    middle = activation_edges()
    width = float(middle[1] - middle[0])
    edges = np.concatenate([[middle[0] - width], middle, [middle[-1] + width]])  # the outer bins are open
    for number, row in enumerate(suppression.to_dict("records")):
        used = np.flatnonzero(counts[number].sum(0))
        kept = slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1)
        own, limits = counts[number][:, kept], edges[kept.start : kept.stop + 1]
        record = {
            name: plain([row[name]])[0] for name in ("layer", "neuron", "class", "feature", "by_the_rule")
        }
        record |= {name: plain([row[name]])[0] for name in ("mean_inside", "mean_outside", "welch_t")}
        record |= {"edges": limits.tolist(), "inside": own[0].tolist(), "outside": own[1].tolist()}
        data["neurons"].append(record)
        if not first[number]:
            continue
        axes = next(places)
        name = record["feature"] or "the tokens it lowers most"
        for part, label, colour in (
            (own[1], "next token elsewhere", COLOURS[6]),
            (own[0], f"next token: {name}", COLOURS[1]),
        ):
            shown = f"{label} ({part.sum():,})"
            share = part / max(1, part.sum())
            axes.stairs(share, limits, fill=True, color=colour, alpha=0.4, label=shown)
        axes.set(xlabel="activation", ylabel="share of tokens", yscale="log")
        plain_ticks(axes.yaxis)
        title = f"L{row['layer']}.{row['neuron']}"
        axes.set_title(title if row["by_the_rule"] else f"nearest to suppression: {title}")
        legend_below(axes, 1)
    for axes in places:
        axes.set_visible(False)
    return figure, data


CAPTIONS = {
    "interventions": "Neurons that look most like entropy neurons are compared with random ones: where they"
    " stand in the last two layers, and the cosines of their output weights with the unembedding. Next, each"
    " is fixed to a value at every position: the scale of the final norm, entropy, loss and reciprocal rank"
    " of the true token are compared with those of the unchanged model (dotted). The last panels show mean"
    " ablation with and without the path through later layers and the final scale, and zero ablation of"
    " universal neurons and of others in their layers that fire as often and write as much.",
    "suppression": "Activations of suppression neurons are shown where the next token is in the class that"
    " they lower, and where it is not. The class consists of the tokens of the feature that explains most of"
    " their effect on the vocabulary or, where that effect is not negative, of the tokens that they lower"
    " most. In the paper they fire more before tokens of their class.",
}
"""Of the figures."""

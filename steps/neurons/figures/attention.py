"""The figure of neurons that steer attention heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steps.core.figures import (
    COLOURS,
    few_ticks,
    legend_below,
    new_figure,
    plain,
    plain_ticks,
    say,
    whole_numbers,
)

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure


CAPTION = (
    "The first panel compares the heuristic scores of all neurons and later heads with those of random"
    " directions. A positive score turns a head towards BOS; neurons are counted whose score, over all heads,"
    " exceeds what random directions give. The second shows what each head writes where it attends to BOS"
    " only, and where it attends to another token. In the others, one for each of the strongest pairs, the"
    " neuron's activation is removed from the query at single tokens; changes are clean minus ablated, and"
    " titles give correlations."
)
"""Of the figure."""


def draw(
    heads: pd.DataFrame, pairs: pd.DataFrame, points: dict[str, np.ndarray], called: int | None
) -> tuple[Figure, dict[str, Any]]:
    """F8 and F26: scores against random directions, what heads write, and path ablation of five pairs.

    Args:
        heads: the table of that name of ``neurons.attention``.
        pairs: the same.
        points: its arrays.
        called: how many attention neurons there are.
    """
    shown = sorted(
        zip(pairs.to_dict("records"), points["ablated"], strict=True),
        key=lambda each: (
            each[0]["source"] != "named",
            -abs(each[0]["score"]) if each[0]["score"] == each[0]["score"] else 0,
        ),
    )[:5]
    # one panel for scores, one for heads, then two for the first pair and one for each further pair, or one
    # that says that there is no pair
    of_pairs = len(shown) + 1
    rows = -(-(2 + of_pairs) // 3)
    figure, axes = new_figure(rows, 3, width=3.3, height=2.9, squeeze=False)
    a, b, *panels = axes.flat
    data: dict[str, Any] = {
        "norm_ratio": plain(heads["norm_ratio"]),
        "median_norm_ratio": plain([heads["norm_ratio"].median()])[0],
        "correlations": {column: plain(pairs[column]) for column in pairs.columns[1:]},
        "pairs": [
            {
                "pair": [pair[name] for name in ("layer", "neuron", "head_layer", "head")],
                "activation": own[0].tolist(),
                "bos_change": own[1].tolist(),
                "norm_change": own[2].tolist(),
            }
            for pair, own in shown
        ],
    }
    if "edges" in points:
        edges, found = points["edges"], points["scores"]
        data |= {"edges": edges.tolist(), "attention_neurons": called}
        for name, counts in zip(("neurons", "random directions"), found, strict=True):
            data[name.replace(" ", "_")] = counts.tolist()
            a.stairs(counts / counts.sum(), edges, label=name, linewidth=1.4)
        a.set(
            yscale="log",
            xlabel="score",
            ylabel="share of pairs",
            title=f"Scores; {called:,} neurons beyond chance",
        )
        plain_ticks(a.yaxis)
        few_ticks(a.xaxis)
        legend_below(a)
    else:
        say(a, "no head has a score: " + (heads["skipped"].dropna().iloc[-1] if len(heads) else "no heads"))
    dots = b.scatter(heads["other_norm"], heads["bos_norm"], s=14, c=heads["layer"])
    bar = figure.colorbar(dots, ax=b, label="layer")
    bar.locator = whole_numbers()
    ends = [0.0, float(max(heads["other_norm"].max(), heads["bos_norm"].max()))]
    b.plot(ends, ends, color=COLOURS[6], linewidth=0.8, linestyle=":")
    b.set(xlabel="mean norm at other tokens", ylabel="norm at BOS")
    b.set_title(f"Head outputs, median ratio {heads['norm_ratio'].median():.1f}")
    if not shown:
        say(panels[0], "no pairs were ablated")
    for axis in panels[of_pairs:]:
        axis.set_axis_off()
    for axis, (pair, (activation, bos, norm)) in zip(panels, [*shown[:1], *shown], strict=False):
        first = axis is panels[0]
        x, y = (activation, bos) if first else (bos, norm)
        axis.scatter(x, y, s=4, alpha=0.4, linewidths=0, rasterized=len(x) > 20_000)
        axis.set(
            xlabel="activation" if first else "change of attention to BOS",
            ylabel="change of attention to BOS" if first else "relative change of norm",
        )
        few_ticks(axis.xaxis, axis.yaxis)
        correlation = pair["activation_bos" if first else "bos_norm"]
        neuron, head = f"L{pair['layer']}.{pair['neuron']}", f"L{pair['head_layer']}H{pair['head']}"
        axis.set_title(f"{neuron} → {head}: {correlation:.2f}")
    return figure, data

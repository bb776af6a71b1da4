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
from steps.interp.heads import Scores
from steps.interp.path_ablation import Pair

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch
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


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's; nan where one does not vary."""
    import numpy as np

    varies = np.ptp(a) > 0 and np.ptp(b) > 0  # the mean of equal values may differ from them by rounding
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / scale if varies and scale > 0 else float("nan")


def draw(
    heads: pd.DataFrame,
    pairs: pd.DataFrame,
    points: dict[Pair, np.ndarray],
    called: int,
    scores: Scores,
    directions: torch.Tensor,
) -> tuple[Figure, dict[str, Any]]:
    """F8 and F26: scores against random directions, what heads write, and path ablation of five pairs."""
    import numpy as np

    shown = sorted(points, key=lambda p: (p.source != "named", -abs(p.score) if p.score == p.score else 0))[
        :5
    ]
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
                "pair": [pair.layer, pair.neuron, pair.head_layer, pair.head],
                "activation": points[pair][0].tolist(),
                "bos_change": points[pair][1].tolist(),
                "norm_change": points[pair][2].tolist(),
            }
            for pair in shown
        ],
    }
    layers = sorted(set(heads.loc[heads["score_max"].notna(), "layer"]))
    if layers:
        ends = heads[["score_max", "score_min", "random_max", "random_min"]].abs().to_numpy(float)
        limit = 1.05 * max(np.nanmax(ends), 1e-6)
        edges = np.linspace(-limit, limit, 101)
        data |= {"edges": edges.tolist(), "attention_neurons": called}
        found = np.zeros((2, 100), np.int64)
        for layer in layers:
            found[0] += np.histogram(scores.of(layer), edges)[0]
            found[1] += np.histogram(scores.beside(layer, directions), edges)[0]
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
    for axis, pair in zip(panels, [*shown[:1], *shown], strict=False):
        activation, bos, norm = points[pair]
        first = axis is panels[0]
        x, y = (activation, bos) if first else (bos, norm)
        axis.scatter(x, y, s=4, alpha=0.4, linewidths=0, rasterized=len(x) > 20_000)
        axis.set(
            xlabel="activation" if first else "change of attention to BOS",
            ylabel="change of attention to BOS" if first else "relative change of norm",
        )
        few_ticks(axis.xaxis, axis.yaxis)
        axis.set_title(
            f"L{pair.layer}.{pair.neuron} → L{pair.head_layer}H{pair.head}: {correlation(x, y):.2f}"
        )
    return figure, data

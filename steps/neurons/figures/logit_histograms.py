"""The gallery of logit effects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steps.core.figures import COLOURS, few_ticks, new_figure, say
from steps.neurons.selection.rules import ROLES

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure


BINS = 80


CAPTIONS = {
    "logit_histograms": "Each panel shows what a prediction, suppression or partition neuron of the reference"
    " adds to the logit of every token, per unit of activation; the clearest neurons are at the top. Tokens"
    " of the feature that explains most of the effect are in colour.",
}


def draw(
    neurons: list[dict[str, Any]], effects: np.ndarray, inside: np.ndarray
) -> tuple[Figure, dict[str, Any]]:
    """A column per role, a histogram per neuron.

    Args:
        neurons: see ``neurons.logit_histograms``.
        effects: of each on the logits, ``[neurons, vocabulary]``.
        inside: the tokens of its feature, bool, of the same shape.
    """
    import numpy as np

    chosen = {
        role: [each for each in zip(neurons, effects, inside, strict=True) if each[0]["role"] == role]
        for role in ROLES
    }
    rows = max(1, *(len(found) for found in chosen.values()))
    figure, grid = new_figure(rows, len(ROLES), width=3.9, height=2.8, squeeze=False)
    data: dict[str, Any] = {}
    for column, (role, found) in zip(grid.T, chosen.items(), strict=True):
        data[role] = []
        for axes in column[max(1, len(found)) :]:
            axes.set_visible(False)
        if not found:
            say(column[0], f"no neuron comes near to {role}")
        for axes, (neuron, values, of_feature) in zip(column, found, strict=False):
            edges = np.linspace(values.min(), max(values.max(), values.min() + 1e-6), BINS + 1)
            others, within = (np.histogram(values[mask], edges)[0] for mask in (~of_feature, of_feature))
            axes.stairs(others, edges, fill=True, color=COLOURS[6], alpha=0.45, label="other tokens")
            feature = neuron["feature"]
            if feature is not None:
                axes.stairs(within, edges, fill=True, color=COLOURS[1], alpha=0.7, label=feature)
            axes.set(yscale="log", ylim=(0.7, None), xlabel="effect on the logit", ylabel="tokens")
            axes.yaxis.set_major_formatter("{x:g}")
            few_ticks(axes.xaxis)
            name = f"L{neuron['layer']}.{neuron['neuron']}"
            axes.set_title(f"{role}: {name}" if neuron["by_the_rule"] else f"nearest to {role}: {name}")
            axes.legend(fontsize=7)
            record = {key: neuron[key] for key in ("layer", "neuron", "by_the_rule", "feature")}
            shown = {"edges": edges, "others": others, "feature_tokens": within}
            data[role].append(record | {key: values.tolist() for key, values in shown.items()})
    return figure, data

"""The gallery of logit effects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steps.core.figures import COLOURS, few_ticks, new_figure, say
from steps.interp.weights import Embeddings, WeightReader, processed_layer
from steps.neurons.explanations.features import Features
from steps.neurons.selection.rules import ROLES, clearest

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure


BINS = 80


CAPTIONS = {
    "logit_histograms": "Each panel shows what a prediction, suppression or partition neuron of the reference"
    " adds to the logit of every token, per unit of activation; the clearest neurons are at the top. Tokens"
    " of the feature that explains most of the effect are in colour.",
}


def effects(reader: WeightReader, ends: Embeddings, layer: int, neuron: int) -> np.ndarray:
    """The effect of a neuron on the logits ``[vocabulary]``; ``ends`` are preprocessed."""
    values: np.ndarray = (processed_layer(reader.layer(layer), reader.facts).w_out[neuron] @ ends.w_u).numpy()
    return values


def draw(
    reader: WeightReader, roles: pd.DataFrame, features: Features, ends: Embeddings, count: int
) -> tuple[Figure, dict[str, Any]]:
    """A column per role, a histogram per neuron.

    Args:
        reader: the model.
        roles: its rows of the table of roles.
        features: of its vocabulary.
        ends: its preprocessed embedding and unembedding.
        count: neurons of each role.
    """
    import numpy as np

    chosen = {role: clearest(roles, role, count) for role in ROLES}
    rows = max(1, *(len(found) for found, _ in chosen.values()))
    figure, grid = new_figure(rows, len(ROLES), width=3.9, height=2.8, squeeze=False)
    data: dict[str, Any] = {}
    for column, (role, (found, has_role)) in zip(grid.T, chosen.items(), strict=True):
        data[role] = []
        for axes in column[max(1, len(found)) :]:
            axes.set_visible(False)
        if found.empty:
            say(column[0], f"no neuron comes near to {role}")
        for axes, (_, neuron) in zip(column, found.iterrows(), strict=False):
            values = effects(reader, ends, int(neuron["layer"]), int(neuron["neuron"]))
            feature = neuron["best_feature"]
            inside = (
                features.matrix[:, features.names.index(feature)]
                if feature in features.names
                else np.zeros(len(values), bool)
            )
            edges = np.linspace(values.min(), max(values.max(), values.min() + 1e-6), BINS + 1)
            others, within = (np.histogram(values[mask], edges)[0] for mask in (~inside, inside))
            axes.stairs(others, edges, fill=True, color=COLOURS[6], alpha=0.45, label="other tokens")
            if feature == feature:  # else no feature is known
                axes.stairs(within, edges, fill=True, color=COLOURS[1], alpha=0.7, label=f"{feature}")
            axes.set(yscale="log", ylim=(0.7, None), xlabel="effect on the logit", ylabel="tokens")
            axes.yaxis.set_major_formatter("{x:g}")
            few_ticks(axes.xaxis)
            name = f"L{neuron['layer']}.{neuron['neuron']}"
            axes.set_title(f"{role}: {name}" if has_role else f"nearest to {role}: {name}")
            axes.legend(fontsize=7)
            data[role].append(
                {
                    "layer": int(neuron["layer"]),
                    "neuron": int(neuron["neuron"]),
                    "by_the_rule": has_role,
                    "feature": None if feature != feature else feature,
                    "edges": edges.tolist(),
                    "others": others.tolist(),
                    "feature_tokens": within.tolist(),
                }
            )
    return figure, data

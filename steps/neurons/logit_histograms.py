"""Neurons of each role and what they do to the logits (the paper's figures 5, 23 and 24).

Reads the reference model, its roles, the tokenizer and the word lists. For each role (prediction,
suppression, partition) it takes the neurons of the reference that have the role most clearly, by kurtosis or
variance of their cosines, best first, and draws the histogram of each one's effect w_out @ W_U on all tokens
(the scale of the final norm ignored), those of the token feature that explains most of it in a colour. Where
no neuron has the role by the paper's rule, it takes those that come nearest and says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from steps.core.errors import UserError
from steps.core.figures import COLOURS, few_ticks, new_figure, save_figure, say
from steps.core.runner import Output, run
from steps.core.settings import Settings as BaseSettings
from steps.core.stores import Folder, read_table, require_rows, write_json
from steps.language_models.models import load_tokenizer
from steps.neurons.classify import ROLES, clearest
from steps.neurons.features import Features, vocabulary_features
from steps.neurons.transformer import Ends, Reader, open_reader, processed_ends, processed_layer

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure

BINS = 80

COLUMNS = ["model", "layer", "neuron", "role", "vocab_var", "vocab_skew", "vocab_kurt", "best_feature"]
"""Those read of the table of roles."""

CAPTIONS = {
    "logit_histograms": "What the clearest prediction, suppression and partition neurons of the reference"
    " add to the logit of each token, per unit of activation, the clearest above; in colour the tokens of the"
    " feature that explains most of it.",
}


class Settings(BaseSettings):
    """How many neurons are shown."""

    neurons: int = Field(3, ge=1, description="neurons shown of each role, the clearest first")


def effects(reader: Reader, ends: Ends, layer: int, neuron: int) -> np.ndarray:
    """The effect of a neuron on the logits ``[vocabulary]``; ``ends`` are preprocessed."""
    values: np.ndarray = (processed_layer(reader.layer(layer), reader.facts).w_out[neuron] @ ends.w_u).numpy()
    return values


def draw(
    reader: Reader, roles: pd.DataFrame, features: Features, ends: Ends, count: int
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


def main(model: Path, roles: Path, tokenizer: Path, settings: Settings, out: Output, data: Output) -> None:
    """Draw the figure for ``model``, the reference, whose rows come first in ``roles``."""
    import numpy as np
    import pandas as pd

    table = read_table(roles, COLUMNS).to_pandas()
    own = table[table["model"] == model.parent.name].reset_index(drop=True)
    if own.empty:
        raise UserError(f"{roles}: holds no neuron of {model.parent.name!r}; build it again with snakemake")
    reader = open_reader(model)
    Folder(model, "language_model").require_made_with(Folder(tokenizer, "tokenizer"))
    number, width = np.arange(reader.facts.layers * reader.facts.width), reader.facts.width
    places = pd.DataFrame({"layer": number // width, "neuron": number % width})
    require_rows(roles, own[["layer", "neuron"]], places, model)
    ends = processed_ends(reader.ends(), reader.facts)
    features = vocabulary_features(load_tokenizer(tokenizer), ends.w_e)
    drawn, shown = draw(reader, own, features, ends, settings.neurons)
    save_figure(drawn, out)
    write_json(data, shown)


if __name__ == "__main__":
    run(main)

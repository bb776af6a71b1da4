"""Neurons of each role and what they do to the logits (the paper's figures 5 and 23).

Reads the reference model, its roles, the tokenizer and the word lists. For each role (prediction,
suppression, partition) it takes the neurons of the reference that have the role most clearly, by kurtosis or
variance of their cosines, best first; where none has the role by the paper's rule, those that come nearest.
Writes a safetensors file with a row for each: ``effects`` (float32 ``[neurons, vocabulary]``), what it adds
to the logits per unit of activation, w_out @ W_U with the scale of the final norm ignored, and ``inside``
(bool, the same shape), the tokens of the feature that explains most of it. The fact ``neurons`` says of each
its ``role``, ``layer``, ``neuron``, ``by_the_rule`` and ``feature`` (null where none is known).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from steps.core.digest import code_digest
from steps.core.errors import UserError
from steps.core.runner import Output, run
from steps.core.settings import Settings as BaseSettings
from steps.core.stores import Folder, read_table, require_rows
from steps.core.tensors import write_tensors
from steps.interp.loading import load_tokenizer
from steps.interp.weights import Embeddings, WeightReader, open_reader, processed_ends, processed_layer
from steps.neurons.explanations.features import Features, vocabulary_features
from steps.neurons.selection.rules import ROLES, clearest

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


COLUMNS = ["model", "layer", "neuron", "role", "vocab_var", "vocab_skew", "vocab_kurt", "best_feature"]
"""Those read of the table of roles."""


class Settings(BaseSettings):
    """How many neurons are shown."""

    neurons: int = Field(3, ge=1, description="neurons shown of each role, the clearest first")


def effects_on_logits(reader: WeightReader, ends: Embeddings, layer: int, neuron: int) -> np.ndarray:
    """The effect of a neuron on the logits ``[vocabulary]``; ``ends`` are preprocessed."""
    values: np.ndarray = (processed_layer(reader.layer(layer), reader.facts).w_out[neuron] @ ends.w_u).numpy()
    return values


def clearest_effects(
    reader: WeightReader, roles: pd.DataFrame, features: Features, ends: Embeddings, count: int
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """The neurons and arrays of the module's docstring.

    Args:
        reader: the model.
        roles: its rows of the table of roles.
        features: of its vocabulary.
        ends: its preprocessed embedding and unembedding.
        count: neurons of each role.
    """
    import numpy as np

    vocabulary = ends.w_u.shape[1]
    neurons: list[dict[str, Any]] = []
    effects, inside = np.zeros((0, vocabulary), np.float32), np.zeros((0, vocabulary), bool)
    for role in ROLES:
        found, by_the_rule = clearest(roles, role, count)
        for _, row in found.iterrows():
            layer, neuron, feature = int(row["layer"]), int(row["neuron"]), row["best_feature"]
            values = effects_on_logits(reader, ends, layer, neuron)
            of_feature = np.zeros(vocabulary, bool)
            if feature in features.names:
                of_feature = features.matrix[:, features.names.index(feature)]
            effects, inside = np.vstack([effects, values]), np.vstack([inside, of_feature])
            neurons.append(
                {
                    "role": role,
                    "layer": layer,
                    "neuron": neuron,
                    "by_the_rule": by_the_rule,
                    "feature": feature if feature == feature else None,
                }
            )
    return neurons, {"effects": effects, "inside": inside}


def main(model: Path, roles: Path, tokenizer: Path, settings: Settings, out: Output) -> None:
    """Look at the neurons of ``model``, the reference."""
    import numpy as np
    import pandas as pd

    table = read_table(roles, COLUMNS).to_pandas()
    own = table[table["model"] == model.parent.name].reset_index(drop=True)
    if own.empty:
        raise UserError(
            f"{roles}: holds no neuron of {model.parent.name!r}; delete it and run snakemake again"
        )
    reader, folder = open_reader(model), Folder(model, "language_model")
    folder.require_made_with(Folder(tokenizer, "tokenizer"))
    number, d_mlp = np.arange(reader.facts.layers * reader.facts.d_mlp), reader.facts.d_mlp
    places = pd.DataFrame({"layer": number // d_mlp, "neuron": number % d_mlp})
    require_rows(roles, own[["layer", "neuron"]], places, model)
    ends = processed_ends(reader.ends(), reader.facts)
    features = vocabulary_features(load_tokenizer(tokenizer), ends.w_e)
    neurons, arrays = clearest_effects(reader, own, features, ends, settings.neurons)
    facts = {
        "kind": "logit effects",
        "model": folder.fingerprint,
        "neurons": neurons,
        "code": code_digest("neurons.logit_histograms"),
    }
    write_tensors(out, arrays, facts)


if __name__ == "__main__":
    run(main)

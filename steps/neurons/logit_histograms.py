"""Neurons of each role and what they do to the logits (the paper's figures 5, 23 and 24).

Reads the reference model, its roles, the tokenizer and the word lists. For each role (prediction,
suppression, partition) it takes the neurons of the reference that have the role most clearly, by kurtosis or
variance of their cosines, best first, and draws the histogram of each one's effect w_out @ W_U on all tokens
(the scale of the final norm ignored), those of the token feature that explains most of it in a colour. Where
no neuron has the role by the paper's rule, it takes those that come nearest and says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from steps.core.errors import UserError
from steps.core.figures import save_figure
from steps.core.runner import Output, run
from steps.core.settings import Settings as BaseSettings
from steps.core.stores import Folder, read_table, require_rows, write_json
from steps.interp.loading import load_tokenizer
from steps.interp.weights import open_reader, processed_ends
from steps.neurons.explanations.features import vocabulary_features
from steps.neurons.figures.logit_histograms import draw

if TYPE_CHECKING:
    pass


COLUMNS = ["model", "layer", "neuron", "role", "vocab_var", "vocab_skew", "vocab_kurt", "best_feature"]
"""Those read of the table of roles."""


class Settings(BaseSettings):
    """How many neurons are shown."""

    neurons: int = Field(3, ge=1, description="neurons shown of each role, the clearest first")


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
    number, d_mlp = np.arange(reader.facts.layers * reader.facts.d_mlp), reader.facts.d_mlp
    places = pd.DataFrame({"layer": number // d_mlp, "neuron": number % d_mlp})
    require_rows(roles, own[["layer", "neuron"]], places, model)
    ends = processed_ends(reader.ends(), reader.facts)
    features = vocabulary_features(load_tokenizer(tokenizer), ends.w_e)
    drawn, shown = draw(reader, own, features, ends, settings.neurons)
    save_figure(drawn, out)
    write_json(data, shown)


if __name__ == "__main__":
    run(main)

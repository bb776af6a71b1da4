"""Label the text that neurons are explained on, once for all models (docs/neurons.md).

Reads the activations of all models (for their tokens), the packed rows, the tokenizer, the weights (for
topics learned from their embeddings) and the word lists. Writes a safetensors file for ``neurons.explain``,
temporary:

=================  ====================================================================================
array              contents
=================  ====================================================================================
``roles``          [tokens], number in ``syntax.ROLES`` of the token's part in a word
``codes``          [tokens], int64: which combination of source and syntax labels
``surroundings``   [combinations, labels], bool: the labels of each combination
``shared``         [vocabulary, features], bool: features of token ids that are the same for all models
``model MODEL``    the same, those that follow from the embedding of a model
=================  ====================================================================================

Names and groups of labels and features are among the facts, and so are the texts of the vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from steps.core.digest import code_digest
from steps.core.errors import UserError
from steps.core.runner import Output, run
from steps.core.settings import deciding
from steps.interp.weights import open_reader, processed_ends
from steps.neurons.activations.store import Activations
from steps.neurons.explanations.features import join
from steps.neurons.explanations.text import (
    Settings,
    model_features,
    read_text,
    shared_features,
    write_labels,
)

if TYPE_CHECKING:
    import numpy as np


def embedding_matrix(model: Path, vocabulary: int) -> np.ndarray:
    """The token embedding ``[vocabulary, d_model]`` of a model, preprocessed as all weights, float32."""
    reader = open_reader(model)
    weight = processed_ends(reader.ends(), reader.facts).w_e.numpy()
    if len(weight) < vocabulary:
        raise UserError(f"{model}: embeds {len(weight)} tokens, its tokenizer has {vocabulary}")
    return weight[:vocabulary]


def main(
    activations: list[Path],
    models: list[Path],
    rows: Path,
    tokenizer: Path,
    settings: Settings,
    out: Output,
) -> None:
    """Label the tokens of ``activations``; ``models`` are listed in the same order."""
    sources = [Activations(path) for path in activations]
    first = sources[0].store
    for source in sources:
        if source.store.made_from["tokens"] != first.made_from["tokens"]:
            raise UserError(f"{source.store.path}: holds other tokens than {first.path}")
    text = read_text(sources[0], rows, tokenizer, settings)
    of_models = {}
    if settings.small_norm or (settings.topics is None and settings.topic_sets > 0):
        for source, model in zip(sources, models, strict=True):
            embedding = embedding_matrix(model, len(text.texts))
            of_models[source.name] = join(model_features(text, embedding, settings))
    facts = {
        "tokens": first.made_from["tokens"],
        "settings": deciding(settings),
        "code": code_digest("neurons.text"),
    }
    write_labels(out, text, shared_features(text, settings), of_models, facts)


if __name__ == "__main__":
    run(main)

"""What neurons fire on: all neurons against all features, on held-out tokens too (docs/neurons.md).

Reads the activations and moments of all models, their packed rows, tokenizer and weights (for topics), and
the word lists. All tokens count, BOS included, as in the paper's code. Writes two tables and arrays.

``explanations``: a row per neuron of every model, by model, layer and neuron, with

==============================  =======================================================================
column                          meaning
==============================  =======================================================================
``feature`` ``which``           best explanation; of the ``current`` or ``previous`` token, or the
``group``                       profile over ``position``; ``none`` where the neuron never varies
``variance_reduction``          in-sample, ddof 1 as in the paper's code (for position: squared
``variance_reduction_held_out`` correlation); and of the same explanation on held-out tokens
``difference``                  in-sample difference of means, of post-activations
``p`` ``p_adjusted``            of the test on held-out rows; Benjamini-Hochberg over the model's neurons
``family`` ``evidence``         by rule (``explanations.families``), and why
``role`` ``role_share``         the part of a word on which most of the response to a feature of the current
                                token falls, and its share
``letter_response``             alphabet: difference of means between other tokens that begin with the
                                letter and the rest
``position_mi``                 mutual information of firing and position, nats; of pre-activations
``position_p`` ``_adjusted``    that firing depends on the position, BOS left out (``first_pass.position_p``);
                                Benjamini-Hochberg over the model's neurons
``position_std``                std over positions of the mean post-activation
``within_position_std``         mean over positions of the std within one
``position_candidate``          pre-activation kurtosis below 2, the paper's first criterion
==============================  =======================================================================

``tokens``: for every neuron the token ids of largest mean and of largest maximum (``model layer neuron by
rank token_id text value count``). ``profiles`` (safetensors): ``MODEL.position_mean`` and ``_std`` [neurons,
context], ``MODEL.bins_on`` [neurons, 257], pre-activations on tokens with the best feature, in the bins of
``neurons.histograms``.

*In-sample and held out.* Of every block the last rows are held out. The best explanation is the one of
largest squared correlation in-sample.

*Test.* Tokens are not independent, rows nearly are (they are shuffled). So each held-out row gives one
number, the sum over its tokens of ``(y - mean y) (v - mean v)`` with in-sample means; under the null that
label and neuron are uncorrelated on held-out text these have mean 0, whatever the dependence within a row. p
is two-sided, from their sum over the root of their sum of squares, as normal. The choice among features used
other rows and costs nothing. Rows of one document are taken as independent, which they are not quite.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from steps.core.digest import code_digest, file_digest
from steps.core.errors import UserError
from steps.core.runner import Output, progress, run
from steps.core.settings import deciding
from steps.core.statistics import power_moments
from steps.core.stores import read_table, write_table
from steps.core.tensors import read_tensors, write_tensors
from steps.interp.weights import open_reader, processed_ends
from steps.neurons.activations.store import Activations
from steps.neurons.correlations.moments import Moments
from steps.neurons.explanations import features as token_level
from steps.neurons.explanations.features import Features
from steps.neurons.explanations.first_pass import Split, SplitReader, best_explanations, first_pass
from steps.neurons.explanations.labels import Labelling
from steps.neurons.explanations.second_pass import second_pass
from steps.neurons.explanations.table import Explanations, explanation_table, finish, letters, with_place
from steps.neurons.explanations.text import (
    Settings,
    Text,
    labellings,
    model_features,
    read_text,
    shared_features,
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


def slices(neurons: int, at_once: int | None, parts: int, part: int) -> list[slice]:
    """The neurons whose sums are held at once, in part ``part`` of ``parts`` of a model.

    Parts are whole slices, as equal in number as can be: so results do not depend on how many there are.

    Raises:
        UserError: no such part, or fewer slices than parts.
    """
    step = at_once or neurons
    every = [slice(start, min(start + step, neurons)) for start in range(0, neurons, step)]
    if parts > len(every):
        raise UserError(
            f"neurons.parts: found {parts}, expected at most {len(every)}: so many times"
            f" neurons.explain.neurons_at_once are in the {neurons} neurons of a model; lower either"
        )
    if not 0 <= part < parts:
        raise UserError(f"--part {part} of --parts {parts}: expected a part from 0 to --parts minus 1")
    return every[len(every) * part // parts : len(every) * (part + 1) // parts]


def explain_neurons(
    source: Activations,
    found: list[Labelling],
    text: Text,
    kurtosis: np.ndarray,
    settings: Settings,
    chosen: list[slice],
) -> Explanations:
    """Explain the neurons of ``chosen``, which follow one another; ``kurtosis`` is that of all neurons."""
    import numpy as np
    import pandas as pd

    split = Split(source, len(text.tokens), settings.held_out)
    explanations, tokens, profiles = [], [], []
    for neurons in progress(chosen, len(chosen), f"{source.name}: parts of the neurons explained"):
        start = neurons.start
        reader = SplitReader(split, neurons, settings.device)
        sums = first_pass(reader, found)
        best = best_explanations(sums, found, settings.minimum_tokens)
        sums.to_host()
        explained = second_pass(reader, found, best, sums, text.roles)
        table = explanation_table(
            best, explained, found, sums.letter_response(found[0], letters(best, found))
        )
        table = table.assign(**sums.position_columns())
        table.insert(0, "number", np.arange(start, start + len(table)))
        explanations.append(table)
        tokens.append(sums.top_tokens(settings.top_tokens, settings.top_count).assign(start=start))
        mean, std = sums.position_profile()
        profiles.append({"position_mean": mean, "position_std": std, "bins_on": explained.bins_on})
    table = pd.concat(explanations, ignore_index=True)
    table["position_candidate"] = kurtosis[chosen[0].start : chosen[-1].stop] < 2
    top = pd.concat(tokens, ignore_index=True)
    top.insert(0, "number", top.pop("neuron") + top.pop("start"))
    top["text"] = [text.texts[token] for token in top["token_id"]]
    tables = [with_place(part, source) for part in (table, top)]
    arrays = {name: np.concatenate([part[name] for part in profiles]) for name in profiles[0]}
    return tables[0], tables[1], arrays


def explain(
    source: Activations,
    moments: list[Path],
    model: Path,
    text: Text,
    shared: Features,
    settings: Settings,
    parts: int = 1,
    part: int = 0,
) -> Explanations:
    """Explain part ``part`` of ``parts`` of the neurons of ``source``.

    Args:
        source: activations of the model.
        moments: its moments, a file per token range.
        model: its ledger.
        text: the tokens and their labels.
        shared: see :func:`shared_features`.
        settings: what neurons are tested against.
        parts: see :func:`slices`.
        part: the same.
    """
    chosen = slices(source.neurons, settings.neurons_at_once, parts, part)
    own = Moments(moments, source)
    kurtosis = power_moments(own.arrays["pre_powers"], int(own.arrays["count"][1]))["kurt"]
    needs_embedding = settings.small_norm or (settings.topics is None and settings.topic_sets > 0)
    of_model = (
        model_features(text, embedding_matrix(model, len(text.texts)), settings) if needs_embedding else []
    )
    found = labellings(text, token_level.join([shared, *of_model]))
    return explain_neurons(source, found, text, kurtosis, settings, chosen)


def read_parts(files: list[Path], source: Activations, settings: Settings) -> Explanations:
    """Put together what ``neurons.explain_part`` wrote of a model, three files of each part.

    Raises:
        UserError: a part is missing, there twice, of other activations or settings, or mixed with another.
    """
    import numpy as np
    import pandas as pd

    found, end = [], 0
    for *written, path in zip(files[::3], files[1::3], files[2::3], strict=True):
        arrays, facts = read_tensors(path, kind="explained")
        source.require_origin(path, facts["activations"])
        if facts["settings"] != deciding(settings):
            raise UserError(f"{path}: was made with other settings; delete it and run snakemake again")
        for table, digest in zip(written, facts["tables"], strict=True):
            if file_digest(table) != digest:
                raise UserError(f"{table}: does not belong to {path}; delete both and run snakemake again")
        start, stop = facts["neurons"]
        if start != end:
            raise UserError(
                f"{path}: begins at neuron {start}, expected {end}; give every part once, in order"
            )
        found.append(arrays)
        end = stop
    if end != source.neurons:
        raise UserError(
            f"--parts: end at neuron {end} of {source.name!r}, expected {source.neurons}; give all"
        )
    tables = [
        pd.concat([read_table(path).to_pandas() for path in files[kind::3]], ignore_index=True)
        for kind in (0, 1)
    ]
    return *tables, {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def main(
    activations: list[Path],
    moments: list[Path],
    models: list[Path],
    rows: Path,
    tokenizer: Path,
    parts: list[Path],
    settings: Settings,
    explanations: Output,
    tokens: Output,
    profiles: Output,
) -> None:
    """Explain all models, or put together what was explained part by part.

    ``moments`` lists the files of all ranges model by model, as ``activations``; ``parts`` those of
    ``neurons.explain_part``, if any, model by model and part by part.
    """
    import pandas as pd

    sources = [Activations(path) for path in activations]
    for source in sources:
        if source.store.made_from["tokens"] != sources[0].store.made_from["tokens"]:
            raise UserError(f"{source.store.path}: holds other tokens than {sources[0].store.path}")
    if parts:
        each = len(parts) // len(sources)
        found = [
            read_parts(parts[n * each : (n + 1) * each], source, settings) for n, source in enumerate(sources)
        ]
    else:
        text = read_text(sources[0], rows, tokenizer, settings)
        shared = shared_features(text, settings)
        ranges = len(moments) // len(sources)
        found = [
            explain(source, moments[n * ranges : (n + 1) * ranges], model, text, shared, settings)
            for n, (source, model) in enumerate(zip(sources, models, strict=True))
        ]
    table = pd.concat([finish(table, settings) for table, _, _ in found], ignore_index=True)
    write_table(table, explanations)
    write_table(pd.concat([top for _, top, _ in found], ignore_index=True), tokens)
    facts = {
        "kind": "explanation profiles",
        "activations": [source.store.fingerprint for source in sources],
        "code": code_digest("neurons.explain"),
    }
    arrays = {
        f"{source.name}.{name}": values
        for source, (_, _, own) in zip(sources, found, strict=True)
        for name, values in own.items()
    }
    write_tensors(profiles, arrays, facts)


if __name__ == "__main__":
    run(main)

"""What neurons fire on: a part of a model's neurons against all features, on held-out tokens too.

Reads the activations and moments of a model, and the labels of ``neurons.text`` (docs/neurons.md). All tokens
count, BOS included, as in the paper's code. A part are some of the slices of ``neurons_at_once`` neurons,
consecutive. Writes three files, which ``neurons.merge_explanations`` puts together with those of the other
parts and models, and describes: the tables ``explanations`` (without what follows from all neurons of a
model: ``p_adjusted``, ``position_p_adjusted``, ``family``, ``evidence``) and ``tokens``, and ``profiles``
(safetensors: ``position_mean`` and ``position_std`` [neurons, context], ``bins_on`` [neurons, 257]).

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
from steps.core.stores import write_table
from steps.core.tensors import write_tensors
from steps.neurons.activations.store import Activations
from steps.neurons.correlations.moments import Moments
from steps.neurons.explanations.first_pass import Split, SplitReader, best_explanations, first_pass
from steps.neurons.explanations.labels import Labelling
from steps.neurons.explanations.second_pass import second_pass
from steps.neurons.explanations.table import Explanations, explanation_table, letters, with_place
from steps.neurons.explanations.text import Settings, Text, labellings, read_labels

if TYPE_CHECKING:
    import numpy as np


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
            f"neurons.parts: found {parts}, expected at most {len(every)}, the number of slices of"
            f" neurons.explain.neurons_at_once neurons in the {neurons} of a model; lower either"
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


def main(
    activations: Path,
    moments: list[Path],
    text: Path,
    parts: int,
    part: int,
    settings: Settings,
    explanations: Output,
    tokens: Output,
    profiles: Output,
) -> None:
    """Explain part ``part`` of ``parts`` of a model; ``moments`` lists its files of all token ranges."""
    source = Activations(activations)
    chosen = slices(source.neurons, settings.neurons_at_once, parts, part)
    labelled, of_tokens = read_labels(text, source, settings)
    found = labellings(labelled, of_tokens)
    own = Moments(moments, source)
    kurtosis = power_moments(own.arrays["pre_powers"], int(own.arrays["count"][1]))["kurt"]
    table, top, arrays = explain_neurons(source, found, labelled, kurtosis, settings, chosen)
    write_table(table, explanations)
    write_table(top, tokens)
    facts = {
        "kind": "explained",
        "activations": source.store.fingerprint,
        "neurons": [chosen[0].start, chosen[-1].stop],
        "settings": deciding(settings),
        "tables": [file_digest(explanations), file_digest(tokens)],
        "code": code_digest("neurons.explain"),
    }
    write_tensors(profiles, arrays, facts)


if __name__ == "__main__":
    run(main)

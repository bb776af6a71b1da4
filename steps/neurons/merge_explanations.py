"""Put the explanations of all parts of all models together, and name the families (docs/neurons.md).

Reads what ``neurons.explain`` wrote. Writes two tables and arrays.

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
n_ctx], ``MODEL.bins_on`` [neurons, 257], pre-activations on tokens with the best feature, in the bins of
``neurons.histograms``.
"""

from __future__ import annotations

from pathlib import Path

from steps.core.digest import code_digest, file_digest
from steps.core.errors import UserError
from steps.core.runner import Output, run
from steps.core.settings import deciding
from steps.core.stores import read_table, write_table
from steps.core.tensors import read_tensors, write_tensors
from steps.neurons.activations.store import Activations
from steps.neurons.explanations.table import Explanations, finish
from steps.neurons.explanations.text import Settings


def merged(files: list[Path], source: Activations, settings: Settings) -> Explanations:
    """Put together what ``neurons.explain`` wrote of a model, three files of each part.

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
            raise UserError(f"{path}: was made with other settings than these; rebuild the part")
        for table, digest in zip(written, facts["tables"], strict=True):
            if file_digest(table) != digest:
                raise UserError(f"{table}: is not the table that belongs to {path}; rebuild the part")
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
    parts: list[Path],
    settings: Settings,
    explanations: Output,
    tokens: Output,
    profiles: Output,
) -> None:
    """Merge ``parts``, three files each, which are listed model by model as ``activations``."""
    import pandas as pd

    sources = [Activations(path) for path in activations]
    each = len(parts) // len(sources)
    found = [merged(parts[n * each : (n + 1) * each], source, settings) for n, source in enumerate(sources)]
    write_table(
        pd.concat([finish(table, settings) for table, _, _ in found], ignore_index=True), explanations
    )
    write_table(pd.concat([top for _, top, _ in found], ignore_index=True), tokens)
    facts = {
        "kind": "explanation profiles",
        "activations": [source.store.fingerprint for source in sources],
        "code": code_digest("neurons.merge_explanations"),
    }
    arrays = {
        f"{source.name}.{name}": values
        for source, (_, _, own) in zip(sources, found, strict=True)
        for name, values in own.items()
    }
    write_tensors(profiles, arrays, facts)


if __name__ == "__main__":
    run(main)

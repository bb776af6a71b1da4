"""Explain a part of a model's neurons, where ``neurons.parts`` cuts them.

Reads what ``neurons.explain`` reads, of one model. Writes three files for it to put together: the tables
``explanations`` (without what follows from all neurons of a model: ``p_adjusted``, ``family``, ``evidence``)
and ``tokens``, and ``profiles`` (safetensors: ``position_mean``, ``position_std``, ``bins_on``).
"""

from __future__ import annotations

from pathlib import Path

from steps.core.digest import code_digest, file_digest
from steps.core.runner import Output, run
from steps.core.settings import deciding
from steps.core.stores import write_table
from steps.core.tensors import write_tensors
from steps.neurons.activations.store import Activations
from steps.neurons.explain import explain, slices
from steps.neurons.explanations.text import Settings, read_text, shared_features


def main(
    activations: Path,
    moments: list[Path],
    model: Path,
    rows: Path,
    tokenizer: Path,
    parts: int,
    part: int,
    settings: Settings,
    explanations: Output,
    tokens: Output,
    profiles: Output,
) -> None:
    """Explain part ``part`` of ``parts``; ``moments`` lists the model's files of all ranges."""
    source = Activations(activations)
    chosen = slices(source.neurons, settings.neurons_at_once, parts, part)
    text = read_text(source, rows, tokenizer, settings)
    shared = shared_features(text, settings)
    table, top, arrays = explain(source, moments, model, text, shared, settings, parts, part)
    write_table(table, explanations)
    write_table(top, tokens)
    facts = {
        "kind": "explained",
        "activations": source.store.fingerprint,
        "neurons": [chosen[0].start, chosen[-1].stop],
        "settings": deciding(settings),
        "tables": [file_digest(explanations), file_digest(tokens)],
        "code": code_digest("neurons.explain_part"),
    }
    write_tensors(profiles, arrays, facts)


if __name__ == "__main__":
    run(main)

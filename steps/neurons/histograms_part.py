"""Count the pre-activations of some layers of a model, where ``neurons.parts`` cuts it.

Reads the activations of one model and the packed rows. Writes a safetensors file for ``neurons.histograms``
to put together: ``counts`` (uint32 ``[sources, neurons of the layers, 257]``).
"""

from __future__ import annotations

from pathlib import Path

from steps.core.digest import code_digest
from steps.core.runner import Output, run
from steps.core.stores import Folder
from steps.core.tensors import write_tensors
from steps.neurons.activations.bins import block_sources
from steps.neurons.activations.store import Activations
from steps.neurons.histograms import Settings, counted_blocks, model_counts, part_layers


def main(activations: Path, rows: Path, parts: int, part: int, settings: Settings, out: Output) -> None:
    """Count part ``part`` of ``parts``."""
    source, packed = Activations(activations), Folder(rows, "rows")
    layers = part_layers(source.layers, parts, part)
    blocks = counted_blocks(source, settings.tokens)
    labels = block_sources(source, packed)
    counts = model_counts(source, labels, len(packed.attributes["sources"]), blocks, layers)
    facts = {
        "kind": "histograms part",
        "activations": source.store.fingerprint,
        "rows": packed.fingerprint,
        "blocks": blocks,
        "layers": [layers.start, layers.stop],
        "code": code_digest("neurons.histograms_part"),
    }
    write_tensors(out, {"counts": counts}, facts)


if __name__ == "__main__":
    run(main)

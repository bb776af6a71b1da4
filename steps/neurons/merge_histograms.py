"""Put the histograms of all parts of all models into one store (docs/neurons.md).

Reads what ``neurons.histograms`` counted. Writes a zarr v3 folder with, for every model,

=======================  ===============================  ===============================================
array                    shape, dtype                     contents
=======================  ===============================  ===============================================
``counts/MODEL/tokens``  [sources, neurons, 257], uint32  tokens (BOS included) whose pre-activation lies
                                                          in a bin, by source of the text
=======================  ===============================  ===============================================

Attributes: ``models``, ``sources`` (labels), ``tokens`` (of each source).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steps.core.digest import code_digest
from steps.core.errors import UserError
from steps.core.runner import Output, run
from steps.core.stores import ArrayWriter, Ledger
from steps.core.tensors import open_tensors, read_tensors
from steps.neurons.activations.bins import BINS
from steps.neurons.activations.store import Activations

TEXT = ("rows", "sources", "tokens")
"""What all parts say of the text that was counted."""


def require_parts(files: list[list[Path]], sources: list[Activations]) -> dict[str, Any]:
    """Check that ``files`` are all parts of each of ``sources``, in order, counted on the same tokens.

    Returns:
        What they say of the text.

    Raises:
        UserError: a part is missing, there twice, of other activations, or of other tokens than the first.
    """
    text: dict[str, Any] = {}
    for source, own in zip(sources, files, strict=True):
        end = 0
        for path in own:
            with open_tensors(path, "histograms part", checked=True) as (_, facts):
                source.require_origin(path, facts["activations"])
                of_text = {name: facts[name] for name in TEXT}
                text = text or of_text
                if of_text != text:
                    raise UserError(
                        f"{path}: of other tokens than {files[0][0]}; delete it and run snakemake again"
                    )
                start, stop = facts["layers"]
                if start != end:
                    raise UserError(
                        f"{path}: begins at layer {start}, expected {end}; give every part once, in order"
                    )
                end = stop
        if end != source.layers:
            raise UserError(
                f"--parts: end at layer {end} of {source.name!r}, expected {source.layers}; give all"
            )
    return text


def main(activations: list[Path], parts: list[Path], out: Output) -> None:
    """Merge ``parts``, which are listed model by model as ``activations``; models that are done are kept."""
    import numpy as np

    sources = [Activations(path) for path in activations]
    each = len(parts) // len(sources)
    files = [parts[n * each : (n + 1) * each] for n in range(len(sources))]
    text = require_parts(files, sources)
    names = text["sources"]
    made_from = {
        "activations": [source.store.fingerprint for source in sources],
        **text,
        "code": code_digest("neurons.merge_histograms"),
    }
    ledger = Ledger(out, "histograms", made_from, ("numpy", "torch", "transformers", "zarr"))
    for source, own in zip(sources, files, strict=True):
        array = ArrayWriter(
            ledger,
            f"counts/{source.name}/tokens",  # models of any size, each in a group of its own
            (len(names), source.neurons, BINS),
            (1, source.d_mlp, BINS),
            "uint32",
            dims=("source", "neuron", "bin"),
            units="tokens",
            description="tokens by their pre-activation and the source of the text",
        )
        places = [(label, layer, 0) for label in range(len(names)) for layer in range(source.layers)]
        if all(place in array for place in places):
            continue
        counts = np.concatenate(
            [read_tensors(path, kind="histograms part")[0]["counts"] for path in own], axis=1
        )
        for label, layer, _ in places:
            here = counts[label : label + 1, layer * source.d_mlp : (layer + 1) * source.d_mlp]
            array.write((label, layer, 0), here)
    ledger.finish({"models": [source.name for source in sources], **{n: text[n] for n in TEXT[1:]}})


if __name__ == "__main__":
    run(main)

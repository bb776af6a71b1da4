"""Histograms of every neuron's pre-activations, for each source of text (docs/neurons.md).

Reads the activations of all models and the packed rows, which know the source of each row. Writes a
zarr v3 folder with, for every model,

=======================  ===============================  ===============================================
array                    shape, dtype                     contents
=======================  ===============================  ===============================================
``counts/MODEL/tokens``  [sources, neurons, 257], uint32  tokens (BOS included) whose pre-activation lies
                                                          in a bin, by source of the text
=======================  ===============================  ===============================================

Attributes: ``models``, ``sources`` (labels), ``tokens`` (of each source). The bins are those of the
paper's authors: 256 edges from -10 to 15, a bin below and one above them; a bin holds its upper edge.
Edge 102 is exactly 0, so the bins after 102 count what is above 0 and nothing else.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from steps.core.digest import code_digest
from steps.core.errors import UserError
from steps.core.runner import Output, progress, run
from steps.core.settings import Settings as BaseSettings
from steps.core.stores import ArrayWriter, Folder, Ledger
from steps.core.tensors import read_tensors
from steps.neurons.activations.bins import BINS, bin_numbers, block_sources, count_bins
from steps.neurons.activations.store import Activations

if TYPE_CHECKING:
    import numpy as np


class Settings(BaseSettings):
    """How much is counted."""

    tokens: int | None = Field(
        None,
        ge=1,
        description="tokens counted into bins, rounded up to whole blocks; null: all (paper: 10 million)",
    )
    threads: int = Field(1, ge=1, description="arithmetic threads")


def part_layers(layers: int, parts: int, part: int) -> range:
    """The layers of part ``part`` of ``parts`` of a model: consecutive, as equal in number as can be.

    Raises:
        UserError: no such part, or fewer layers than parts.
    """
    if parts > layers:
        raise UserError(
            f"neurons.parts: found {parts}, expected at most {layers}, the number of layers; lower it"
        )
    if not 0 <= part < parts:
        raise UserError(f"--part {part} of --parts {parts}: expected a part from 0 to --parts minus 1")
    return range(layers * part // parts, layers * (part + 1) // parts)


def counted_blocks(source: Activations, tokens: int | None) -> int:
    """How many blocks are counted for ``tokens`` tokens."""
    wanted = min(tokens or len(source.tokens), len(source.tokens))
    return -(-wanted // source.block_tokens)


def model_counts(
    source: Activations, labels: np.ndarray, sources: int, blocks: int, layers: range
) -> np.ndarray:
    """Counts ``uint32 [sources, neurons of layers, 257]`` over the first ``blocks`` blocks."""
    import numpy as np

    counts = np.zeros((sources, len(layers) * source.d_mlp, BINS), np.uint32)
    source.depth = layers.stop
    table = None
    if source.dtype == "float16":
        # only 65,536 numbers: their bins are looked up, nan, which no dump holds, in the last
        with np.errstate(invalid="ignore"):
            table = bin_numbers(np.arange(2**16, dtype=np.uint16).view(np.float16))
    for k in progress(range(blocks), blocks, f"{source.name}: blocks counted"):
        for place, layer in enumerate(layers):
            columns = slice(place * source.d_mlp, (place + 1) * source.d_mlp)
            for tokens, (pre, *_) in source.pieces(layer, k):
                numbers = bin_numbers(pre) if table is None else table[pre.view(np.uint16)]
                here = labels[tokens]
                for label in np.unique(here):
                    chosen = numbers if (here == label).all() else numbers[here == label]
                    counts[label, columns] += count_bins(chosen).astype(np.uint32)
    return counts


def read_parts(files: list[Path], source: Activations, rows: Folder, blocks: int) -> np.ndarray:
    """Put together what ``neurons.histograms_part`` counted of a model, in the order of its layers.

    Raises:
        UserError: a part is missing, there twice, of other activations or rows, or of another number of
            blocks.
    """
    import numpy as np

    found, end = [], 0
    for path in files:
        arrays, facts = read_tensors(path, kind="histograms part")
        source.require_origin(path, facts["activations"])
        if (facts["rows"], facts["blocks"]) != (rows.fingerprint, blocks):
            raise UserError(
                f"{path}: of other tokens than are counted now; delete it and run snakemake again"
            )
        start, stop = facts["layers"]
        if start != end:
            raise UserError(
                f"{path}: begins at layer {start}, expected {end}; give every part once, in order"
            )
        found.append(arrays["counts"])
        end = stop
    if end != source.layers:
        raise UserError(f"--parts: end at layer {end} of {source.name!r}, expected {source.layers}; give all")
    return np.concatenate(found, axis=1)


def main(activations: list[Path], rows: Path, parts: list[Path], settings: Settings, out: Output) -> None:
    """Count every model's pre-activations, model by model; models that are done are kept.

    ``parts`` are what ``neurons.histograms_part`` counted, if anything, model by model and part by part.
    """
    import numpy as np

    packed = Folder(rows, "rows")
    names: list[str] = packed.attributes["sources"]
    sources = [Activations(path) for path in activations]
    made_from = {
        "activations": [source.store.fingerprint for source in sources],
        "rows": packed.fingerprint,
        "tokens": settings.tokens,
        "code": code_digest("neurons.histograms"),
    }
    ledger = Ledger(out, "histograms", made_from, ("numpy", "torch", "transformers", "zarr"))
    spread = np.zeros(len(names), int)
    each = len(parts) // len(sources)
    for number, source in enumerate(sources):
        shape = (len(names), source.neurons, BINS)
        block = (1, source.d_mlp, BINS)
        array = ArrayWriter(
            ledger,
            f"counts/{source.name}/tokens",  # models of any size, each in a group of its own
            shape,
            block,
            "uint32",
            dims=("source", "neuron", "bin"),
            units="tokens",
            description="tokens by their pre-activation and the source of the text",
        )
        blocks = counted_blocks(source, settings.tokens)
        labels = block_sources(source, packed)
        spread = np.bincount(labels[: source.block_slice(blocks - 1).stop], minlength=len(names))
        places = [(label, layer, 0) for label in range(len(names)) for layer in range(source.layers)]
        if all(place in array for place in places):
            continue
        if parts:
            counts = read_parts(parts[number * each : (number + 1) * each], source, packed, blocks)
        else:
            counts = model_counts(source, labels, len(names), blocks, range(source.layers))
        for label, layer, _ in places:
            here = counts[label : label + 1, layer * source.d_mlp : (layer + 1) * source.d_mlp]
            array.write((label, layer, 0), here)
    ledger.finish(
        {"models": [source.name for source in sources], "sources": names, "tokens": spread.tolist()}
    )


if __name__ == "__main__":
    run(main)

"""Histograms of the pre-activations of a part of a model's neurons, by source of the text (docs/neurons.md).

Reads the activations of a model and the packed rows, which know the source of each row. A part are some
layers, consecutive. Writes a safetensors file, which ``neurons.merge_histograms`` puts into one store with
those of the other parts and models:

==========  ===============================  ===========================================================
array       shape, dtype                     contents
==========  ===============================  ===========================================================
``counts``  [sources, neurons of the         tokens (BOS included) whose pre-activation lies in a bin, by
            layers, 257], uint32             source of the text
==========  ===============================  ===========================================================

The bins are those of the paper's authors: 256 edges from -10 to 15, a bin below and one above them; a bin
holds its upper edge. Edge 102 is exactly 0, so the bins after 102 count what is above 0 and nothing else.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from steps.core.digest import code_digest
from steps.core.errors import UserError
from steps.core.runner import Output, progress, run
from steps.core.settings import Settings as BaseSettings
from steps.core.stores import Folder
from steps.core.tensors import write_tensors
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


def main(activations: Path, rows: Path, parts: int, part: int, settings: Settings, out: Output) -> None:
    """Count part ``part`` of ``parts``."""
    import numpy as np

    source, packed = Activations(activations), Folder(rows, "rows")
    names: list[str] = packed.attributes["sources"]
    layers = part_layers(source.layers, parts, part)
    blocks = counted_blocks(source, settings.tokens)
    labels = block_sources(source, packed)
    spread = np.bincount(labels[: source.block_slice(blocks - 1).stop], minlength=len(names))
    counts = model_counts(source, labels, len(names), blocks, layers)
    facts = {
        "kind": "histograms part",
        "activations": source.store.fingerprint,
        "rows": packed.fingerprint,
        "sources": names,
        "tokens": spread.tolist(),
        "layers": [layers.start, layers.stop],
        "code": code_digest("neurons.histograms"),
    }
    write_tensors(out, {"counts": counts}, facts)


if __name__ == "__main__":
    run(main)

"""Dumping activations against the forward pass alone (no unembedding on either side)."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import made
from benchmarks.measure import RUNS, Figure, in_turn, ratio
from steps.core.stores import Ledger, write_array
from steps.interp import pre_activations
from steps.neurons import dump

SMALL = {"layers": 12, "d_model": 768, "heads": 12, "n_ctx": 512}
"""GPT-2 small, with the paper's rows of 512 tokens."""

DEFAULT = {"layers": 2, "d_model": 64, "heads": 2, "n_ctx": 64}
"""What ``config/default.yaml`` trains."""


def figures(folder: Path, quick: bool) -> Iterator[Figure]:
    """``neurons.dump_over_forward`` and ``neurons.dump_over_forward_default``."""
    runs = 2 if quick else RUNS
    small, tokens = (DEFAULT, (1024, 1024)) if quick else (SMALL, (4096, 16 * 4096))
    yield ratio("neurons.dump_over_forward", compare(folder, small, tokens[0], runs), "at most 1.25")
    yield ratio("neurons.dump_over_forward_default", compare(folder, DEFAULT, tokens[1], runs), "at most 2")


def compare(folder: Path, shape: dict[str, int], tokens: int, runs: int) -> dict[str, list[float]]:
    """Seconds of dumping with the step's default settings, and of the forward pass on the same batches."""
    import torch

    bare: Any = made.model(**shape)
    settings = dump.Settings()
    source = pre_activations.PreActivations.of(copy.deepcopy(bare), settings.dtype, settings.batch_tokens)
    n_ctx = shape["n_ctx"]
    rows = made.rows(tokens, n_ctx)
    batch = settings.batch_tokens // n_ctx

    def dumping() -> None:
        ledger = Ledger(folder / "dump" / "ledger.json", "activations", {})
        write_array(ledger, "tokens", rows.reshape(-1), ("token",))
        write_array(ledger, "keep", (rows > 0).reshape(-1).astype("uint8"), ("token",))
        dump.write_blocks(ledger, source, rows, settings.block_tokens // n_ctx, settings.codec)
        ledger.finish({})

    def forward() -> None:
        with torch.inference_mode():
            for start in range(0, len(rows), batch):
                part = torch.from_numpy(rows[start : start + batch]).long()
                bare.base_model(part, use_cache=False)

    def clear() -> None:
        shutil.rmtree(folder / "dump", ignore_errors=True)

    seconds = in_turn({"dump": dumping, "forward": forward}, runs, before=clear)
    clear()
    return seconds

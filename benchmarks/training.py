"""How fast the default language model trains."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import made
from benchmarks.measure import RUNS, Figure, in_child
from steps.language_models.learning import loop


def figures(folder: Path, quick: bool) -> Iterator[Figure]:
    """``language_models.tokens_per_cpu_second``: targets trained on per second of the processor."""
    tokens, runs = (4000, 2) if quick else (250_000, RUNS)
    measured = in_child("training.seconds", {"folder": str(folder), "tokens": tokens, "runs": runs})
    values = [tokens / seconds for seconds in measured]
    sides = {"training": statistics.median(measured)}
    yield Figure(
        "language_models.tokens_per_cpu_second",
        statistics.median(values),
        "tokens/s",
        (min(values), max(values)),
        sides,
        runs,
    )


def seconds(folder: str, tokens: int, runs: int) -> list[float]:
    """Processor seconds of each training of ``tokens`` targets, after one that does not count.

    As the step trains by default, on one thread, checkpoints and one evaluation included.
    """
    from steps.core.stores import Ledger
    from steps.core.training import prepare
    from steps.interp.loading import quiet

    prepare(1)
    quiet()
    settings = loop.Settings(tokens=tokens, evaluations=1)
    rows = made.rows(64 * 4096, 64)
    config = loop.configuration(settings, made.VOCABULARY, 64, 0)
    measured = []
    for _ in range(runs + 1):
        with tempfile.TemporaryDirectory(dir=folder) as out:
            ledger = Ledger(Path(out) / "model" / "ledger.json", "language_model", {})
            start = time.process_time()
            loop.train(rows, rows[:256], config, 1, settings, ledger)
            measured.append(time.process_time() - start)
    return measured[1:]

"""Small sets of skills, learned by the step itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from steps.core.runner import Output
from steps.skills import downstream, evaluate, train
from steps.skills.learning.tabular import Settings

TINY = Settings(length=3, iterations=2, episodes=8, exploring=64)
JUDGED = evaluate.Settings(runs=10, starts=2, runs_per_start=5, shown=2)
TASK = downstream.Settings(cap=12, episodes=16, at_once=8, evaluations=2)
SETS = tuple((base, mode) for base in ("vic", "diayn") for mode in ("focused", "unfocused"))


@pytest.fixture(scope="session")
def ledgers(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A ledger for each base and mode, of one seed."""
    folder = tmp_path_factory.mktemp("skills")
    found = []
    for base, mode in SETS:
        out = folder / f"{base}-{mode}" / "seed-1" / "ledger.json"
        out.parent.mkdir(parents=True)
        train.main(base, mode, 1, TINY, Output(out))
        found.append(out)
    return found


@pytest.fixture(scope="session")
def results(ledgers: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], list[Path]]:
    """Evaluations and downstream results of all of them, and of what stands beside them."""
    folder = tmp_path_factory.mktemp("results")
    judged, learned = [], []
    for number, inputs in enumerate([*([ledger] for ledger in ledgers), []]):
        judged.append(folder / f"{number}-evaluate.json")
        evaluate.main(inputs, TINY.length, 1, JUDGED, Output(judged[-1]))
        learned.append(folder / f"{number}-downstream.json")
        downstream.main(inputs, 1, TASK, Output(learned[-1]))
    return judged, learned

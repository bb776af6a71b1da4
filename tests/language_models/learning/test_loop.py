"""The training loop: an initial model, and a mask of the targets that count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steps.core.stores import Ledger
from steps.language_models.learning import loop
from steps.language_models.learning.losses import loss_of

SETTINGS = loop.Settings(
    layers=1, d_model=16, heads=2, tokens=4000, batch_rows=8, checkpoints=0, evaluations=1, evaluation_rows=4
)
CONFIG = loop.configuration(SETTINGS, 40, 12, 0)


def some_rows(seed: int = 0, count: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 40, (count, 12)).astype(np.int32)


def trained(folder: Path, rows: np.ndarray, **more: Any) -> tuple[bytes, list[dict[str, Any]]]:
    """The weights that a training ends with, and its curve."""
    ledger = Ledger(folder / "ledger.json", "language_model", {"test": str(folder)})
    curve = loop.train(rows, rows[:4], CONFIG, 1, SETTINGS, ledger, **more)
    return (folder / "model.safetensors").read_bytes(), curve


def test_what_all_tokens_count_for_and_where_it_starts_by_default(tmp_path: Path) -> None:
    """The same bits with and without the two arguments."""
    rows = some_rows()
    plain = trained(tmp_path / "plain", rows)
    everything = np.ones(rows.shape, bool)
    assert trained(tmp_path / "all", rows, counted=everything) == plain
    everything[:, 0] = False  # the first of a row is no target
    assert trained(tmp_path / "first", rows, counted=everything) == plain
    initial = loop.initial_model(CONFIG, 1)
    assert trained(tmp_path / "initial", rows, initial=initial) == plain
    assert trained(tmp_path / "other", rows, initial=loop.initial_model(CONFIG, 2)) != plain


def test_tokens_that_do_not_count_teach_nothing(tmp_path: Path) -> None:
    rows, other = some_rows(), some_rows()
    counted = np.ones(rows.shape, bool)
    counted[:, 7:] = False
    other[:, 7:] = some_rows(5)[:, 7:]  # later than all that counts, so not seen by it either
    first = trained(tmp_path / "first", rows, counted=counted)[0]
    assert trained(tmp_path / "second", other, counted=counted)[0] == first
    assert trained(tmp_path / "third", other)[0] != first


def test_only_what_counts_is_learnt(tmp_path: Path) -> None:
    """Rows whose second half follows from the first: what is masked stays as hard as a guess."""
    rows = some_rows(count=512)
    rows[:, 6:] = rows[:, :6]
    counted = np.ones(rows.shape, bool)
    counted[:, 9:] = False
    settings = SETTINGS.model_copy(update={"tokens": 120_000, "d_model": 32, "rate": 5e-3})
    config = loop.configuration(settings, 40, 12, 0)
    model = loop.initial_model(config, 1)
    ledger = Ledger(tmp_path / "ledger.json", "language_model", {})
    loop.train(rows, rows[:4], config, 1, settings, ledger, model, counted)
    model.eval()
    with torch.inference_mode():
        logits = model(torch.from_numpy(rows[:256]).long()[:, :-1]).logits
    targets = torch.from_numpy(rows[:256]).long()[:, 1:]
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none").mean(0)
    assert losses[5:8].mean() < 0.5 * losses[8:].mean()
    assert loss_of(model, rows[:4]).targets_per_row == 11


def test_tuning_goes_on_from_the_initial_model(tmp_path: Path) -> None:
    rows = some_rows()
    settings = SETTINGS.model_copy(update={"tokens": 1, "rate": 1e-12})
    initial = loop.initial_model(CONFIG, 7)
    before = {name: value.clone() for name, value in initial.state_dict().items()}
    ledger = Ledger(tmp_path / "ledger.json", "language_model", {})
    loop.train(rows, rows[:4], CONFIG, 1, settings, ledger, initial)
    for name, value in initial.state_dict().items():
        assert value.numpy() == pytest.approx(before[name].numpy(), abs=1e-6)

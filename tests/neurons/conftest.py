"""A study of three models with planted families, made once without training."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest

from steps.core.runner import Output
from steps.core.stores import Folder
from steps.interp.loading import weights_fingerprint
from steps.neurons import baseline, clusters, correlate, moments, table
from steps.neurons.activations.store import Activations
from tests.neurons.planted import write_activations, write_histograms, write_labelled_rows, write_model

SHARED = range(10, 30)
"""Neurons that are the same in every model; all others of a model are a random rotation of one latent."""


@dataclasses.dataclass
class Study:
    """Where the files of the planted study lie."""

    folder: Path
    activations: list[Path]
    moments: list[Path]
    correlations: list[Path]
    rows: Path
    models: list[Path]

    @property
    def reference(self) -> list[Path]:
        """The correlations of the first model."""
        return self.correlations[: len(self.activations) - 1]


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Models a, b and c of 2 x 48 neurons over 6400 tokens; ``SHARED`` correlate with 0.64 across models."""
    folder = tmp_path_factory.mktemp("planted")
    rng = np.random.default_rng(7)
    tokens, count = 6400, 96
    latent = rng.standard_normal((tokens, count))
    shared = rng.standard_normal((tokens, len(SHARED)))
    keep = rng.random(tokens) < 0.9
    ledgers, own, models = [], [], []
    for number, name in enumerate("abc"):
        models.append(write_model(folder / "models" / name, number))  # which activations name and nobody runs
        weights = weights_fingerprint(Folder(models[-1], "language_model"))
        pre = latent @ rng.standard_normal((count, count)) / count**0.5
        pre[:, SHARED] = 0.8 * shared + 0.6 * rng.standard_normal(shared.shape)
        pre[:, 5] = 1.5  # never varies
        ledgers.append(
            write_activations(
                folder / name, pre.astype(np.float16), name=name, keep=keep, block_tokens=256, model=weights
            )
        )
        own.append(folder / f"{name}.safetensors")
        moments.main(ledgers[-1], 1, 0, moments.Settings(), Output(own[-1]))
    files = []
    for i, j in itertools.combinations(range(3), 2):
        files.append(folder / f"{i}{j}.safetensors")
        correlate.main(
            ledgers[i],
            ledgers[j],
            [own[i]],
            [own[j]],
            [],
            1,
            0,
            correlate.Settings(draws=199),
            Output(files[-1]),
        )
    labels = np.arange(tokens // 16) % 2 * 2  # the second source, names, has no rows
    rows = write_labelled_rows(folder / "rows", Activations(ledgers[0]).tokens, 16, labels)
    study = Study(folder, ledgers, own, files, rows, models)
    write_histograms(folder, ledgers, rows)
    baseline.main(study.reference, baseline.Settings(), Output(folder / "excess.parquet"))
    clusters.main(
        files,
        ledgers,
        clusters.Settings(),
        Output(folder / "clusters.parquet"),
        Output(folder / "edges.parquet"),
    )
    table.main(
        ledgers,
        own,
        folder / "histograms" / "ledger.json",
        study.reference,
        folder / "excess.parquet",
        folder / "clusters.parquet",
        Output(folder / "neurons.parquet"),
        Output(folder / "examples.parquet"),
        [],
    )
    return study

"""The figures: what they show, empty sets, and the same bytes every time."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from steps.core.errors import UserError
from steps.core.runner import Output
from steps.neurons import figure
from steps.neurons.pairs import load_pairs
from tests.neurons.conftest import Study


def draw(
    planted: Study, name: str, folder: Path, clusters: Path | None = None
) -> tuple[Path, dict[str, object]]:
    out, data = Output(folder / f"{name}.svg"), Output(folder / f"{name}.json")
    members = clusters or planted.folder / "clusters.parquet"
    figure.main(name, planted.folder / "excess.parquet", members, planted.reference, out, data)
    ET.parse(out)
    return out, json.loads(data.read_text())


@pytest.mark.parametrize("name", list(figure.FIGURES))
def test_drawn_twice_the_bytes_are_the_same(planted: Study, name: str, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    first, data = draw(planted, name, tmp_path)
    second, same = draw(planted, name, tmp_path / "again")
    assert first.read_bytes() == second.read_bytes()
    assert data == same


def test_summary_shows_the_numbers_of_the_table(planted: Study, tmp_path: Path) -> None:
    _, data = draw(planted, "correlation_summary", tmp_path)
    excess = pd.read_parquet(planted.folder / "excess.parquet")
    assert sum(data["mean_corr"]) == len(excess)
    assert data["max_corr"] == excess["max_corr"].tolist()
    np.testing.assert_allclose(np.sum(data["layer_match_percent"], axis=1), 100)


def test_layer_matches_count_varying_neurons_only(planted: Study) -> None:
    pairs = load_pairs(planted.reference)
    shares = figure.layer_matches(pairs)
    expected = np.zeros((2, 2))
    for pair in pairs:
        for i in range(96):
            if i != 5:
                expected[i // 48, pair.row_top_index[i, 0] // 48] += 1 / (47 if i < 48 else 48)
    np.testing.assert_allclose(shares, expected / len(pairs))


def test_no_cluster_draws_a_figure_that_says_so(planted: Study, tmp_path: Path) -> None:
    empty = tmp_path / "none.parquet"
    pd.read_parquet(planted.folder / "clusters.parquet").iloc[:0].to_parquet(empty)
    out, data = draw(planted, "clusters", tmp_path, empty)
    assert "no neurons form a cluster" in out.read_text()
    assert data["cluster_size"] == []


def test_running_mean_of_equal_groups() -> None:
    x, y = figure.running_mean(np.array([3.0, 1.0, 2.0, 0.0]), np.array([30.0, 10.0, 20.0, 0.0]), windows=2)
    assert x.tolist() == [0.5, 2.5]
    assert y.tolist() == [5.0, 25.0]


def test_an_unknown_figure_is_named(planted: Study, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found 'nothing', expected one of correlation_summary"):
        draw(planted, "nothing", tmp_path)

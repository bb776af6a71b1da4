"""The figures: what they show, empty sets, and the same bytes every time."""

from __future__ import annotations

import dataclasses
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from steps.core.errors import UserError
from steps.core.runner import Output
from steps.neurons import figure
from steps.neurons.correlations.pairs import load_pairs
from steps.neurons.figures import correlations
from steps.neurons.figures.statistics import STATISTICS
from steps.neurons.table import percentiles
from tests.neurons.conftest import SHARED, Study

PLANTED_SET = {"universal_set": "top_share", "top_share": 0.2}
"""Takes 19 of the 20 shared neurons."""


def draw(
    planted: Study,
    name: str,
    folder: Path,
    clusters: Path | None = None,
    neurons: Path | None = None,
    beside: tuple[Path, ...] = (),
    **settings: Any,
) -> tuple[Path, dict[str, Any]]:
    out, data = folder / f"{name}.svg", folder / f"{name}.json"
    members = clusters or planted.folder / "clusters.parquet"
    figure.main(
        planted.folder / "excess.parquet",
        members,
        planted.reference,
        neurons or planted.folder / "neurons.parquet",
        list(beside),
        figure.Settings(**settings),
        {name: Output(out)},
        {name: Output(data)},
    )
    ET.parse(out)
    return out, json.loads(data.read_text())


@pytest.mark.parametrize("name", [*figure.FIGURES, *STATISTICS])
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
    shares = correlations.layer_matches(pairs)[2]
    expected = np.zeros((2, 2))
    for pair in pairs:
        for i in range(96):
            if i != 5:
                expected[i // 48, pair.row_top_index[i, 0] // 48] += 1 / (47 if i < 48 else 48)
    np.testing.assert_allclose(shares, expected / len(pairs))


def test_partners_of_another_depth_have_a_map_of_their_own(planted: Study, tmp_path: Path) -> None:
    """A partner of 3 layers of 32 neurons beside one of 2 layers of 48: neither is the other's shape."""
    b, c = load_pairs(planted.reference)
    deeper = dataclasses.replace(c, d_mlp=(48, 32))
    shares = correlations.layer_matches([deeper, b])
    assert [share.shape for share in shares.values()] == [(2, 2), (2, 3)]
    np.testing.assert_array_equal(shares[2], correlations.layer_matches([b])[2])
    best = np.delete(deeper.row_top_index[:, 0], 5) // 32
    expected = [np.bincount(best[:47], minlength=3) / 47, np.bincount(best[47:], minlength=3) / 48]
    np.testing.assert_allclose(shares[3], expected)
    excess = pd.read_parquet(planted.folder / "excess.parquet")
    drawn, data = correlations.correlation_summary(excess, pd.DataFrame(), [deeper, b])
    titles = [axes.get_title() for axes in drawn.axes]
    assert [title for title in titles if "best match" in title] == [
        "Where the best match lies in 2 layers (%)",
        "Where the best match lies in 3 layers (%)",
    ]
    np.testing.assert_allclose(data["layer_match_percent[3]"], 100 * np.array(expected))


def test_no_cluster_draws_a_figure_that_says_so(planted: Study, tmp_path: Path) -> None:
    empty = tmp_path / "none.parquet"
    pd.read_parquet(planted.folder / "clusters.parquet").iloc[:0].to_parquet(empty)
    out, data = draw(planted, "clusters", tmp_path, empty)
    assert "no neurons form a cluster" in out.read_text()
    assert data["cluster_size"] == []


def test_running_mean_of_equal_groups() -> None:
    x, y = correlations.running_mean(
        np.array([3.0, 1.0, 2.0, 0.0]), np.array([30.0, 10.0, 20.0, 0.0]), windows=2
    )
    assert x.tolist() == [0.5, 2.5]
    assert y.tolist() == [5.0, 25.0]


def test_an_unknown_figure_is_named(planted: Study, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found 'nothing', expected some of correlation_summary"):
        draw(planted, "nothing", tmp_path)


@pytest.fixture
def with_weights(planted: Study, tmp_path: Path) -> Path:
    """The neuron table with weights: anti-aligned neurons fire most, shared ones have large norms."""
    table = pd.read_parquet(planted.folder / "neurons.parquet")
    rng = np.random.default_rng(2)
    noise = rng.standard_normal(len(table))
    shared = (table["layer"] * 48 + table["neuron"]).isin(SHARED).to_numpy()
    table["in_out_sim"] = -table["activation_frequency"] + 0.01 * noise
    table["l2_penalty"] = 1 + rng.random(len(table)) + 5 * shared
    table["vocab_kurt"] = 3 + rng.random(len(table))
    table["vocab_skew"] = noise
    table["w_in_max_cos"] = np.where(shared, 0.8, 0.2)
    table["w_out_max_cos"] = np.where(shared, 0.7, 0.1)
    columns = ["in_out_sim", "l2_penalty", "vocab_kurt"]
    pd.concat([table, percentiles(table, columns)], axis=1).to_parquet(tmp_path / "weights.parquet")
    return tmp_path / "weights.parquet"


def test_universal_neurons_stand_where_they_were_planted(
    planted: Study, with_weights: Path, tmp_path: Path
) -> None:
    out, data = draw(planted, "universal_percentiles", tmp_path, neurons=with_weights, **PLANTED_SET)
    assert data["neurons"] == 19
    assert "19 neurons taken as universal: the 20 % of largest excess" in out.read_text()
    # the 20 planted ones hold the upper 20 places of 48 in their layer
    assert data["quantiles"]["l2_penalty"]["0.03125"] > 100 * 28 / 48
    table = pd.read_parquet(with_weights)
    values = table.loc[table["model"] == "a"].nlargest(19, "excess_corr")["percentile[l2_penalty]"]
    assert data["quantiles"]["l2_penalty"]["0.5"] == pytest.approx(values.median())
    assert "input_bias" not in data["quantiles"]


def test_frequency_and_cosine_are_correlated_and_it_is_printed(
    planted: Study, with_weights: Path, tmp_path: Path
) -> None:
    out, data = draw(planted, "frequency_cosine", tmp_path, neurons=with_weights)
    table = pd.read_parquet(with_weights)
    for name in "abc":
        rows = table[table["model"] == name]
        expected = rows["in_out_sim"].corr(rows["activation_frequency"])
        assert expected < -0.9
        assert data["correlation"][name] == pytest.approx(expected)
    assert f"a: correlation {data['correlation']['a']:.2f}" in out.read_text()


def test_redundancy_tells_universal_neurons_from_others(
    planted: Study, with_weights: Path, tmp_path: Path
) -> None:
    _, data = draw(planted, "redundancy", tmp_path, neurons=with_weights, **PLANTED_SET)
    inside = data["w_in_max_cos"]
    assert sum(inside["universal neurons"]) == 19
    edges = np.array(inside["edges"])
    assert edges[:-1][np.array(inside["universal neurons"]) > 0].min() > 0.7
    assert sum(inside["other neurons"]) == 96 - 19


def test_densities_hold_every_model_and_layers_every_universal_neuron(planted: Study, tmp_path: Path) -> None:
    _, densities = draw(planted, "metric_densities", tmp_path)
    other = tmp_path / "other" / "neurons.parquet"
    other.parent.mkdir()
    pd.read_parquet(planted.folder / "neurons.parquet").iloc[:10].to_parquet(other)
    _, both = draw(planted, "metric_densities", tmp_path, beside=(other,))
    for metric, drawn in densities.items():
        assert both[metric].keys() == drawn.keys() | {"other/a"}
        assert 0 < sum(both[metric]["other/a"]) <= 10
    with pytest.raises(UserError, match=r"ledger\.json"):
        draw(planted, "metric_densities", tmp_path, beside=(planted.folder / "histograms/ledger.json",))
    assert set(densities["mean"]) == {"edges", "a", "b", "c"}
    assert len(densities["mean"]["edges"]) == 11
    assert sum(densities["mean"]["a"]) >= 94
    _, data = draw(planted, "metrics_by_layer", tmp_path, **PLANTED_SET)
    table = pd.read_parquet(planted.folder / "neurons.parquet")
    rows = table[table["model"] == "a"].nlargest(19, "excess_corr")
    assert data["universal"]["kurt"][0][1] == pytest.approx(rows["kurt"].median())
    assert data["universal"]["kurt"][1] is None  # all planted ones are in the first layer


@pytest.mark.parametrize("name", list(STATISTICS))
def test_an_empty_universal_set_draws_a_figure_that_says_so(
    planted: Study, with_weights: Path, name: str, tmp_path: Path
) -> None:
    out, _ = draw(planted, name, tmp_path, neurons=with_weights, universal_set="top_share", top_share=0.001)
    assert "no neurons taken as universal" in out.read_text() or name == "metric_densities"


def test_medians_stay_readable_where_no_neuron_is_universal(with_weights: Path) -> None:
    """One sentence for the figure, none in its panels, and every panel with its numbers."""
    table = pd.read_parquet(with_weights)
    none = np.zeros(96, bool)
    drawn, data = STATISTICS["metrics_by_layer"](table, none, "none at all")
    assert drawn.get_suptitle() == "none at all"
    shown = [axes for axes in drawn.axes if axes.get_visible()]
    assert len(shown) == len(data["median_of_all"]) >= 8
    for axes in shown:
        assert not axes.texts
        assert axes.axison
        assert len(axes.get_yticks()) >= 2
        assert axes.lines[0].get_xdata().tolist() == [0, 1]


@pytest.mark.parametrize("share", [0.001, 0.2])
def test_frequencies_end_where_the_data_end(with_weights: Path, share: float) -> None:
    """No room is made for a legend: it stands below."""
    table = pd.read_parquet(with_weights)
    universal = figure.chosen(figure.reference_rows(table), "top_share", share)
    drawn, data = STATISTICS["frequency_cosine"](table, universal, "so many")
    assert drawn.axes[0].get_ylim()[1] < 1.1 * max(data["activation_frequency"])
    assert drawn.axes[0].get_legend() is None
    assert drawn.get_supxlabel() == ("" if universal.any() else "so many")
    assert [t.get_text() for key in drawn.legends for t in key.get_texts()] == ["so many"] * bool(
        universal.any()
    )


def test_one_partner_is_not_compared_with_itself(planted: Study) -> None:
    excess = pd.read_parquet(planted.folder / "excess.parquet")
    pairs = load_pairs(planted.reference)
    both, data = correlations.correlation_summary(excess, excess, pairs)
    assert both.axes[1].get_title() == "Largest correlation by partner"
    alone, same = correlations.correlation_summary(excess, excess, pairs[:1])
    assert [t.get_text() for t in alone.axes[1].texts] == ["b is the only partner"]
    assert not alone.axes[1].collections
    assert same.keys() == data.keys()


@pytest.mark.parametrize("name", ["frequency_cosine", "redundancy"])
def test_without_weights_a_figure_says_so(planted: Study, name: str, tmp_path: Path) -> None:
    out, _ = draw(planted, name, tmp_path)
    assert "needs the weights of" in out.read_text()


@pytest.mark.parametrize("change", ["column", "model", "excess", "neuron"])
def test_a_neuron_table_of_another_study_is_refused(planted: Study, change: str, tmp_path: Path) -> None:
    table = pd.read_parquet(planted.folder / "neurons.parquet")
    changed, said = {
        "column": (table.drop(columns="excess_corr"), "lacks the column 'excess_corr'"),
        "model": (table.replace({"model": {"a": "z"}}), "holds model z, layer 0, neuron 0"),
        "excess": (table.assign(excess_corr=table["excess_corr"] + 0.01), "holds model a, layer 0, neuron 0"),
        "neuron": (table.drop(index=95), "lacks model a, layer 1, neuron 47"),
    }[change]
    changed.to_parquet(tmp_path / "other.parquet")
    with pytest.raises(UserError, match=f"other.parquet: {said}"):
        draw(planted, "clusters", tmp_path, neurons=tmp_path / "other.parquet")

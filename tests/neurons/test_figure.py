"""The figures: what they show, empty sets, and the same bytes every time."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from steps.core.errors import UserError
from steps.neurons.correlations.pairs import load_pairs
from steps.neurons.figures import correlations
from steps.neurons.figures.statistics import STATISTICS, reference_rows
from steps.neurons.selection.universal import chosen
from steps.neurons.table import percentiles
from tests.conftest import ROOT
from tests.neurons.conftest import SHARED, Study
from tests.neurons.planted import draw_figure

PLANTED_SET = {"universal_set": "top_share", "top_share": 0.2}
"""Takes 19 of the 20 shared neurons."""


def draw(
    planted: Study,
    name: str,
    folder: Path,
    beside: tuple[Path, ...] = (),
    changed: Path | None = None,
    **settings: Any,
) -> tuple[str, dict[str, Any]]:
    """Draw from the tables of the planted study; those in the folder ``changed`` take their places."""
    files = {
        name: planted.folder / name for name in ("excess.parquet", "clusters.parquet", "neurons.parquet")
    }
    if changed is not None:
        files |= {name: changed / name for name in files if (changed / name).exists()}
    return draw_figure(folder, name, files.values(), planted.reference, beside, **settings)


@pytest.mark.parametrize("name", [*correlations.FIGURES, *STATISTICS])
def test_drawn_twice_the_bytes_are_the_same(planted: Study, name: str, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    assert draw(planted, name, tmp_path) == draw(planted, name, tmp_path / "again")


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
    none = pd.read_parquet(planted.folder / "clusters.parquet").iloc[:0]
    none.to_parquet(tmp_path / "clusters.parquet")
    out, data = draw(planted, "clusters", tmp_path, changed=tmp_path)
    assert "no neurons form a cluster" in out
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
    """The folder of a neuron table with weights: anti-aligned neurons fire most, shared norms are large."""
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
    (tmp_path / "weights").mkdir()
    whole = pd.concat([table, percentiles(table, columns)], axis=1)
    whole.to_parquet(tmp_path / "weights" / "neurons.parquet")
    return tmp_path / "weights"


def test_universal_neurons_stand_where_they_were_planted(
    planted: Study, with_weights: Path, tmp_path: Path
) -> None:
    out, data = draw(planted, "universal_percentiles", tmp_path, changed=with_weights, **PLANTED_SET)
    assert data["neurons"] == 19
    assert "19 neurons taken as universal: the 20 % of largest excess" in out
    # the 20 planted ones hold the upper 20 places of 48 in their layer
    assert data["quantiles"]["l2_penalty"]["0.03125"] > 100 * 28 / 48
    table = pd.read_parquet(with_weights / "neurons.parquet")
    values = table.loc[table["model"] == "a"].nlargest(19, "excess_corr")["percentile[l2_penalty]"]
    assert data["quantiles"]["l2_penalty"]["0.5"] == pytest.approx(values.median())
    assert "input_bias" not in data["quantiles"]


def test_frequency_and_cosine_are_correlated_and_it_is_printed(
    planted: Study, with_weights: Path, tmp_path: Path
) -> None:
    out, data = draw(planted, "frequency_cosine", tmp_path, changed=with_weights)
    table = pd.read_parquet(with_weights / "neurons.parquet")
    for name in "abc":
        rows = table[table["model"] == name]
        expected = rows["in_out_sim"].corr(rows["activation_frequency"])
        assert expected < -0.9
        assert data["correlation"][name] == pytest.approx(expected)
    assert f"a: correlation {data['correlation']['a']:.2f}" in out


def test_redundancy_tells_universal_neurons_from_others(
    planted: Study, with_weights: Path, tmp_path: Path
) -> None:
    _, data = draw(planted, "redundancy", tmp_path, changed=with_weights, **PLANTED_SET)
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
    out, _ = draw(planted, name, tmp_path, changed=with_weights, universal_set="top_share", top_share=0.001)
    assert "no neurons taken as universal" in out or name == "metric_densities"


def test_medians_stay_readable_where_no_neuron_is_universal(with_weights: Path) -> None:
    """One sentence for the figure, none in its panels, and every panel with its numbers."""
    table = pd.read_parquet(with_weights / "neurons.parquet")
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
    table = pd.read_parquet(with_weights / "neurons.parquet")
    universal = chosen(reference_rows(table), "top_share", share)
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
    assert "needs the weights of" in out


@pytest.mark.parametrize("change", ["column", "model", "excess", "neuron"])
def test_a_neuron_table_of_another_study_is_refused(planted: Study, change: str, tmp_path: Path) -> None:
    table = pd.read_parquet(planted.folder / "neurons.parquet")
    changed, said = {
        "column": (table.drop(columns="excess_corr"), "lacks the column 'excess_corr'"),
        "model": (table.replace({"model": {"a": "z"}}), "holds model z, layer 0, neuron 0"),
        "excess": (table.assign(excess_corr=table["excess_corr"] + 0.01), "holds model a, layer 0, neuron 0"),
        "neuron": (table.drop(index=95), "lacks model a, layer 1, neuron 47"),
    }[change]
    changed.to_parquet(tmp_path / "neurons.parquet")
    with pytest.raises(UserError, match=f"{tmp_path.name}/neurons.parquet: {said}"):
        draw(planted, "clusters", tmp_path, changed=tmp_path)


def test_a_file_that_a_figure_needs_is_named(planted: Study, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--files: found no clusters.parquet, which a figure needs"):
        draw_figure(tmp_path, "clusters", [planted.folder / "excess.parquet"], planted.reference)
    with pytest.raises(UserError, match="--correlations: found none"):
        draw_figure(tmp_path, "excess", [planted.folder / "excess.parquet"])


@pytest.mark.parametrize("name", ["roles", "similarity", "checkpoints"])
def test_a_table_of_another_kind_is_refused(planted: Study, tmp_path: Path, name: str) -> None:
    pd.read_parquet(planted.folder / "excess.parquet").to_parquet(tmp_path / f"{name}.parquet")
    with pytest.raises(UserError, match=rf"{name}.parquet: lacks the column"):
        draw_figure(tmp_path, name, [tmp_path / f"{name}.parquet"])


def test_steps_that_compute_draw_nothing() -> None:
    """So that an edit of a figure reruns no computing."""
    drawing = set()
    for path in (ROOT / "steps/neurons").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = (
                [alias.name for alias in getattr(node, "names", [])] if isinstance(node, ast.Import) else []
            )
            if isinstance(node, ast.ImportFrom):
                names = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
            if any(re.match(r"(matplotlib|steps\.(core|neurons)\.figures)\b", name) for name in names):
                drawing.add(path.relative_to(ROOT / "steps/neurons").parts[0].removesuffix(".py"))
    assert drawing == {"figures", "figure", "gallery", "report"}

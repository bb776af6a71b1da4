"""Clusters on planted families."""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np
import pandas as pd
import pytest

from steps.core.errors import UserError
from steps.core.runner import Output
from steps.neurons import clusters
from steps.neurons.activations import Activations
from steps.neurons.pairs import load_pairs
from tests.neurons.conftest import SHARED, Study


def members(study: Study) -> dict[int, set[tuple[str, int]]]:
    found: dict[int, set[tuple[str, int]]] = defaultdict(set)
    for row in pd.read_parquet(study.folder / "clusters.parquet").itertuples():
        found[row.cluster].add((row.model, row.layer * 48 + row.neuron))
    return found


def test_every_planted_family_is_one_cluster(planted: Study) -> None:
    found = list(members(planted).values())
    for neuron in SHARED:
        assert {("a", neuron), ("b", neuron), ("c", neuron)} in found


def test_few_clusters_of_neurons_that_share_nothing(planted: Study) -> None:
    others = [c for c in members(planted).values() if not any(number in SHARED for _, number in c)]
    # 76 x 3 unshared neurons; edges are false discoveries at q = 0.05 among 60 true ones.
    assert len(others) <= 8


def test_constant_neurons_are_in_no_cluster(planted: Study) -> None:
    assert not any(number == 5 for c in members(planted).values() for _, number in c)


def test_families_are_stable_and_numbers_are_those_of_the_edges(planted: Study) -> None:
    table = pd.read_parquet(planted.folder / "clusters.parquet")
    edges = pd.read_parquet(planted.folder / "edges.parquet")
    shared = table[(table["layer"] * 48 + table["neuron"]).isin(SHARED) & (table["size"] == 3)]
    assert shared["stability"].min() > 0.95
    assert shared["mean_corr"].between(0.60, 0.68).all()
    mean = edges.groupby("cluster")["corr"].mean()
    np.testing.assert_allclose(
        table.set_index("cluster")["mean_corr"], mean.loc[table["cluster"]], atol=1e-12
    )
    assert (edges["adjusted_p_value"] <= 0.05).all()


def test_edges_are_mutual_best_matches(planted: Study) -> None:
    pairs = {(p.a, p.b): p for p in load_pairs(planted.correlations)}
    edges = pd.read_parquet(planted.folder / "edges.parquet")
    assert len(edges) >= 3 * len(SHARED)
    for edge in edges.itertuples():
        pair = pairs[edge.model_a, edge.model_b]
        i, j = edge.layer_a * 48 + edge.neuron_a, edge.layer_b * 48 + edge.neuron_b
        assert pair.row_top_index[i, 0] == j
        assert pair.column_top_index[j, 0] == i


def test_all_blocks_once_give_the_correlations_back(planted: Study) -> None:
    pairs = load_pairs(planted.correlations)
    sources = {source.name: source for source in map(Activations, planted.activations)}
    wanted = {(p.a, p.b): clusters.candidate_pairs(p, np.full(p.neurons[0], -np.inf), count=2) for p in pairs}
    sums = clusters.BlockSums(sources, wanted, "float64")
    once = np.ones((1, len(sums.count)))
    for pair in pairs:
        rows, columns = wanted[pair.a, pair.b]
        corr = sums.correlations(once, (pair.a, pair.b))[0]
        best = np.full(pair.neurons[0], -np.inf)
        np.maximum.at(best, rows, corr)
        np.testing.assert_allclose(best, pair.row_top_value[:, 0], atol=1e-6)
        assert len(columns) >= pair.neurons[0]


def test_resampled_correlations_equal_those_of_the_resampled_tokens(planted: Study) -> None:
    sources = {source.name: source for source in map(Activations, planted.activations)}
    rows, columns = np.arange(10, 20), np.arange(12, 22)
    sums = clusters.BlockSums(sources, {("a", "b"): (rows, columns)}, "float64")
    weights = np.random.default_rng(0).multinomial(25, np.full(25, 1 / 25))
    a, b = (
        np.concatenate([sources[m].pre(layer, sources[m].block_slice(k)) for k in range(25)])
        for m, layer in (("a", 0), ("b", 0))
    )
    again = np.repeat(np.arange(6400), np.repeat(weights, 256) * sources["a"].keep)
    expected = np.corrcoef(a[again][:, rows].T.astype(float), b[again][:, columns].T.astype(float))
    expected = np.diag(expected[:10, 10:])
    np.testing.assert_allclose(
        sums.correlations(weights[None].astype(float), ("a", "b"))[0], expected, atol=1e-10
    )


def test_best_jaccard() -> None:
    a, b, c, d = (("m", number) for number in range(4))
    assert clusters.best_jaccard([[a, b], [c, d], [a, b, c]], [[a, b], [c], [d]]).tolist() == pytest.approx(
        [1.0, 0.5, 2 / 3]
    )
    assert clusters.best_jaccard([[a, b]], []).tolist() == [0.0]


def test_without_discoveries_the_tables_are_empty_but_whole(planted: Study) -> None:
    pairs = load_pairs(planted.correlations)
    for pair in pairs:
        pair.rotated_max[:] = 1
    sources = {source.name: source for source in map(Activations, planted.activations)}
    found, edges = clusters.find_clusters(pairs, sources, clusters.Settings())
    whole = pd.read_parquet(planted.folder / "clusters.parquet")
    assert len(found) == len(edges) == 0
    assert found.dtypes.astype(str).to_dict() == whole.dtypes.astype(str).to_dict()


def test_threshold_is_the_smallest_correlation_that_would_have_passed(planted: Study) -> None:
    pairs = load_pairs(planted.correlations)
    for pair, match in zip(pairs, clusters.mutual_best(pairs, 0.05), strict=True):
        passed = match.adjusted <= 0.05
        above = match.corr > match.threshold[match.row]
        np.testing.assert_array_equal(passed, above)
        assert passed.any()
        assert (~passed).any() or pair.a == "a"


def test_missing_activations_are_named(planted: Study) -> None:
    with pytest.raises(UserError, match="--activations: none of c"):
        clusters.main(
            planted.correlations,
            planted.activations[:2],
            clusters.Settings(),
            Output(planted.folder / "x"),
            Output(planted.folder / "y"),
        )


def test_two_runs_write_the_same_bytes(planted: Study, tmp_path: object) -> None:
    folder = planted.folder / "again"
    folder.mkdir()
    outs = [Output(folder / name) for name in ("clusters.parquet", "edges.parquet")]
    clusters.main(planted.correlations, planted.activations, clusters.Settings(), *outs)
    for out in outs:
        assert out.read_bytes() == (planted.folder / out.name).read_bytes()


def test_components_are_sorted_and_separate() -> None:
    edges = [(("a", i), ("b", i)) for i in range(3)] + [(("b", 2), ("c", 9))]
    found = sorted(clusters.components(edges))
    assert found == [[("a", 0), ("b", 0)], [("a", 1), ("b", 1)], [("a", 2), ("b", 2), ("c", 9)]]
    assert all(not set(x) & set(y) for x, y in itertools.combinations(found, 2))

"""Clusters on planted families."""

from __future__ import annotations

import itertools
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from steps.core.digest import seed as derive_seed
from steps.core.errors import UserError
from steps.core.runner import Output
from steps.neurons import clusters
from steps.neurons.activations.store import Activations, open_all
from steps.neurons.correlations.pairs import Pair, load_pairs
from tests.neurons.conftest import SHARED, Study
from tests.neurons.planted import correlate_pair, pearson, stored_post, write_activations


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


BLOCKS, BLOCK = 20, 64
STRONG, LOCAL, GUEST = 3, 30, 7
"""A family that is alike everywhere, one that is alike in one block, one that model c joins in that block."""


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Pair], list[Path]]:
    """The correlations and activations of three models of 2 x 24 neurons, most of which share nothing."""
    folder = tmp_path_factory.mktemp("uneven")
    rng = np.random.default_rng(3)
    tokens = BLOCKS * BLOCK
    everywhere, guest = rng.standard_normal((2, tokens))
    bursts = np.zeros((2, tokens))
    for burst, block in zip(bursts, (4, 11), strict=True):
        burst[block * BLOCK : (block + 1) * BLOCK] = 10 * rng.standard_normal(BLOCK)
    ledgers = []
    for name in "abc":
        pre = rng.standard_normal((tokens, 48))
        pre[:, STRONG] += 2 * everywhere
        pre[:, LOCAL] += bursts[0]
        pre[:, GUEST] += bursts[1] + (0 if name == "c" else 3 * guest)
        ledgers.append(
            write_activations(folder / name, pre.astype(np.float16), name=name, block_tokens=BLOCK)
        )
    files = []
    for a, b in itertools.combinations(ledgers, 2):
        part = folder / f"{a.parent.name}{b.parent.name}"
        files += correlate_pair(part, a, b, draws=199, top=48)
    return load_pairs(files), ledgers


def test_families_of_few_blocks_are_less_stable(uneven: tuple[list[Pair], list[Path]]) -> None:
    """Stability is the share of resamplings that hold the block in which a family is one."""
    pairs, ledgers = uneven
    table, _ = clusters.find_clusters(pairs, open_all(ledgers), clusters.Settings())
    own = table[table["size"] == 3].assign(number=table["layer"] * 24 + table["neuron"])
    stability = own.groupby("number")["stability"].first()
    assert (own.groupby("number").size().loc[[STRONG, LOCAL, GUEST]] == 3).all()
    held = 1 - (1 - 1 / BLOCKS) ** BLOCKS  # 0.64
    assert stability[STRONG] == 1
    assert stability[LOCAL] == pytest.approx(held, abs=0.1)
    assert stability[GUEST] == pytest.approx(held + (1 - held) * 2 / 3, abs=0.05)  # two of three remain
    other, _ = clusters.find_clusters(pairs, open_all(ledgers), clusters.Settings(seed=1))
    assert not table["stability"].equals(other["stability"])


def test_stability_is_that_of_tokens_resampled_one_by_one(uneven: tuple[list[Pair], list[Path]]) -> None:
    """Here candidates are all pairs near the threshold; tokens are those of the same resampled blocks."""
    pairs, ledgers = uneven
    settings = clusters.Settings(bootstraps=40, candidates=48, seed=5)
    table, _ = clusters.find_clusters(pairs, open_all(ledgers), settings)
    values = {ledger.parent.name: stored_post(ledger, "linear") for ledger in ledgers}
    whole = {(a, b): pearson(values[a], values[b]) for a, b in itertools.combinations("abc", 2)}
    generator = np.random.default_rng(derive_seed(5, "neurons.clusters", "bootstrap"))
    threshold = [match.threshold for match in clusters.mutual_best(pairs, settings.q)]
    families = [
        {(row.model, row.layer * 24 + row.neuron) for row in part.itertuples()}
        for _, part in table.groupby("cluster")
    ]
    overlap = np.zeros((settings.bootstraps, len(families)))
    for r, drawn in enumerate(generator.multinomial(BLOCKS, np.full(BLOCKS, 1 / BLOCKS), size=40)):
        again = np.repeat(np.arange(BLOCKS * BLOCK), np.repeat(drawn, BLOCK))
        edges = []
        for pair, least in zip(pairs, threshold, strict=True):
            corr = pearson(values[pair.a][again], values[pair.b][again])
            corr[whole[pair.a, pair.b] <= least[:, None] - clusters.MARGIN] = -1
            for i, j in enumerate(corr.argmax(1)):
                if corr[:, j].argmax() == i and corr[i, j] > least[i]:
                    edges.append(((pair.a, i), (pair.b, int(j))))
        found = [set(part) for part in clusters.components(edges)]
        overlap[r] = [max(len(one & part) / len(one | part) for part in found) for one in families]
    stability = table.groupby("cluster")["stability"].first()
    np.testing.assert_allclose(stability, overlap.mean(0), atol=1e-12)
    assert stability.min() < 0.7 < stability.max()


def test_families_of_models_of_three_shapes(tmp_path: Path) -> None:
    """Of 2 x 24, 3 x 24 and 2 x 16 neurons, each pair compared: families are found where they are."""
    shapes = {"a": (2, 24), "b": (3, 24), "c": (2, 16)}
    rng = np.random.default_rng(8)
    families = rng.standard_normal((5, 1280))
    planted: list[set[tuple[str, int, int]]] = [set() for _ in families]
    ledgers = []
    for name, (layers, d_mlp) in shapes.items():
        pre = rng.standard_normal((1280, layers * d_mlp))
        for family, own, number in zip(
            families, planted, rng.choice(pre.shape[1], len(families), replace=False), strict=True
        ):
            pre[:, number] += 3 * family
            own.add((name, *map(int, divmod(number, d_mlp))))
        ledgers.append(write_activations(tmp_path / name, pre.astype("float16"), name=name, layers=layers))
    files = []
    for a, b in itertools.combinations(ledgers, 2):
        files += correlate_pair(tmp_path / f"{a.parent.name}{b.parent.name}", a, b, draws=199)
    settings = clusters.Settings(bootstraps=10)
    table, edges = clusters.find_clusters(load_pairs(files), open_all(ledgers), settings)
    found = [
        {(row.model, row.layer, row.neuron) for row in part.itertuples()}
        for _, part in table[table["size"] == 3].groupby("cluster")
    ]
    assert all(family in found for family in planted)
    for side in "ab":
        for row in edges.itertuples():
            layers, d_mlp = shapes[getattr(row, f"model_{side}")]
            assert getattr(row, f"layer_{side}") < layers
            assert getattr(row, f"neuron_{side}") < d_mlp


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

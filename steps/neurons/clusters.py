"""Families of the same neuron across models, and how stable they are.

Reads the correlation files of all pairs and the activations of all models. Two neurons of different
models are joined by an edge when each is the other's best match and their correlation is above the
rotation null (Benjamini-Hochberg over all mutual best matches). A cluster is a connected component of
at least two neurons. Its stability is the mean over bootstraps of token blocks of its best Jaccard
overlap with a cluster of the resampled graph; only the kept candidate pairs are correlated again.

Writes two parquet tables. ``clusters``: a row per member with ``cluster`` (0 is the largest), ``size``,
``models``, ``stability``, ``mean_corr`` (over the cluster's edges), ``model``, ``layer``, ``neuron``.
``edges``: ``model_a``, ``layer_a``, ``neuron_a``, ``model_b``, ``layer_b``, ``neuron_b``, ``corr``,
``adjusted_p_value``, ``cluster``.

The edge rule is ours; the paper describes families by hand. Stability after Hennig, "Cluster-wise
assessment of cluster stability", 2007.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from steps.core.devices import Device
from steps.core.digest import seed as derive_seed
from steps.core.runner import Output, progress, run
from steps.core.settings import Settings as BaseSettings
from steps.core.statistics import adjusted_p_values, discovered, p_values
from steps.core.stores import write_table
from steps.neurons.activations.store import (
    Activations,
    Arithmetic,
    PostActivations,
    Precision,
    arithmetic,
    open_all,
)
from steps.neurons.correlations.pairs import Pair, load_pairs, require_sources

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch


Neuron = tuple[str, int]
"""A model's name and the number of one of its neurons."""


MARGIN = 0.1
"""Candidates further than this below the null's threshold are left out: resampling makes edges of them only
where a few blocks hold all of a neuron's variance."""


MOST_RUNS = 256
"""Into how many runs the token blocks are put together at most, which are then resampled: it bounds the
memory of their sums."""


class Settings(BaseSettings):
    """How clusters are found and their stability is measured."""

    q: float = Field(0.05, gt=0, lt=1, description="false discovery rate of edges")
    bootstraps: int = Field(200, ge=1, le=100_000, description="resamplings of token blocks")
    candidates: int = Field(
        3, ge=1, le=1000, description="best partners of each neuron that are correlated again"
    )
    seed: int = Field(0, ge=0, description="of the bootstraps")
    precision: Precision = Field("float32", description="of products; float32 for the 16-bit ones")
    device: Device = Field("cpu", description="where candidates are correlated again")
    threads: int = Field(1, ge=1, description="arithmetic threads")


@dataclasses.dataclass
class Matches:
    """The mutual best matches of a pair of models, and what a correlation must exceed to be an edge.

    Attributes:
        row, column: neurons of model a and b that are each other's best match.
        corr: their correlation.
        adjusted: their adjusted p-value.
        threshold: ``[neurons of a]``, what a correlation of that neuron must exceed.
    """

    row: np.ndarray
    column: np.ndarray
    corr: np.ndarray
    adjusted: np.ndarray
    threshold: np.ndarray


def mutual_best(pairs: list[Pair], q: float) -> list[Matches]:
    """The mutual best matches of each pair, tested together at false discovery rate ``q``."""
    import numpy as np

    found, p = [], []
    for pair in pairs:
        column = pair.row_top_index[:, 0]
        row = np.arange(len(column))
        mutual = (pair.column_top_index[column, 0] == row) & pair.matched
        row, column = row[mutual], column[mutual]
        corr = pair.row_top_value[row, 0]
        found.append((row, column, corr))
        p.append(p_values(corr, pair.rotated_max[:, row]))
    together = np.concatenate(p)
    adjusted = adjusted_p_values(together)
    passed = together[discovered(adjusted, q)]
    matches = []
    each = np.split(adjusted, np.cumsum([len(part) for part in p])[:-1])
    for pair, (row, column, corr), values in zip(pairs, found, each, strict=True):
        draws = len(pair.rotated_max)
        threshold = np.full(pair.neurons[0], np.inf)
        if len(passed):
            # The largest p-value that passes allows this many draws to be at least as large.
            allowed = round(passed.max() * (draws + 1)) - 1
            threshold = np.full(pair.neurons[0], -np.inf)
            if allowed < draws:
                threshold = np.sort(pair.rotated_max, axis=0)[draws - 1 - allowed]
        matches.append(Matches(row, column, corr, values, threshold))
    return matches


def components(edges: list[tuple[Neuron, Neuron]]) -> list[list[Neuron]]:
    """Connected components, each sorted, of a graph given by its edges."""
    import networkx as nx

    return [sorted(part) for part in nx.connected_components(nx.Graph(edges))]


def candidate_pairs(pair: Pair, threshold: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pairs worth correlating again: the best of each neuron in either view."""
    import numpy as np

    count = min(count, pair.row_top_index.shape[1], pair.column_top_index.shape[1])
    row = np.repeat(np.arange(pair.neurons[0]), count)
    column = np.repeat(np.arange(pair.neurons[1]), count)
    rows = np.concatenate([row, pair.column_top_index[:, :count].reshape(-1)])
    columns = np.concatenate([pair.row_top_index[:, :count].reshape(-1), column])
    values = np.concatenate([pair.row_top_value[:, :count], pair.column_top_value[:, :count]]).reshape(-1)
    keep = values > threshold[rows] - MARGIN
    chosen = np.unique(np.stack([rows[keep], columns[keep]]), axis=1)
    return chosen[0], chosen[1]


class BlockSums:
    """Sums per run of token blocks from which correlations under any weighting of the runs follow."""

    def __init__(
        self,
        sources: dict[str, Activations],
        wanted: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]],
        precision: Arithmetic,
        device: str = "cpu",
    ) -> None:
        import numpy as np

        posts = {name: PostActivations(source, precision, device=device) for name, source in sources.items()}
        blocks = next(iter(sources.values())).blocks
        runs = min(blocks, MOST_RUNS)
        self.wanted = wanted
        self.count = np.zeros(runs)
        self.total = {name: np.zeros((runs, source.neurons)) for name, source in sources.items()}
        self.square = {name: np.zeros((runs, source.neurons)) for name, source in sources.items()}
        self.product = {key: np.zeros((runs, len(rows))) for key, (rows, _) in wanted.items()}
        for k in progress(range(blocks), blocks, "blocks of candidate pairs"):
            run = k * runs // blocks
            values = {name: post.block(k).T.contiguous() for name, post in posts.items()}
            self.count[run] += next(iter(values.values())).shape[1]
            for name, part in values.items():
                self.total[name][run] += part.double().sum(1).cpu().numpy()
                self.square[name][run] += _row_products(part, part)
            for (a, b), (rows, columns) in wanted.items():
                self.product[a, b][run] += _row_products(values[a], values[b], rows, columns)

    def correlations(self, weights: np.ndarray, key: tuple[str, str]) -> np.ndarray:
        """Correlations ``[bootstraps, candidates]`` under weights ``[bootstraps, runs]``."""
        import numpy as np

        rows, columns = self.wanted[key]
        count = (weights @ self.count)[:, None]
        sides = []
        for name, neurons in zip(key, (rows, columns), strict=True):
            mean = weights @ self.total[name][:, neurons] / count
            centred = weights @ self.square[name][:, neurons] - count * mean**2
            sides.append((mean, np.sqrt(np.maximum(centred, 0))))
        (mean_a, norm_a), (mean_b, norm_b) = sides
        covariance = weights @ self.product[key] - count * mean_a * mean_b
        scale = norm_a * norm_b
        result: np.ndarray = np.divide(covariance, scale, out=np.zeros_like(covariance), where=scale > 0)
        return result


def _row_products(
    a: torch.Tensor, b: torch.Tensor, rows: np.ndarray | None = None, columns: np.ndarray | None = None
) -> np.ndarray:
    """Inner products of rows ``rows`` of ``a`` with rows ``columns`` of ``b`` (all, in order, by default)."""
    import numpy as np
    import torch

    count = len(a) if rows is None else len(rows)
    result = np.empty(count)
    step = 256  # rows at once: the gathered copies stay in the cache
    for start in range(0, count, step):
        part = slice(start, start + step)
        left = a[part] if rows is None else a[torch.from_numpy(rows[part]).to(a.device)]
        right = b[part] if columns is None else b[torch.from_numpy(columns[part]).to(b.device)]
        result[part] = torch.linalg.vecdot(left, right).double().cpu().numpy()
    return result


def resampled_edges(
    corr: np.ndarray, rows: np.ndarray, columns: np.ndarray, pair: Pair, threshold: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Candidates that are mutual best matches above the threshold, for one resampling's correlations."""
    import numpy as np

    best_row = np.full(pair.neurons[0], -np.inf)
    best_column = np.full(pair.neurons[1], -np.inf)
    np.maximum.at(best_row, rows, corr)
    np.maximum.at(best_column, columns, corr)
    keep = (corr >= best_row[rows]) & (corr >= best_column[columns]) & (corr > threshold[rows])
    return rows[keep], columns[keep]


def stabilities(
    clusters: list[list[Neuron]],
    pairs: list[Pair],
    matches: list[Matches],
    sums: BlockSums,
    settings: Settings,
) -> np.ndarray:
    """Mean over bootstraps of each cluster's best Jaccard overlap."""
    import numpy as np

    blocks = len(sums.count)
    generator = np.random.default_rng(derive_seed(settings.seed, "neurons.clusters", "bootstrap"))
    weights = generator.multinomial(blocks, np.full(blocks, 1 / blocks), size=settings.bootstraps).astype(
        float
    )
    corr = {key: sums.correlations(weights, key) for key in sums.wanted}
    overlap = np.zeros(len(clusters))
    for r in range(settings.bootstraps):
        edges: list[tuple[Neuron, Neuron]] = []
        for pair, match in zip(pairs, matches, strict=True):
            key = (pair.a, pair.b)
            rows, columns = resampled_edges(corr[key][r], *sums.wanted[key], pair, match.threshold)
            edges += [((pair.a, int(i)), (pair.b, int(j))) for i, j in zip(rows, columns, strict=True)]
        overlap += best_jaccard(clusters, components(edges))
    return overlap / settings.bootstraps


def best_jaccard(clusters: list[list[Neuron]], others: list[list[Neuron]]) -> np.ndarray:
    """For each cluster the largest Jaccard overlap with one of ``others`` (disjoint among themselves)."""
    import collections

    import numpy as np

    home = {neuron: number for number, other in enumerate(others) for neuron in other}
    result = np.zeros(len(clusters))
    for number, cluster in enumerate(clusters):
        shared = collections.Counter(home[neuron] for neuron in cluster if neuron in home)
        result[number] = max(
            (common / (len(cluster) + len(others[other]) - common) for other, common in shared.items()),
            default=0.0,
        )
    return result


def find_clusters(
    pairs: list[Pair], sources: dict[str, Activations], settings: Settings
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables ``clusters`` and ``edges`` of the module's docstring."""
    matches = mutual_best(pairs, settings.q)
    rows = []
    for pair, match in zip(pairs, matches, strict=True):
        columns = (match.row, match.column, match.corr, match.adjusted)
        edges_here = discovered(match.adjusted, settings.q)
        for i, j, corr, p in zip(*(values[edges_here] for values in columns), strict=True):
            rows.append(((pair.a, int(i)), (pair.b, int(j)), float(corr), float(p)))
    found = components([(a, b) for a, b, _, _ in rows])
    home = {neuron: number for number, cluster in enumerate(found) for neuron in cluster}
    corr_of: dict[int, list[float]] = {}
    for a, _, corr, _ in rows:
        corr_of.setdefault(home[a], []).append(corr)
    mean = {number: sum(values) / len(values) for number, values in corr_of.items()}
    order = sorted(range(len(found)), key=lambda c: (-len(found[c]), -mean[c], found[c]))
    rank = {number: place for place, number in enumerate(order)}
    clusters = [found[number] for number in order]
    stability = []
    if clusters:
        wanted = {
            (pair.a, pair.b): candidate_pairs(pair, match.threshold, settings.candidates)
            for pair, match in zip(pairs, matches, strict=True)
        }
        sums = BlockSums(sources, wanted, arithmetic(settings.precision), settings.device)
        stability = stabilities(clusters, pairs, matches, sums, settings).tolist()
    d_mlp = {name: source.d_mlp for name, source in sources.items()}
    members = [
        (
            *(place, len(cluster), len({m for m, _ in cluster}), stability[place], mean[order[place]]),
            *(model, number // d_mlp[model], number % d_mlp[model]),
        )
        for place, cluster in enumerate(clusters)
        for model, number in cluster
    ]
    names = ["cluster", "size", "models", "stability", "mean_corr", "model", "layer", "neuron"]
    edges = [
        (
            *(a[0], a[1] // d_mlp[a[0]], a[1] % d_mlp[a[0]]),
            *(b[0], b[1] // d_mlp[b[0]], b[1] % d_mlp[b[0]]),
            *(corr, p, rank[home[a]]),
        )
        for a, b, corr, p in rows
    ]
    ends = [f"{part}_{end}" for end in "ab" for part in ("model", "layer", "neuron")]
    edge_names = [*ends, "corr", "adjusted_p_value", "cluster"]
    return _frame(members, names), _frame(edges, edge_names)


def _frame(rows: Sequence[tuple[object, ...]], names: list[str]) -> pd.DataFrame:
    """A table whose column types do not depend on whether it has rows."""
    import pandas as pd

    kinds = dict.fromkeys(["stability", "mean_corr", "corr", "adjusted_p_value"], "float64")
    kinds |= dict.fromkeys(["model", "model_a", "model_b"], "str")
    table = pd.DataFrame(rows, columns=names)
    return table.astype({name: kinds.get(name, "int32") for name in names})


def main(
    correlations: list[Path], activations: list[Path], settings: Settings, clusters: Output, edges: Output
) -> None:
    """Find clusters and measure their stability."""
    pairs = load_pairs(correlations)
    sources = open_all(activations)
    require_sources(pairs, sources)
    cluster_table, edge_table = find_clusters(pairs, sources, settings)
    write_table(cluster_table, clusters)
    write_table(edge_table, edges)


if __name__ == "__main__":
    run(main)

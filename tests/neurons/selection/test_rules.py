"""The rules on made-up tables: strict limits, kurtosis first, ties, missing values."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from steps.neurons.selection import rules
from steps.neurons.selection.rules import ENTROPY, entropy_columns, entropy_ranks, roles


def frame(rows: list[tuple[float, float, float]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["vocab_kurt", "vocab_skew", "vocab_var"])


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ((10.001, 0.1, 0.1), "prediction"),  # kurtosis decides before variance
        ((10.001, -0.1, 0.0), "suppression"),
        ((10.001, 0.0, 0.1), ""),
        ((10.0, 1.0, 0.0), ""),
        ((10.0, 1.0, 0.0051), "partition"),
        ((2.0, 0.0, 0.005), ""),
        ((np.nan, np.nan, np.nan), ""),
        ((np.nan, 1.0, 0.006), ""),  # whose kurtosis is not known has no role
        ((np.inf, 1.0, 0.0), ""),
        ((-np.inf, 1.0, 0.006), ""),
        ((11.0, np.inf, 0.0), ""),
        ((2.0, 1.0, np.inf), ""),
    ],
)
def test_roles(row: tuple[float, float, float], expected: str) -> None:
    assert roles(frame([row])).tolist() == [expected]


def test_the_width_free_rule_is_the_papers_at_the_width_of_gpt2_medium() -> None:
    rng = np.random.default_rng(0)
    table = frame(
        list(zip(rng.uniform(2, 14, 500), rng.normal(size=500), rng.uniform(0, 0.01, 500), strict=True))
    )
    table["d_model"] = 1024
    np.testing.assert_array_equal(roles(table), roles(table, times_width=True))
    table["d_model"] = 64
    assert (roles(table, times_width=True) == "partition").sum() == 0


def candidates() -> pd.DataFrame:
    base = {"layer": 23, "l2_penalty": 2.0, "vocab_var": 0.0005, "vocab_kurt": 3.0, "kurt": 3.0}
    changed: list[dict[str, float]] = [
        {"vocab_var": 0.0002},
        {},
        {"layer": 22},  # a tie with the one before, in an earlier layer
        {"layer": 21},
        {"l2_penalty": 0.99},
        {"l2_penalty": 1.0, "vocab_var": 0.001, "vocab_kurt": 8.0, "kurt": 10.0},  # limits are inclusive
        {"vocab_var": 0.00101},
        {"vocab_kurt": 8.01},
        {"kurt": 10.01},
        {"kurt": np.nan},
        {"vocab_var": np.nan},
    ]
    rows = [{**base, "neuron": place, **change} for place, change in enumerate(changed)]
    return pd.DataFrame(rows)


def test_entropy_query_of_medium_models_in_the_papers_order() -> None:
    ranks = entropy_ranks(candidates(), ENTROPY["medium"])
    assert ranks.fillna(0).tolist() == [1, 3, 2, 0, 0, 4, 0, 0, 0, 0, 0]


def test_queries_name_what_they_need() -> None:
    assert "kurt" not in entropy_columns(ENTROPY["pythia"])
    assert set(entropy_columns(ENTROPY["small"])) == {
        "layer",
        "l2_penalty",
        "vocab_var",
        "vocab_kurt",
        "kurt",
    }
    for query in ENTROPY.values():
        for column in entropy_columns(query):
            table = candidates().assign(d_model=1024, layers=24).drop(columns=column)
            with pytest.raises(KeyError):
                entropy_ranks(table, query)


def test_width_free_query_ranks_within_each_model() -> None:
    rng = np.random.default_rng(1)
    parts = []
    for name, d_model, layers in (("a", 64, 2), ("b", 256, 12)):
        for layer in range(layers):
            columns = {
                "l2_penalty": rng.uniform(0, 1, 50) * d_model,
                "vocab_var": rng.uniform(0.5, 1.5, 50) / d_model,
            }
            sizes = {"model": name, "layer": layer, "d_model": d_model, "layers": layers}
            columns |= {"neuron": np.arange(50), "vocab_kurt": 3.0, "kurt": 3.0}
            parts.append(pd.DataFrame(sizes | columns))
    table = pd.concat(parts, ignore_index=True)
    ranks = entropy_ranks(table, ENTROPY["width_free"])
    for name in "ab":
        chosen = table[(table["model"] == name) & ranks.notna()]
        own = table[table["model"] == name]
        assert (chosen["layer"] >= 0.9 * (own["layers"].iloc[0] - 1)).all()
        assert (chosen["l2_penalty"] > np.percentile(own["l2_penalty"], 89)).all()
        assert (chosen["vocab_var"] * chosen["d_model"] <= 1.02).all()
        assert sorted(ranks[chosen.index]) == list(range(1, len(chosen) + 1))
        assert chosen.assign(rank=ranks).sort_values("rank")["vocab_var"].is_monotonic_increasing
        assert len(chosen) > 0
    assert rules.ROLES == ("prediction", "suppression", "partition")


@pytest.mark.parametrize("column", ["vocab_var", "vocab_kurt", "kurt", "l2_penalty"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_is_no_candidate(column: str, value: float) -> None:
    table = candidates().head(2).astype(float)
    table.loc[0, column] = value
    assert entropy_ranks(table, ENTROPY["medium"]).fillna(0).tolist() == [0, 1]

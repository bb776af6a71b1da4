"""Planted prediction, suppression, partition and entropy neurons are found, decoys are not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from steps.core.errors import UserError
from steps.core.runner import Output
from steps.neurons import roles, transformer, weights
from steps.neurons.features import Features
from steps.neurons.roles import Settings
from tests.neurons.planted_weights import (
    CLASS,
    ENTROPY,
    PARTITION,
    PREDICTION,
    SUPPRESSION,
    VOCABULARY,
    planted_model,
)

MADE: dict[int, pd.DataFrame] = {}


def planted_table(seed: int) -> pd.DataFrame:
    """The weight columns of a planted model, with a made-up activation kurtosis."""
    if seed not in MADE:
        reader = transformer.Reader(planted_model(seed))
        ends = transformer.processed_ends(reader.ends(), reader.facts)
        rng = np.random.default_rng(seed)
        number = np.arange(VOCABULARY)
        matrix = np.column_stack(
            [
                np.isin(number, CLASS),
                number % 2 == 1,
                rng.random(VOCABULARY) < 0.5,
                rng.random(VOCABULARY) < 0.02,
            ]
        )
        features = Features(["the class", "odd", "half", "few"], ["t"] * 4, matrix)
        texts = [str(n) for n in number]
        table, _ = weights.model_tables("a", reader, features, texts, weights.Settings(), ends)
        MADE[seed] = table.assign(kurt=3.0)
    return MADE[seed].copy()


@pytest.mark.parametrize("seed", range(20))
def test_planted_neurons_have_their_roles_and_no_other_neuron_has_one(seed: int) -> None:
    found = roles.role_table(planted_table(seed), "width_free")
    last = found["layer"] == 2
    for role, numbers in (("prediction", PREDICTION), ("suppression", SUPPRESSION), ("partition", PARTITION)):
        planted = last & found["neuron"].isin(numbers)
        assert (found.loc[planted, "role_width_free"] == role).all()
        assert not (found.loc[~planted, "role_width_free"] == role).any()
        if role != "partition":
            assert ((found["role"] == role) == planted).all()
    # Cosines of random vectors vary by 1/64, which the paper's limit, for width 1024, takes for partition.
    assert (found["role"] == "partition").sum() > 100
    labels = found[last].set_index("neuron")
    assert (labels.loc[list(PREDICTION), "best_feature"] == "the class").all()
    assert (labels.loc[list(PREDICTION), "best_feature_sign"] == 1).all()
    assert (labels.loc[list(SUPPRESSION), "best_feature"] == "the class").all()
    assert (labels.loc[list(SUPPRESSION), "best_feature_sign"] == -1).all()
    assert (labels.loc[list(PARTITION), "best_feature"] == "odd").all()
    ranks = labels["entropy_rank"]
    assert set(ranks[list(ENTROPY)]) == {1, 2}
    assert labels.loc[ENTROPY.start, "partner_neuron"] == ENTROPY.start + 1
    assert labels.loc[ENTROPY.start, "partner_cos"] < -0.9
    assert labels.loc[list(PREDICTION), "partner_cos"].isna().all()


def test_depth_counts_every_layer() -> None:
    table = roles.role_table(planted_table(0), "width_free")
    depth = roles.depth_table(table)
    assert depth["depth"].tolist() == [0, 0.5, 1]
    assert depth["prediction[role]"].tolist() == [0, 0, len(PREDICTION)]
    assert depth["partition[role_width_free]"].tolist() == [0, 0, len(PARTITION)]
    assert depth["high_kurtosis"].tolist() == [0, 0, len(PREDICTION) + len(SUPPRESSION)]
    last = table[table["layer"] == 2]
    assert depth["vocab_kurt[90]"].iloc[-1] == pytest.approx(np.percentile(last["vocab_kurt"], 90))


def write(
    folder: Path, table: pd.DataFrame, activity: pd.DataFrame | None, **settings: object
) -> dict[str, Path]:
    names = ["roles.parquet", "depth.parquet", "roles.svg", "roles.json", "depth.svg", "depth.json"]
    out = {name: folder / name for name in names}
    table.drop(columns="kurt").to_parquet(folder / "weights.parquet", index=False)
    neurons = []
    if activity is not None:
        neurons = [folder / "neurons.parquet"]
        activity.to_parquet(neurons[0], index=False)
    roles.main(folder / "weights.parquet", neurons, Settings(**settings), *map(Output, out.values()))
    return out


def activity(table: pd.DataFrame, universal: list[int]) -> pd.DataFrame:
    known = table[["model", "layer", "neuron", "kurt"]].copy()
    in_set = (known["layer"] == 2) & known["neuron"].isin(universal)
    return known.assign(excess_corr=0.1, universal=in_set, privileged_basis=False, constant=False)


def test_share_of_universal_neurons_with_a_role(tmp_path: Path) -> None:
    table = planted_table(0)
    universal = [*PREDICTION, *SUPPRESSION, 40]
    out = write(tmp_path, table, activity(table, universal), universal_set="half")
    data = json.loads(out["roles.json"].read_text())
    assert data["role_width_free"]["universal"] == {
        "prediction": 5,
        "suppression": 4,
        "partition": 0,
        "none": 1,
    }
    assert data["first_layer"] == 2
    assert "10 universal neurons" in data["set"]
    counts = roles.metrics(pd.read_parquet(out["roles.parquet"]))
    assert counts["prediction"] == 5
    assert counts["suppression"] == 4
    assert counts["partition_width_free"] == 4
    assert counts["entropy_candidates"] >= 2


def test_an_empty_set_draws_a_figure_that_says_so(tmp_path: Path) -> None:
    table = planted_table(0)
    out = write(tmp_path, table, activity(table, []), universal_set="calibrated")
    assert "no universal neurons here" in out["roles.svg"].read_text()
    assert sum(json.loads(out["roles.json"].read_text())["role"]["universal"].values()) == 0


def test_weights_alone_are_enough_for_the_query_that_needs_no_activations(tmp_path: Path) -> None:
    table = planted_table(0)
    out = write(tmp_path, table, None, entropy_query="pythia", activations=False)
    found = pd.read_parquet(out["roles.parquet"])
    assert found["role"].notna().all()
    assert "entropy_rank[small]" not in found
    with pytest.raises(UserError, match="needs the activation kurtosis"):
        write(tmp_path, table, None, entropy_query="small")

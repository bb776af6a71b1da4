"""Planted prediction, suppression, partition and entropy neurons are found, decoys are not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from steps.core.errors import UserError
from steps.core.runner import Output
from steps.interp import weights as interp_weights
from steps.neurons import roles, weights
from steps.neurons.explanations.features import Features
from steps.neurons.figures import roles as roles_figure
from steps.neurons.roles import Settings
from steps.neurons.selection import rules
from steps.neurons.selection.rules import ENTROPY as QUERIES
from steps.neurons.selection.rules import ROLES, entropy_test, null_space_p
from tests.neurons.planted import draw_figure
from tests.neurons.planted_weights import (
    CLASS,
    ENTROPY,
    PARTITION,
    PREDICTION,
    SUPPRESSION,
    VOCABULARY,
    WIDTH,
    planted_model,
)

MADE: dict[int, pd.DataFrame] = {}


def planted_table(seed: int) -> pd.DataFrame:
    """The weight columns of a planted model, with a made-up activation kurtosis."""
    if seed not in MADE:
        reader = interp_weights.WeightReader(planted_model(seed))
        ends = interp_weights.processed_ends(reader.ends(), reader.facts)
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
    found = roles.role_table(planted_table(seed), Settings())
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
    assert labels.loc[list(ENTROPY), "entropy"].all()
    assert (labels["null_space_k"] == 12).all()
    assert labels.loc[ENTROPY.start, "partner_neuron"] == ENTROPY.start + 1
    assert labels.loc[ENTROPY.start, "partner_cos"] < -0.9
    assert labels.loc[list(PREDICTION), "partner_cos"].isna().all()


@pytest.mark.parametrize("q", [0.05, 0.3])
def test_calls_of_entropy_neurons_keep_the_false_discovery_rate(q: float) -> None:
    """Ranks do not: what a query leaves is half random directions."""
    proportions, ranked, false, tested = [], 0, 0, 0
    for seed in range(20):
        found = roles.role_table(planted_table(seed), Settings(q=q))
        planted = (found["layer"] == 2) & found["neuron"].isin(ENTROPY)
        assert found.loc[planted, "entropy"].all()
        proportions.append((found["entropy"] & ~planted).sum() / found["entropy"].sum())
        ranked += (found["entropy_rank"].notna() & ~planted).sum()
        false += found["entropy"].sum() - planted.sum()
        tested += (found["entropy_p_adjusted"].notna() & ~planted).sum()
    assert np.mean(proportions) <= q
    assert ranked > 40
    assert tested > 60
    assert q < 0.1 or false > 0  # the rate is spent where it is large


def test_without_planted_neurons_few_models_have_an_entropy_neuron() -> None:
    """Where all is random, any call is false: in at most a share q of models.

    Kurtosis over the vocabulary follows from the direction: a test of those of small kurtosis would here see
    the directions of a large part in the null space only.
    """
    width, d_model, rng = 100, 64, np.random.default_rng(5)
    models = 400
    directions = rng.standard_normal((models * width, d_model))
    directions -= directions.mean(1, keepdims=True)
    null = np.linalg.qr(np.column_stack([np.ones(d_model), rng.standard_normal((d_model, 12))]))[0][:, 1:]
    fraction = np.linalg.norm(directions @ null, axis=1) / np.linalg.norm(directions, axis=1)
    table = pd.DataFrame(
        {
            "model": np.repeat(np.arange(models), width),
            "layer": 0,
            "layers": 1,
            "d_model": d_model,
            "l2_penalty": rng.random(models * width),
            "vocab_var": rng.random(models * width),  # any: the test does not look at it
            "vocab_kurt": np.where(fraction > np.median(fraction), 3.0, 30.0),
            "kurt": 3.0,
            "null_space_fraction": fraction,
            "null_space_k": 12,
            "null_space_chance": (12 / 63) ** 0.5,
        }
    )
    p, adjusted = entropy_test(table, QUERIES["width_free"])
    for level in (0.01, 0.05, 0.3, 0.9):
        assert (p <= level).mean() == pytest.approx(level, abs=4 * (level * (1 - level) / len(p)) ** 0.5)
    tested = table.assign(adjusted=adjusted).dropna(subset="adjusted")
    assert (tested.groupby("model").size() == 10).all()
    for q in (0.05, 0.3):
        share = (tested.groupby("model")["adjusted"].min() <= q).mean()
        assert share == pytest.approx(q, abs=4 * (q * (1 - q) / models) ** 0.5)


def test_a_null_space_that_is_all_there_is_says_nothing() -> None:
    p = null_space_p(np.array([1.0, np.nan]), np.array([4.0, 4]), np.array([1.0, 1]))
    assert p[0] == 1
    assert np.isnan(p[1])


def test_depth_counts_every_layer() -> None:
    table = roles.role_table(planted_table(0), Settings())
    depth = roles.depth_table(table)
    assert depth["depth"].tolist() == [0, 0.5, 1]
    assert depth["prediction[role]"].tolist() == [0, 0, len(PREDICTION)]
    assert depth["partition[role_width_free]"].tolist() == [0, 0, len(PARTITION)]
    assert depth["high_kurtosis"].tolist() == [0, 0, len(PREDICTION) + len(SUPPRESSION)]
    last = table[table["layer"] == 2]
    heavy = last.loc[last["neuron"].isin([*PREDICTION, *SUPPRESSION]), "vocab_skew"]
    assert depth["high_kurtosis_skew[50]"].iloc[-1] == pytest.approx(heavy.median())
    assert depth["high_kurtosis_skew[50]"].iloc[:2].isna().all()
    assert depth["vocab_kurt[90]"].iloc[-1] == pytest.approx(np.percentile(last["vocab_kurt"], 90))


def profile(model: str, layers: int, median: np.ndarray) -> pd.DataFrame:
    """A depth table whose other columns are straight lines over relative depth."""
    depth = np.arange(layers) / (layers - 1)
    columns: dict[str, object] = {"model": model, "layer": np.arange(layers), "depth": depth}
    for place, p in enumerate(roles_figure.PERCENTILES):
        columns |= {f"vocab_kurt[{p}]": 3 + place * depth, f"vocab_skew[{p}]": place * depth}
        columns[f"high_kurtosis_skew[{p}]"] = median + place - 3
    columns |= {"neurons": 10, "high_kurtosis": np.where(np.isnan(median), 0, 3)}
    counts = {f"{role}[{rule}]": 4 * depth for role in ROLES for rule in ("role", "role_width_free")}
    return pd.DataFrame(columns | counts)


def test_models_of_different_depth_have_one_smooth_mean() -> None:
    """Straight lines stay straight: no layer of one model is averaged without the other models."""
    flip = np.where(np.arange(11) < 9, 1.0, -1.0)
    flip[:4] = np.nan
    depth = pd.concat(
        [
            profile("a", 11, flip),
            profile("b", 4, np.array([1.0, 1, 1, 2])),
            profile("c", 2, np.array([-1.0] * 2)),
        ]
    )
    mean = roles_figure.mean_over_models(depth)
    assert mean.index.tolist() == pytest.approx(np.linspace(0, 1, 11))
    np.testing.assert_allclose(mean["vocab_kurt[95]"], 3 + 6 * mean.index)
    np.testing.assert_allclose(mean["prediction[role]"], 4 * mean.index)
    figure, data = roles_figure.draw_depth(depth)
    assert data["vocab_skew[50]"] == pytest.approx(3 * np.linspace(0, 1, 11))
    own = data["high_kurtosis"]
    assert [own[name]["turns_negative"] for name in "abc"] == [pytest.approx(0.9), None, None]
    assert own["a"]["median_skew"] == [None] * 4 + [1.0] * 5 + [-1.0] * 2
    assert own["a"]["neurons"] == [0] * 4 + [3] * 7
    texts = [text.get_text() for text in figure.axes[4].get_legend().get_texts()]
    assert texts == ["a, negative from 0.9 on", "b", "c"]
    empty = [profile(name, layers, np.full(layers, np.nan)) for name, layers in (("a", 3), ("b", 2))]
    figure, _ = roles_figure.draw_depth(pd.concat(empty))
    assert figure.get_supxlabel() == "no neuron has a kurtosis above 10"
    assert len(figure.axes) == 3


def write(
    folder: Path,
    table: pd.DataFrame,
    activity: pd.DataFrame | None,
    universal_set: str = "calibrated",
    **settings: object,
) -> dict[str, Path]:
    """The tables, and the figure ``roles`` with its data, of weights and, where it is known, activity."""
    out = {name: folder / name for name in ("roles.parquet", "depth.parquet")}
    table.drop(columns="kurt").to_parquet(folder / "weights.parquet", index=False)
    neurons = []
    if activity is not None:
        neurons = [folder / "neurons.parquet"]
        activity.to_parquet(neurons[0], index=False)
    roles.main(folder / "weights.parquet", neurons, Settings(**settings), *map(Output, out.values()))
    draw_figure(folder, "roles", [*out.values(), *neurons], universal_set=universal_set)
    return out | {name: folder / name for name in ("roles.svg", "roles.json")}


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
    assert "10 neurons taken as universal" in data["set"]
    found = pd.read_parquet(out["roles.parquet"])
    counts = rules.role_metrics(found)
    assert counts["prediction"] == 5
    assert counts["suppression"] == 4
    assert counts["partition_width_free"] == 4
    assert counts["entropy_candidates"] == found["entropy"].sum() >= 2
    assert counts["entropy_ranked"] == found["entropy_rank"].notna().sum() >= 2


@pytest.fixture(scope="module")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reference a and model b, which has no suppression neurons and other universal ones.

    Of the two entropy neurons, the first of a and the second of b fire rarely and strongly; the second of a
    is just within the limit. The neuron table lists b first.
    """
    a, b = planted_table(0), planted_table(1).assign(model="b")
    b.loc[(b["layer"] == 2) & b["neuron"].isin(SUPPRESSION), "vocab_kurt"] = 3.0
    known = [activity(a, [*PREDICTION, 40]), activity(b, [*SUPPRESSION, *PARTITION])]
    for table, values in zip(known, ((30.0, 10.0), (3.0, 30.0)), strict=True):
        for number, kurt in zip(ENTROPY, values, strict=True):
            table.loc[(table["layer"] == 2) & (table["neuron"] == number), "kurt"] = kurt
    both = pd.concat([a, b], ignore_index=True)
    neurons = pd.concat(known[::-1], ignore_index=True)
    return write(tmp_path_factory.mktemp("two-models"), both, neurons, universal_set="half")


def test_metrics_and_roles_of_universal_neurons_are_of_the_reference(two_models: dict[str, Path]) -> None:
    found = pd.read_parquet(two_models["roles.parquet"])
    counts = rules.role_metrics(found)
    assert counts == rules.role_metrics(found[found["model"] == "a"])
    assert (counts["prediction"], counts["suppression"], counts["partition_width_free"]) == (5, 4, 4)
    data = json.loads(two_models["roles.json"].read_text())
    universal = {"prediction": 5, "suppression": 0, "partition": 0, "none": 1}
    assert data["role_width_free"]["universal"] == universal
    assert sum(data["role_width_free"]["others"].values()) == WIDTH - sum(universal.values())
    assert pd.read_parquet(two_models["depth.parquet"])["model"].tolist() == ["a"] * 3 + ["b"] * 3
    of_b = rules.role_metrics(found[found["model"] == "b"])
    assert of_b["suppression"] == 0
    assert all(counts[name] > 0 and of_b[name] > 0 for name in ("entropy_candidates", "entropy_ranked"))


def test_neurons_that_fire_rarely_and_strongly_are_no_entropy_neurons(two_models: dict[str, Path]) -> None:
    """Each model's neurons have the activation kurtosis of their own."""
    found = pd.read_parquet(two_models["roles.parquet"]).set_index(["model", "layer", "neuron"])
    first, second = ENTROPY
    for decoy, true in ((("a", 2, first), ("a", 2, second)), (("b", 2, second), ("b", 2, first))):
        assert found.loc[decoy, ["entropy_rank", "entropy_p_adjusted"]].isna().all()
        assert not found.loc[decoy, "entropy"]
        assert found.loc[decoy, "null_space_p"] < 1e-4  # by its weights it is one
        assert found.loc[true, "entropy_rank"] == 1
        assert found.loc[true, "entropy"]


def test_an_empty_set_draws_a_figure_that_says_so(tmp_path: Path) -> None:
    table = planted_table(0)
    out = write(tmp_path, table, activity(table, []), universal_set="calibrated")
    assert "no neurons taken as universal" in out["roles.svg"].read_text()
    assert sum(json.loads(out["roles.json"].read_text())["role"]["universal"].values()) == 0


def test_weights_alone_are_enough_for_the_query_that_needs_no_activations(tmp_path: Path) -> None:
    table = planted_table(0)
    out = write(tmp_path, table, None, entropy_query="pythia", activations=False)
    found = pd.read_parquet(out["roles.parquet"])
    assert found["role"].notna().all()
    assert "entropy_rank[small]" not in found
    figure = out["roles.svg"].read_text()
    assert "the excess is not known" in figure
    assert "taken as universal" not in figure
    groups = json.loads(out["roles.json"].read_text())["role_width_free"]
    assert list(groups) == ["all neurons"]
    assert sum(groups["all neurons"].values()) == (table["layer"] == 2).sum()
    with pytest.raises(UserError, match="needs the activation kurtosis"):
        write(tmp_path, table, None, entropy_query="small")


def test_damaged_tables_are_told(tmp_path: Path) -> None:
    table = planted_table(0)
    write(tmp_path, table, activity(table, []))
    outputs = [Output(tmp_path / name) for name in "ab"]
    for name in ("weights.parquet", "neurons.parquet"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[:-40])
        with pytest.raises(UserError, match=f"{name}: unreadable as a parquet table"):
            roles.main(tmp_path / "weights.parquet", [tmp_path / "neurons.parquet"], Settings(), *outputs)
        (tmp_path / name).write_bytes(whole)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("weights", lambda t: t.drop(columns="vocab_skew"), "lacks the column 'vocab_skew'"),
        ("weights", lambda t: t.iloc[:-1], "neurons.parquet: holds model a, layer 2, neuron 47"),
        ("neurons", lambda t: t.drop(columns="kurt"), "lacks the column 'kurt'"),
        ("neurons", lambda t: t.iloc[:-1], "neurons.parquet: lacks model a, layer 2, neuron 47"),
        ("neurons", lambda t: t.assign(model="b"), "neurons.parquet: holds model b, layer 0, neuron 0"),
    ],
)
def test_tables_of_another_kind_or_study_are_refused(
    tmp_path: Path, name: str, change: Callable[[pd.DataFrame], pd.DataFrame], said: str
) -> None:
    table = planted_table(0)
    files = {"weights": table.drop(columns="kurt"), "neurons": activity(table, [])}
    files[name] = change(files[name])
    for file, frame in files.items():
        frame.to_parquet(tmp_path / f"{file}.parquet")
    out = [Output(tmp_path / letter) for letter in "ab"]
    with pytest.raises(UserError, match=said):
        roles.main(tmp_path / "weights.parquet", [tmp_path / "neurons.parquet"], Settings(), *out)

"""Columns from weights against plain numpy, and on planted neurons."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from steps.core.errors import UserError
from steps.core.runner import Output
from steps.core.stores import Folder
from steps.interp import weights as interp_weights
from steps.neurons import weights
from steps.neurons.explanations.features import Features
from steps.neurons.weights import Settings
from tests.language_models.conftest import babble, make_tokenizer, write_corpus
from tests.language_models.tiny_models import keep, tiny_model
from tests.neurons.planted_weights import ENTROPY, WIDTH, planted_model


def labels(vocabulary: int) -> Features:
    rng = np.random.default_rng(3)
    matrix = rng.random((vocabulary, 6)) < [0.5, 0.1, 0.02, 0.9, 0.3, 0.3]
    return Features([f"f{n}" for n in range(6)], ["g"] * 6, matrix)


def tables(model: object, **settings: object) -> tuple[pd.DataFrame, pd.DataFrame]:
    reader = interp_weights.WeightReader(model)
    ends = interp_weights.processed_ends(reader.ends(), reader.facts)
    size = reader.facts.vocabulary
    texts = [f"t{n}" for n in range(size)]
    return weights.model_tables("m", reader, labels(size), texts, Settings(**settings), ends)


@pytest.mark.parametrize("shape", ["gpt2", "gpt_neox", "llama"])
def test_columns_are_what_numpy_says(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "BLOCK_VALUES", 2000)  # several blocks
    model = tiny_model(shape)
    table, effects = tables(model, effects=4, null_space=3)
    whole = interp_weights.processed(interp_weights.read(model, torch.float64))
    w_in = np.concatenate([layer.w_in.T.numpy() for layer in whole.layers])
    w_out = np.concatenate([layer.w_out.numpy() for layer in whole.layers])
    w_u = whole.ends.w_u.numpy()
    cosine = w_out @ w_u / np.linalg.norm(w_out, axis=1)[:, None] / np.linalg.norm(w_u, axis=0)
    expected = {
        "w_in_norm": np.linalg.norm(w_in, axis=1),
        "w_out_norm": np.linalg.norm(w_out, axis=1),
        "input_bias": np.concatenate([layer.b_in.numpy() for layer in whole.layers]),
        "in_out_sim": (w_in * w_out).sum(1) / np.linalg.norm(w_in, axis=1) / np.linalg.norm(w_out, axis=1),
        "vocab_mean": cosine.mean(1),
        "vocab_var": cosine.var(1),
        "vocab_skew": stats.skew(cosine, axis=1),
        "vocab_kurt": stats.kurtosis(cosine, axis=1, fisher=False),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(table[name], values, rtol=2e-4, atol=2e-6, err_msg=name)
    penalty = (w_in**2).sum(1) + (w_out**2).sum(1)
    if shape == "llama":
        w_up = np.concatenate([layer.w_up.T.numpy() for layer in whole.layers if layer.w_up is not None])
        penalty += (w_up**2).sum(1)
        np.testing.assert_allclose(table["w_up_norm"], np.linalg.norm(w_up, axis=1), rtol=1e-5)
        assert {"up_out_sim", "in_up_sim", "up_bias"} <= set(table)
    np.testing.assert_allclose(table["l2_penalty"], penalty, rtol=1e-5)

    directions, singular, _ = np.linalg.svd(w_u, full_matrices=False)
    least = directions[:, -4:-1] if shape != "llama" else directions[:, -3:]
    if shape != "llama":
        assert singular[-1] < 1e-9  # all-ones
    fraction = np.linalg.norm(w_out @ least, axis=1) / np.linalg.norm(w_out, axis=1)
    np.testing.assert_allclose(table["null_space_fraction"], fraction, rtol=1e-3, atol=1e-4)
    assert table["null_space_chance"][0] == pytest.approx((3 / (16 if shape == "llama" else 15)) ** 0.5)

    effect = w_out @ w_u
    for side, order in (
        ("promoted", np.argsort(-effect, axis=1)),
        ("suppressed", np.argsort(effect, axis=1)),
    ):
        rows = effects[effects["side"] == side]
        np.testing.assert_array_equal(rows["token_id"].to_numpy().reshape(-1, 4), order[:, :4])
        np.testing.assert_allclose(
            rows["value"].to_numpy().reshape(-1, 4), np.take_along_axis(effect, order[:, :4], 1), rtol=1e-4
        )
        assert (rows["text"] == "t" + rows["token_id"].astype(str)).all()

    read = {"w_in": w_in} if shape != "llama" else {"w_in": w_in, "w_up": w_up}
    assert ("w_up_max_cos" in table) == ("o_up_composition" in table) == (shape == "llama")
    for name, vectors in {**read, "w_out": w_out}.items():
        units = vectors / np.linalg.norm(vectors, axis=1)[:, None]
        pairs = units @ units.T
        np.fill_diagonal(pairs, -np.inf)
        np.testing.assert_allclose(table[f"{name}_max_cos"], pairs.max(1), atol=1e-6)
        number = table[f"{name}_max_layer"] * 24 + table[f"{name}_max_neuron"]
        np.testing.assert_array_equal(number, pairs.argmax(1))
    np.fill_diagonal(pairs, np.inf)
    np.testing.assert_allclose(table["w_out_min_cos"], pairs.min(1), atol=1e-6)
    number = table["w_out_min_layer"] * 24 + table["w_out_min_neuron"]
    np.testing.assert_array_equal(number, pairs.argmin(1))


def test_best_feature_is_that_of_largest_variance_reduction() -> None:
    model = tiny_model("gpt2")
    table, _ = tables(model)
    matrix = labels(300).matrix
    whole = interp_weights.processed(interp_weights.read(model, torch.float64))
    w_out = torch.cat([layer.w_out for layer in whole.layers]).numpy()
    w_u = whole.ends.w_u.numpy()
    cosine = w_out @ w_u / np.linalg.norm(w_out, axis=1)[:, None] / np.linalg.norm(w_u, axis=0)
    share = matrix.mean(0)
    within = [
        (1 - share[k]) * cosine[:, ~matrix[:, k]].var(1) + share[k] * cosine[:, matrix[:, k]].var(1)
        for k in range(6)
    ]
    reduction = 1 - np.stack(within, 1) / cosine.var(1)[:, None]
    np.testing.assert_allclose(table["best_feature_vr"], reduction.max(1), atol=1e-5)
    assert (table["best_feature"] == [f"f{k}" for k in reduction.argmax(1)]).all()
    best = reduction.argmax(1)
    differ = [cosine[n, matrix[:, k]].mean() - cosine[n, ~matrix[:, k]].mean() for n, k in enumerate(best)]
    np.testing.assert_array_equal(table["best_feature_sign"], np.sign(differ))


def test_a_silent_neuron_and_an_empty_feature_are_no_obstacle() -> None:
    model = tiny_model("gpt2")
    with torch.no_grad():
        model.transformer.h[1].mlp.c_proj.weight[4] = 0.0
    table, _ = tables(model)
    silent = table[(table["layer"] == 1) & (table["neuron"] == 4)].iloc[0]
    assert silent["vocab_var"] == 0
    assert np.isnan(silent["vocab_kurt"])
    assert pd.isna(silent["best_feature"])
    others = table.drop(silent.name)
    assert others["vocab_kurt"].notna().all()
    reduction, sign = weights.explained(torch.rand(2, 5), torch.tensor([[0.0, 1.0]] * 5))
    assert not reduction.any()
    assert torch.isfinite(sign).all()


@pytest.mark.parametrize("shape", ["gpt2", "gpt_neox"])
def test_composition_is_null_where_no_head_is_met(shape: str) -> None:
    table, _ = tables(tiny_model(shape))
    for kind in "kqv":
        assert table[f"{kind}_composition"].isna().tolist() == [False] * 48 + [True] * 24  # the last layer
        assert (table[f"{kind}_composition_layer"].dropna() > table["layer"][:48]).all()
    first = 24 * (shape == "gpt_neox")  # parallel: a neuron of the first layer reads no head
    assert table["o_composition"].isna().tolist() == [True] * first + [False] * (72 - first)
    assert table["o_composition_head"].isna().tolist() == table["o_composition"].isna().tolist()
    without, _ = tables(tiny_model(shape), composition=False)
    assert not [name for name in without if "composition" in name]


def test_one_neuron_has_no_other() -> None:
    cosine, number = weights.nearest([torch.ones(1, 3)], "cpu")
    assert np.isnan(cosine[0])
    assert number[0] == -1


@pytest.mark.parametrize("seed", range(20))
def test_planted_neurons_stand_out(seed: int) -> None:
    table, _ = tables(planted_model(seed), null_space=1)
    last = table[table["layer"] == 2].reset_index(drop=True)
    planted = last.loc[list(ENTROPY)]
    assert (planted["null_space_fraction"] > 0.9).all()
    assert (table.drop(2 * WIDTH + np.array(ENTROPY))["null_space_fraction"] < 0.6).all()
    first, second = ENTROPY
    assert last.loc[first, "w_out_min_neuron"] == second
    assert last.loc[first, "w_out_min_layer"] == 2
    assert last.loc[first, "w_out_min_cos"] < -0.9
    twins = table[(table["layer"] == 1) & table["neuron"].isin([2, 3])]
    assert twins["w_out_max_neuron"].tolist() == [3, 2]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    corpus = write_corpus(folder / "corpus.parquet", [("s", "train", babble(0, 200))])
    return make_tokenizer(folder / "t", corpus, vocabulary=270)


@pytest.mark.parametrize("shape", ["gpt_neox", "qwen2"])
def test_the_step_writes_both_tables(shape: str, tmp_path: Path, tokenizer: Path) -> None:
    words = Folder(tokenizer, "tokenizer").fingerprint
    ledgers = [keep(tmp_path / name, tiny_model(shape, seed=n), words) for n, name in enumerate("xy")]
    out = [Output(tmp_path / f"{name}.parquet") for name in ("weights", "effects", "again", "again_effects")]
    weights.main(ledgers, tokenizer, Settings(effects=3), *out[:2])
    weights.main(ledgers, tokenizer, Settings(effects=3), *out[2:])
    assert out[0].read_bytes() == out[2].read_bytes()
    assert out[1].read_bytes() == out[3].read_bytes()
    table = pd.read_parquet(out[0])
    assert table[["model", "layer", "neuron"]].drop_duplicates().shape[0] == len(table) == 2 * 3 * 24
    assert table["model"].unique().tolist() == ["x", "y"]
    assert len(pd.read_parquet(out[1])) == 2 * len(table) * 3


def test_models_given_twice_and_another_tokenizer_are_refused(tmp_path: Path, tokenizer: Path) -> None:
    words = Folder(tokenizer, "tokenizer").fingerprint
    own = keep(tmp_path / "x", tiny_model("gpt_neox"), words)
    other = keep(tmp_path / "y", tiny_model("gpt_neox"))
    for models, said in (
        ([own, own], "--models: found 'x' twice"),
        ([own, other], r"t/ledger.json: not the tokenizer that .*y/ledger.json was made with"),
    ):
        with pytest.raises(UserError, match=said):
            weights.main(models, tokenizer, Settings(), *[Output(tmp_path / "out")] * 2)
    assert not (tmp_path / "out").exists()

"""The clearest neuron of each role, and its effect on the logits against plain numpy."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from steps.core.errors import UserError
from steps.core.runner import Output
from steps.interp import weights as interp_weights
from steps.neurons import logit_histograms, roles, weights
from steps.neurons.explanations.features import Features
from steps.neurons.figures import logit_histograms as logit_histograms_figure
from tests.neurons.planted import draw_figure, write_model, write_tokenizer
from tests.neurons.planted_weights import (
    CLASS,
    PARTITION,
    PREDICTION,
    SUPPRESSION,
    VOCABULARY,
    planted_model,
)

LABELS = np.zeros((VOCABULARY, 2), bool)
LABELS[CLASS.start : CLASS.stop, 0] = True
LABELS[1::2, 1] = True
FEATURES = Features(["planted", "odd"], ["g", "g"], LABELS)


@pytest.fixture(scope="module")
def reader() -> interp_weights.WeightReader:
    return interp_weights.WeightReader(planted_model(0))


def ends_of(reader: interp_weights.WeightReader) -> interp_weights.Embeddings:
    return interp_weights.processed_ends(reader.ends(), reader.facts)


def drawn(reader: interp_weights.WeightReader, table: pd.DataFrame, count: int) -> tuple[Any, dict[str, Any]]:
    """The figure of what the step finds, and its data."""
    neurons, arrays = logit_histograms.clearest_effects(reader, table, FEATURES, ends_of(reader), count)
    return logit_histograms_figure.draw(neurons, **arrays)


@pytest.fixture(scope="module")
def table(reader: interp_weights.WeightReader) -> pd.DataFrame:
    texts = [f"t{n}" for n in range(VOCABULARY)]
    ends = interp_weights.processed_ends(reader.ends(), reader.facts)
    known, _ = weights.model_tables("m", reader, FEATURES, texts, weights.Settings(), ends)
    return roles.role_table(known.assign(kurt=3.0), roles.Settings())


def test_the_planted_neurons_are_the_clearest(
    reader: interp_weights.WeightReader, table: pd.DataFrame
) -> None:
    _, data = drawn(reader, table, 2)
    for role, planted, feature in (
        ("prediction", PREDICTION, "planted"),
        ("suppression", SUPPRESSION, "planted"),
        ("partition", PARTITION, "odd"),
    ):
        assert len({found["neuron"] for found in data[role]}) == 2
        for found in data[role]:
            assert found["by_the_rule"], role
            assert (found["layer"], found["feature"]) == (2, feature)
            assert found["neuron"] in planted
            assert sum(found["others"]) + sum(found["feature_tokens"]) == VOCABULARY
            assert sum(found["feature_tokens"]) == LABELS[:, FEATURES.names.index(feature)].sum()
    # what is predicted lies right of all others, what is suppressed left
    for role, end in (("prediction", -1), ("suppression", 0)):
        for found in data[role]:
            assert np.flatnonzero(found["feature_tokens"])[end] == (79 if end else 0)
            assert found["others"][end] == 0


def test_a_gallery_is_in_order_and_has_no_more_than_there_are(
    reader: interp_weights.WeightReader, table: pd.DataFrame
) -> None:
    figure, data = drawn(reader, table, 7)
    for role, planted, measure in (
        ("prediction", PREDICTION, "vocab_kurt"),
        ("suppression", SUPPRESSION, "vocab_kurt"),
    ):
        rows = table[(table["layer"] == 2) & table["neuron"].isin(planted)]
        order = rows.sort_values(measure, ascending=False)["neuron"].tolist()
        assert [found["neuron"] for found in data[role]] == order
    assert len(data["partition"]) == 7  # by the paper's rule nearly all neurons of a narrow model are
    assert [axes.get_visible() for axes in figure.axes[:: len(data)]] == [True] * 5 + [False] * 2


def test_the_effect_is_the_product_of_processed_weights(reader: interp_weights.WeightReader) -> None:
    whole = interp_weights.processed(interp_weights.read(planted_model(0), torch.float64))
    expected = (whole.layers[1].w_out[3] @ whole.ends.w_u).numpy()
    found = logit_histograms.effects_on_logits(reader, ends_of(reader), 1, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_without_a_role_the_nearest_is_shown_and_called_so(
    reader: interp_weights.WeightReader, table: pd.DataFrame
) -> None:
    figure, data = drawn(reader, table.assign(role=""), 3)
    assert [found["by_the_rule"] for found in data["prediction"]] == [False] * 3
    assert figure.axes[0].get_title().startswith("nearest to prediction: L")
    figure, data = drawn(reader, table.assign(best_feature=np.nan), 1)
    assert data["prediction"][0]["feature"] is None
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert texts == ["other tokens"]
    unknown = table.assign(vocab_skew=np.nan, vocab_var=np.nan)
    figure, data = drawn(reader, unknown, 3)
    assert data == {"prediction": [], "suppression": [], "partition": []}
    assert "no neuron comes near to partition" in figure.axes[2].texts[0].get_text()


def test_a_damaged_table_is_told(tmp_path: Path, table: pd.DataFrame) -> None:
    path = tmp_path / "roles.parquet"
    out = Output(tmp_path / "logit_histograms.safetensors")
    inputs = tmp_path / "m", path, tmp_path / "t", logit_histograms.Settings()
    table.drop(columns="best_feature").to_parquet(path)
    with pytest.raises(UserError, match=r"roles.parquet: lacks the column 'best_feature'"):
        logit_histograms.main(*inputs, out)
    table.to_parquet(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"roles.parquet: unreadable as a parquet table"):
        logit_histograms.main(*inputs, out)


def test_inputs_of_another_study_are_refused(tmp_path: Path, table: pd.DataFrame) -> None:
    own, other = (write_tokenizer(tmp_path / name, name) for name in ("planted", "other"))
    model = write_model(tmp_path / "m")
    number = np.arange(128)
    rows = pd.concat([table] * 2, ignore_index=True).head(128)
    rows = rows.assign(layer=number // 64, neuron=number % 64)
    out = Output(tmp_path / "logit_histograms.safetensors")
    for count, words, said in (
        (
            127,
            own,
            "roles.parquet: lacks layer 1, neuron 63, expected exactly the 128 rows of .*m/ledger.json",
        ),
        (128, other, "other/ledger.json: not the tokenizer that .*m/ledger.json was made with"),
        (128, own, None),
    ):
        rows.head(count).to_parquet(tmp_path / "roles.parquet")
        inputs = model, tmp_path / "roles.parquet", words, logit_histograms.Settings(neurons=1)
        with pytest.raises(UserError, match=said) if said else contextlib.nullcontext():
            logit_histograms.main(*inputs, out)
    _, data = draw_figure(tmp_path, "logit_histograms", [out])
    assert {role: len(found) for role, found in data.items()} == dict.fromkeys(data, 1)

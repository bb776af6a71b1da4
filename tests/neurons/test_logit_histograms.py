"""The clearest neuron of each role, and its effect on the logits against plain numpy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from steps.neurons import logit_histograms, roles, transformer, weights
from steps.neurons.features import Features
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
def reader() -> transformer.Reader:
    return transformer.Reader(planted_model(0))


@pytest.fixture(scope="module")
def table(reader: transformer.Reader) -> pd.DataFrame:
    texts = [f"t{n}" for n in range(VOCABULARY)]
    ends = transformer.processed_ends(reader.ends(), reader.facts)
    known, _ = weights.model_tables("m", reader, FEATURES, texts, weights.Settings(), ends)
    return roles.role_table(known.assign(kurt=3.0), roles.Settings())


def test_the_planted_neurons_are_the_clearest(reader: transformer.Reader, table: pd.DataFrame) -> None:
    _, data = logit_histograms.draw(reader, table, FEATURES)
    for role, planted, feature in (
        ("prediction", PREDICTION, "planted"),
        ("suppression", SUPPRESSION, "planted"),
        ("partition", PARTITION, "odd"),
    ):
        found = data[role]
        assert found["by_the_rule"], role
        assert (found["layer"], found["feature"]) == (2, feature)
        assert found["neuron"] in planted
        assert sum(found["others"]) + sum(found["feature_tokens"]) == VOCABULARY
        assert sum(found["feature_tokens"]) == LABELS[:, FEATURES.names.index(feature)].sum()
    # what is predicted lies right of all others, what is suppressed left
    for role, end in (("prediction", -1), ("suppression", 0)):
        assert np.flatnonzero(data[role]["feature_tokens"])[end] == (79 if end else 0)
        assert data[role]["others"][end] == 0


def test_the_effect_is_the_product_of_processed_weights(reader: transformer.Reader) -> None:
    whole = transformer.processed(transformer.read(planted_model(0), torch.float64))
    expected = (whole.layers[1].w_out[3] @ whole.ends.w_u).numpy()
    np.testing.assert_allclose(logit_histograms.effects(reader, 1, 3), expected, rtol=1e-4, atol=1e-5)


def test_without_a_role_the_nearest_is_shown_and_called_so(
    reader: transformer.Reader, table: pd.DataFrame
) -> None:
    figure, data = logit_histograms.draw(reader, table.assign(role=""), FEATURES)
    assert not data["prediction"]["by_the_rule"]
    assert figure.axes[0].get_title().startswith("nearest to prediction: L")
    figure, data = logit_histograms.draw(reader, table.assign(vocab_skew=np.nan, vocab_var=np.nan), FEATURES)
    assert data == {}
    assert "no neuron comes near to partition" in figure.axes[2].texts[0].get_text()

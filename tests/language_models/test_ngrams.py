"""The counters' losses, against sums done by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steps.core.runner import Output
from steps.core.stores import Folder, read_array, read_json
from steps.language_models import ngrams
from steps.language_models.learning.losses import Settings
from tests.language_models.conftest import Prepared


def test_by_hand() -> None:
    train = np.array([[0, 1, 2], [0, 1, 1]])  # pairs 01 12 01 11; targets 1 2 1 1
    keys, counts = ngrams.count_pairs([train], 3)
    unigram, bigram = ngrams.losses(keys, counts, np.array([[0, 1, 2], [0, 2, 1]]), 3)
    one = {0: 1 / 7, 1: 4 / 7, 2: 2 / 7}
    assert unigram == pytest.approx(-np.mean([math.log(one[w]) for w in (1, 2, 2, 1)]))
    two = {
        (0, 1): (2 + 1 * one[1]) / (2 + 1),
        (1, 2): (1 + 2 * one[2]) / (2 + 2),
        (0, 2): (0 + 1 * one[2]) / (2 + 1),
        (2, 1): one[1],  # 2 was never followed by anything
    }
    assert bigram == pytest.approx(-np.mean([math.log(p) for p in two.values()]))


tokens = st.lists(st.lists(st.integers(0, 5), min_size=4, max_size=4), min_size=1, max_size=12)


@settings(deadline=None)
@given(tokens)
def test_probabilities_sum_to_one(train: list[list[int]]) -> None:
    keys, counts = ngrams.count_pairs([np.array(train)], 6)
    for before in range(6):
        losses = [ngrams.losses(keys, counts, np.array([[before, word]]), 6) for word in range(6)]
        assert sum(math.exp(-unigram) for unigram, _ in losses) == pytest.approx(1)
        assert sum(math.exp(-bigram) for _, bigram in losses) == pytest.approx(1)


@settings(deadline=None)
@given(tokens, st.integers(1, 5))
def test_counts_do_not_depend_on_the_cut(train: list[list[int]], size: int) -> None:
    whole = np.array(train)
    parts = [whole[start : start + size] for start in range(0, len(whole), size)]
    for a, b in zip(ngrams.count_pairs(parts, 6), ngrams.count_pairs([whole], 6), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_step(prepared: Prepared, tmp_path: Path) -> None:
    out = tmp_path / "ngrams.json"
    ngrams.main(prepared.rows, Settings(rows=20), Output(out))
    found = read_json(out)
    assert (found["rows"], found["targets"]) == (20, 300)
    rows = Folder(prepared.rows, "rows")
    keys, counts = ngrams.count_pairs([read_array(rows, "train")], rows.attributes["vocabulary"])
    losses = ngrams.losses(keys, counts, read_array(rows, "held_out")[:20], rows.attributes["vocabulary"])
    assert (found["unigram_loss"], found["bigram_loss"]) == losses
    assert found["bigram_loss"] < found["unigram_loss"]

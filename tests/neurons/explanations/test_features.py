"""Token features: their number as in the paper, and single ones on texts that tell them apart."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from steps.core.errors import UserError
from steps.neurons.explanations import features
from steps.neurons.explanations.features import COUNTS, Features

LISTS = features.read_word_lists()
PREDICATES = {name: function for _, name, function in features.token_predicates(LISTS)}


def test_the_groups_have_the_sizes_of_the_paper() -> None:
    found = features.token_predicates(LISTS)
    assert [*COUNTS.values()] == [6, 25, 9, 19, 11, 49, 80, 8]
    assert Counter(group for group, _, _ in found) == COUNTS
    assert len({name for _, name, _ in found}) == len(found) == sum(COUNTS.values()) == 207


@pytest.mark.parametrize(
    ("name", "true", "false"),
    [
        ("all_white_space", [" ", "\n\n", "    "], ["", " a"]),
        ("all_caps", [" NASA", "AB"], ["A", "Ab", "12"]),
        ("all_lower", [" on", "a1"], ["On", "12", ""]),
        ("all_alpha", [" on", "Ä"], ["a1", "", " "]),
        ("all_numeric", ["12", " 7"], ["1a", "²", ""]),
        ("all_symbolic", ["()", "a.", "\ufffd"], ["a1", "", " a"]),
        ("contains_-", ["-", " a-b"], ["_"]),
        ("closing_punc", [")", "]:"], ["("]),
        ("currency", ["$", " €"], ["S"]),
        ("dollar", ["$"], ["€"]),
        ("double_dollar", ["$$"], ["$", "$ $"]),
        ("contains_digit", ["a1", "²"], ["a"]),
        ("number_word", [" Seven", "dozens", "sextillion"], ["sevens"]),
        ("is_year", ["1491", " 2199"], ["1490", "2200", "1999a", "-1999"]),
        ("three_digit", [" 123", "007"], ["12", "1234", "12a"]),
        ("is_lt_31", ["0", " 31"], ["32", "", "a"]),
        ("reflexive_pronoun", [" Himself"], ["him"]),
        ("relative_pronoun", ["that"], ["what"]),
        ("interrogative_pronoun", ["what"], ["that"]),
        ("start_vowel", [" On"], ["no", "", " "]),
        ("start_consonant", [" no", "ß"], ["on", "1", ""]),
        ("start_no_space", ["a", "\n"], [" a", ""]),
        ("start_space_and_letter", [" a"], ["a", " 1", "  a"]),
        ("start_cap", [" On", "On"], ["on", " oN"]),
        ("start_no_space_and_cap", ["On"], [" On"]),
        ("start_digit", [" 1a"], ["a1"]),
        ("suffix_ing", ["Sing", " ing"], ["sings"]),
        ("prefix_un", [" Under"], ["sun"]),
        ("letter_q", [" Queen", "q"], ["aq"]),
        ("month", [" may", "SEPT"], ["mayor"]),
        ("us_state", [" Texas", "ohio"], ["New York"]),
        ("state_abbreviation", [" TX"], ["tx", "Tx"]),
        ("website_suffix", ["com", " org"], ["COM", "comm"]),
        ("length_unit", [" Kilometers"], ["measure"]),
        ("time_unit", ["weekday"], ["wee"]),
        ("contrastive_conjunction", [" But"], ["butter"]),
    ],
)
def test_single_features(name: str, true: list[str], false: list[str]) -> None:
    assert [PREDICATES[name](text) for text in true] == [True] * len(true)
    assert [PREDICATES[name](text) for text in false] == [False] * len(false)


def test_a_text_without_characters_has_no_feature() -> None:
    assert not [name for name, function in PREDICATES.items() if function("")]


def test_features_that_hold_for_no_token_are_left_out() -> None:
    found = features.token_features([" on", "7"], LISTS)
    assert found.matrix.shape == (2, len(found.names)) == (2, len(found.groups))
    assert found.matrix.any(0).all()
    assert "one_digit" in found.names
    assert "is_year" not in found.names
    assert "small_norm" not in found.names
    norms = features.token_features([" on", "7"], LISTS, np.array([0.519, 0.521]))
    assert norms.matrix[:, norms.names.index("small_norm")].tolist() == [True, False]


def test_unigrams_need_variants_and_occurrences() -> None:
    texts = ["on", " on", "On", " On", "of", " of", " ", "\n", "\ufffd", "\ufffd", ""]
    counts = np.array([5, 5, 5, 5, 30, 1, 50, 50, 50, 50, 50])
    four = features.unigram_features(texts, counts, 4, 20)
    assert four.names == ["unigram 'on'"]
    assert four.matrix[:, 0].tolist() == [True] * 4 + [False] * 7
    assert features.unigram_features(texts, counts, 4, 21).names == []
    names = features.unigram_features(texts, counts, 1, 20).names
    assert names == ["unigram 'on'", "unigram 'of'", "unigram ' '", "unigram '\\n'"]


def test_topics_are_the_ends_of_singular_directions() -> None:
    rng = np.random.default_rng(0)
    embedding = 0.1 * rng.standard_normal((40, 8))
    embedding[5:10, 2] += 4
    embedding[20:25, 2] -= 4
    embedding[30] = 100  # never occurs
    embedding[[31, 32]] = 100
    texts = [f"w{number}" for number in range(40)]
    texts[31], texts[32] = " \n", "\ufffd"
    counts = np.ones(40)
    counts[30] = 0
    found = features.topics_by_svd(embedding, texts, counts, 3, 5)
    assert found.matrix.shape == (40, 3)
    assert {tuple(np.flatnonzero(column)) for column in found.matrix.T[:2]} == {
        (5, 6, 7, 8, 9),
        (20, 21, 22, 23, 24),
    }
    assert found.matrix.sum(0).tolist() == [5, 5, 5]


def test_topics_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "topics.json"
    path.write_text(json.dumps({"law": ["court", " judge"], "none": ["x"]}))
    found = features.topics_from_file(path, [" court", "judge", "Judge", ""])
    assert found.names == ["topic law"]
    assert found.matrix[:, 0].tolist() == [True, True, False, False]
    path.write_text("[1]")
    with pytest.raises(UserError, match="expected topic sets"):
        features.topics_from_file(path, ["a"])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "cannot be read as topic sets (Expecting"),
        (b"\xff", "cannot be read as topic sets ('utf-8'"),
        (b'{"a": "b"}', "expected topic sets as JSON"),
        (None, "cannot be read as topic sets (No such file or directory)"),
    ],
)
def test_a_users_topics_are_to_be_mended_not_deleted(
    tmp_path: Path, content: bytes | None, says: str
) -> None:
    path = tmp_path / "topics.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        features.topics_from_file(path, ["a"])
    assert f"{path}: {says}" in str(caught.value)
    assert "; fix it or name another file in neurons.explain.topics" in str(caught.value)
    assert "delete" not in str(caught.value)
    assert "snakemake" not in str(caught.value)


def test_a_topic_that_no_table_can_hold_is_named(tmp_path: Path) -> None:
    path = tmp_path / "topics.json"
    path.write_text('{"law": ["court"], "\\ud800": ["court"]}')
    with pytest.raises(UserError, match=r"the topic '\\ud800' has half a character in its name; rename it"):
        features.topics_from_file(path, ["court"])
    path.write_text('{"\\ud83d\\ude00": ["court"]}')  # two halves make one
    assert features.topics_from_file(path, ["court"]).names == ["topic \U0001f600"]


def test_other_word_lists_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "lists.json"
    path.write_text('{"token_features": []}')
    with pytest.raises(UserError, match="expected word lists"):
        features.read_word_lists(path)


def test_features_side_by_side() -> None:
    a = features.single_token("bos", 1, 3)
    both = features.join([a, Features(["x"], ["y"], np.ones((3, 1), bool))])
    assert both.names == ["bos", "x"]
    assert both.groups == ["bos", "y"]
    assert both.matrix.tolist() == [[False, True], [True, True], [False, True]]

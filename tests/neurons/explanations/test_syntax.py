"""Labels from the text around tokens: alignment, word classes, Python's tokens, spaCy, parts of words."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from steps.core.errors import UserError
from steps.neurons.explanations import syntax
from steps.neurons.explanations.features import read_word_lists

LISTS = read_word_lists()


def labelled(texts: list[str], tagger: syntax.Tagger, prefix: str = "x") -> list[set[str]]:
    """The labels of each token of a single row, whose tokens are ``texts``."""
    names, matrix = syntax.labels(np.arange(len(texts))[None], texts, tagger, prefix)
    return [{names[k].removeprefix(f"{prefix} ") for k in np.flatnonzero(row)} for row in matrix]


def test_a_token_gets_the_labels_of_the_one_unit_that_it_touches() -> None:
    texts = ["", "ab", "c", " ", "d e", "f"]
    units = [(0, 3, ("one",)), (4, 5, ("two",)), (6, 8, ("two", "three"))]
    found = labelled(texts, lambda rows: iter([units for _ in rows]))
    assert found == [{"none"}, {"one"}, {"one"}, {"none"}, {"several"}, {"two", "three"}]


def test_rows_are_labelled_one_by_one() -> None:
    rows = np.array([[0, 1], [1, 0]])
    names, matrix = syntax.labels(rows, ["not", " the"], syntax.word_tagger(LISTS), "word")
    assert matrix[:, names.index("word article")].tolist() == [False, True, False, False]
    assert matrix[:, names.index("word other")].tolist() == [False, False, True, True]  # "thenot"


@pytest.mark.parametrize(
    ("word", "classes"),
    [
        ("The", {"article", "determiner"}),
        ("she", {"pronoun"}),
        ("isn't", {"auxiliary", "negation"}),
        ("running", {"progressive_or_gerund"}),
        ("ring", {"other"}),  # too short for the suffix
        ("quickly", {"adverb_suffix"}),
        ("however", {"adverb"}),
        ("that", {"determiner", "subordinating_conjunction", "pronoun"}),
        ("qzx", {"other"}),
    ],
)
def test_classes_of_words(word: str, classes: set[str]) -> None:
    if word == "that":
        classes = {name for name, words in LISTS["syntax_words"].items() if "that" in words}
    assert labelled([word], syntax.word_tagger(LISTS)) == [classes]


def test_pieces_of_a_word_have_its_classes() -> None:
    assert labelled([" wal", "king", " king"], syntax.word_tagger(LISTS)) == [
        {"progressive_or_gerund"},
        {"progressive_or_gerund"},
        {"other"},
    ]


def test_python_tokens_of_code_only() -> None:
    texts = ["  return", " x", "1", " +=", " 2", ' "a', ' b"', "  # if", " x", "\n", "'", " y\n", "if"]
    found = labelled(texts, syntax.python_tagger([True]))
    assert found[:9] == [
        {"keyword"},
        {"name"},
        {"name"},
        {"operator"},
        {"number"},
        {"string"},
        {"string"},
        {"comment"},
        {"comment"},
    ]
    assert found[-1] == {"keyword"}  # the line before, which is no Python, spoils nothing
    assert labelled(texts, syntax.python_tagger([False])) == [{"none"}] * len(texts)


def test_parts_of_words() -> None:
    texts = ["", " wal", "king", " dog", "(", "x", "_", "y", "s"]
    roles = [syntax.ROLES[k] for k in syntax.word_roles(np.arange(len(texts))[None], texts)]
    whole, first, later, other = syntax.ROLES
    assert roles == [other, first, later, whole, other, whole, other, first, later]
    split = syntax.word_roles(np.array([[1], [2]]), texts)  # not across rows
    assert [syntax.ROLES[k] for k in split] == [whole, whole]


class Morph(dict):
    def get(self, name: str) -> list[str]:  # type: ignore[override]
        return super().get(name, [])


def test_spacy_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    def word(idx: int, text: str, pos: str, **more: object) -> SimpleNamespace:
        plain = {"dep_": "x", "morph": Morph(), "ent_type_": "", "is_stop": False, "is_space": False}
        ends = {"is_sent_start": False, "is_sent_end": False}
        return SimpleNamespace(**{"idx": idx, "text": text, "pos_": pos, **plain, **ends, **more})

    words = [
        word(1, "Bob", "PROPN", ent_type_="PERSON", is_sent_start=True),
        word(4, " ", "SPACE", is_space=True),
        word(5, "ran", "VERB", morph=Morph(Tense=["Past"]), is_sent_end=True),
    ]
    pipeline = SimpleNamespace(pipe=lambda rows: iter([words for _ in rows]))
    monkeypatch.setitem(sys.modules, "spacy", SimpleNamespace(load=lambda name: pipeline))
    assert labelled([" Bob", " ran"], syntax.spacy_tagger("x")) == [
        {"pos PROPN", "dependency x", "entity PERSON", "sentence begin"},
        {"pos VERB", "dependency x", "Tense Past", "sentence end"},
    ]


def test_spacy_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(UserError, match=r"en_core_web_trf.*pip install -e '\.\[spacy\]'.*rules"):
        syntax.spacy_tagger("en_core_web_trf")

"""The rules of families, one by one."""

from __future__ import annotations

import pytest

from steps.neurons.explanations.families import FAMILIES, family, family_counts, letter


@pytest.mark.parametrize(
    ("which", "group", "name", "expected"),
    [
        ("current", "bos", "bos", "bos"),
        ("position", "position", "position", "position"),
        ("previous", "unigram", "unigram 'a'", "previous_token"),
        ("previous", "syntax", "word article", "previous_token"),
        ("current", "unigram", "unigram 'a'", "alphabet"),
        ("current", "unigram", "unigram '1'", "unigram"),
        ("current", "unigram", "unigram 'an'", "unigram"),
        ("current", "prefixes", "letter_a", "alphabet"),
        ("current", "prefixes", "prefix_anti", "unigram"),
        ("current", "symbols", "closing_punc", "unigram"),
        ("current", "syntax", "python keyword", "syntax"),
        ("current", "source", "source code", "context"),
        ("current", "topic", "topic 0+ (a b c)", "context"),
    ],
)
def test_rules(which: str, group: str, name: str, expected: str) -> None:
    assert family(which, group, name, positive=True, holds_up=True) == expected
    assert family(which, group, name, positive=True, holds_up=False) == "none"
    silenced = family(which, group, name, positive=False, holds_up=True)
    assert silenced == ("position" if which == "position" else "none")


def test_letters() -> None:
    assert letter("unigram 'b'", "unigram") == "b"
    assert letter("letter_b", "prefixes") == "b"
    assert letter("unigram ';'", "unigram") is None
    assert letter("source b", "source") is None


def test_counts_name_every_family() -> None:
    counts = family_counts(["bos", "none", "bos", "syntax"])
    assert counts == {f"family_count_{name}": 0 for name in FAMILIES} | {
        "family_count_bos": 2,
        "family_count_syntax": 1,
    }

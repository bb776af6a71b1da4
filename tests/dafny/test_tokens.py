"""Tokens and positions, as Dafny's scanner has them."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis import strategies

from steps.dafny.syntax.tokens import Lines, scan, tokens


def texts(text: str) -> list[str]:
    return [token.text for token in tokens(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a // one\rb", ["a", "b"]),
        ("a // one\fb\u2028c\nd", ["a", "d"]),
        ("a /* b /* c */ d */ e", ["a", "e"]),
        ("a /* b", ["a"]),
        ("""c == '"' // '"'""", ["c", "==", """'"'"""]),
        (r"'\'' '\u0041' x", [r"'\''", r"'\u0041'", "x"]),
        ("x' a'b f'(x)", ["x'", "a'b", "f'", "(", "x", ")"]),
        ('"a // b" @"c""d" e', ['"a // b"', '@"c""d"', "e"]),
        (
            "a[..i] 1..2 3.5 x.0 0x1F",
            ["a", "[", "..", "i", "]", "1", "..", "2", "3.5", "x", ".", "0", "0x1F"],
        ),
        ("a <==> b ==> c !in s", ["a", "<==>", "b", "==>", "c", "!in", "s"]),
        ("{:axiom} x :| P", ["{:", "axiom", "}", "x", ":|", "P"]),
        ("a\n  #if X\nb", ["a", "#if X", "b"]),
        ("a /*\n#if X\n*/ b", ["a", "#if X", "b"]),
        ("\ufeffmethod", ["method"]),
    ],
)
def test_tokens(text: str, expected: list[str]) -> None:
    assert texts(text) == expected


@hypothesis.given(strategies.text(alphabet="ab'\"/*\\#\n\r {}:|=.0\U0001d400漢", max_size=40))
def test_every_character_is_a_token_a_comment_or_blank(text: str) -> None:
    found = scan(text)
    covered = bytearray(len(text))
    for start, end in [(token.start, token.end) for token in found.tokens] + found.comments:
        covered[start:end] = b"x" * (end - start)
    assert all(covered[index] or text[index].isspace() for index in range(len(text)))
    assert all(text[token.start : token.end].strip() == token.text.strip() for token in found.tokens)


def test_lines_end_at_carriage_returns_and_nothing_odd() -> None:
    text = "a\r\nb\rc\fd\u2028e\u0085f\ng"
    lines = Lines(text)
    assert [text[start] for start in lines.starts] == ["a", "b", "c", "g"]
    assert [lines.line(text.index(letter)) for letter in "abcdefg"] == [0, 1, 2, 2, 2, 2, 3]


def test_characters_are_utf_16_units() -> None:
    text = "\ufeffx\n漢𝔸y = 1"
    lines = Lines(text)
    assert text[lines.offset(0, 0)] == "x"  # Dafny counts no byte order mark
    assert text[lines.offset(1, 1)] == "𝔸"
    assert text[lines.offset(1, 3)] == "y"
    assert lines.offset(9, 0) == len(text)

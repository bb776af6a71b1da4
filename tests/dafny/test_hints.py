"""Hints: taken out as the benchmark did and by syntax, and put in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steps.dafny.syntax.hints import Insertion, insert, strip, strip_lines
from steps.dafny.syntax.program import Program, UnreadableError
from steps.dafny.syntax.tokens import tokens
from tests.dafny.conftest import EMBEDDED

WITH = """method M(n: nat) returns (i: nat)
  ensures i == n
  decreases n // the obvious
{
  i := 0;
  while i < n
    invariant i
      <= n;
    decreases n - i
  {
    assert i < n by {
      assert true;
    }
    i := i + 1; assert i > 0;
  }
}

function F(n: nat): nat
  decreases n
{
  assert n >= 0; if n == 0 then 0 else F(n - 1)
}

function G(n: nat): nat { assert n >= 0 by { assert true; } n }

method Forever() decreases * { while true decreases * { } }
"""
WITHOUT = """method M(n: nat) returns (i: nat)
  ensures i == n
   // the obvious
{
  i := 0;
  while i < n
  {
    i := i + 1; 
  }
}

function F(n: nat): nat
{
   if n == 0 then 0 else F(n - 1)
}

function G(n: nat): nat {  n }

method Forever() decreases * { while true decreases * { } }
"""  # noqa: W291


def test_whole_hints_go_by_syntax() -> None:
    assert strip(WITH) == WITHOUT
    assert strip(WITHOUT) == WITHOUT


def test_lines_go_as_in_the_benchmark() -> None:
    stripped = strip_lines(WITH)
    assert "      <= n;\n" in stripped  # what a hint of two lines leaves
    assert "assert i > 0" in stripped
    assert "decreases * {" in stripped
    assert "invariant" not in stripped


def test_the_published_texts_come_out_but_for_two(benchmark: Path) -> None:
    rows = json.loads((benchmark / "test.json").read_text("utf-8"))
    other = [row["test_ID"] for row in rows if strip_lines(row["ground_truth"]) != row["hints_removed"]]
    assert len(rows) == 380
    assert other == ["037", "577"]


def test_stripping_published_programs_by_syntax_leaves_programs(benchmark: Path) -> None:
    same = 0
    for row in json.loads((benchmark / "test.json").read_text("utf-8")):
        try:
            stripped = strip(row["ground_truth"])
        except UnreadableError:
            continue
        assert strip(stripped) == stripped
        same += stripped == row["hints_removed"]
    assert same > 280


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_insertions_stand_on_lines_of_their_own(ending: str) -> None:
    text = "while i < n // c\n{ }\nwhile a { }".replace("\n", ending)
    first, second = text.index(" //"), text.index(" { }", 12)
    hints = [Insertion(first, "invariant A", "  "), Insertion(second, "invariant C", "  ")]
    hints.insert(1, Insertion(first, "invariant B", "  "))
    made, lines = insert(text, hints)
    split = made.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    assert [split[line].strip() for line in lines] == ["invariant A", "invariant B", "invariant C"]
    given = [token[:2] for token in tokens(text)]
    left = [
        token[:2]
        for token in tokens("".join(part for part in made.splitlines(True) if "invariant" not in part))
    ]
    assert left == given
    assert "// c" in made


def test_embedded_programs_lose_their_hints() -> None:
    for path in sorted((EMBEDDED / "programs").glob("*.dfy")):
        text = path.read_text("utf-8")
        given = strip(text)
        Program(given)
        assert "invariant" not in given, path
        assert "assert" not in given.replace("asserts", ""), path

"""Candidate invariants: what of a loop is seen, and that the true ones are among them."""

from __future__ import annotations

import pytest

from steps.dafny.prover.candidates import FAMILIES, conjuncts, guess, loops, of_loop, read, show
from steps.dafny.syntax.hints import strip
from steps.dafny.syntax.program import Program
from tests.dafny.conftest import EMBEDDED


@pytest.mark.parametrize(
    "text",
    [
        "forall k :: 0 <= k < |s| ==> r[k] == s[|s| - 1 - k]",
        "r == f(i, x + 1)",
        "multiset(a[..]) == old(multiset(a[..]))",
        "x in {1, 2} && !done",
        "(a + b)[1..] == a[1..] + b",
        "m in s && place < a.Length",
        "|a| - i + |b| - j",
    ],
)
def test_expressions_are_written_as_they_are_read(text: str) -> None:
    assert show(read(text)) == text


def test_what_is_known_of_a_loop() -> None:
    program = Program(
        "function F(x: int): int { x }\n"
        "method M(a: array<int>, n: nat, s: seq<char>) returns (r: int, b: bool) modifies a {\n"
        "  r := 0; var i, t := n, []; var c := F(n); var d := new int[3];\n"
        "  while i > 0 { i := i - 1; a[i] := r; var inner := 0;\n"
        "    while inner < n { inner, r := inner + 1, F(r); } }\n"
        "}\n"
    )
    outer, inner = loops(program)
    assert outer.types == {
        **{
            "a": "array<int>",
            "n": "nat",
            "s": "seq<char>",
            "r": "int",
            "b": "bool",
            "i": "nat",
            "t": "seq<?>",
        },
        **{"c": "int", "d": "array<int>"},
    }
    assert outer.assigned == ("r", "i")
    assert outer.first["i"] == ("n",)
    assert outer.first["r"] == ("0",)
    assert outer.written == ("a",)
    assert inner.assigned == ("r", "inner")
    assert inner.outer == ("r", "i", "inner") or inner.outer == ("r", "i")
    assert inner.first["inner"] == ("0",)
    assert "r" not in inner.first


def test_types_by_looks() -> None:
    types = {"a": "array<bool>", "s": "string", "x": "nat", "q": "seq<set<int>>"}

    def of(text: str) -> str:
        return guess(read(text), types, {"F": "real"})

    assert [
        of(text) for text in ("a[0]", "s[1]", "x + 1", "a.Length", "|s|", "F(x)", "x < 1", "[]", "q[0]", "y")
    ] == [*("bool", "char", "nat", "int", "int", "real", "bool", "seq<?>", "set<int>", "?")]


def test_parts_of_conditions() -> None:
    assert [show(part) for part in conjuncts(read("(a && b ==> c)"))] == ["a && b ==> c"]
    assert [show(part) for part in conjuncts(read("a && (b || c)"))] == ["a", "(b || c)"]
    assert [show(part) for part in conjuncts(read("0 <= f(i < j) < n && c"))] == [
        "0 <= f(i < j)",
        "f(i < j) < n",
        "c",
    ]
    assert [show(part) for part in conjuncts(read("forall k :: a && b"))] == ["forall k :: a && b"]


TRUE = {
    "sum_to_n": ["i <= n", "sum == i * (i + 1) / 2"],
    "find_largest": ["1 <= i", "forall k :: 0 <= k < i ==> a[k] <= largest"],
    "reverse_in_place": [
        "left + right == a.Length - 1",
        "forall k :: left <= k <= right ==> a[k] == old(a[k])",
    ],
    "factorial": ["product * Factorial(i) == Factorial(n)"],
    "fibonacci": ["current == Fib(i)", "next == Fib(i + 1)"],
    "list_length": ["count + Length(rest) == Length(list)"],
    "sequence_reverse": ["|r| == |s| - i", "forall k :: 0 <= k < |r| ==> r[k] == s[|s| - 1 - k]"],
    "double_elements": ["forall k :: i <= k < a.Length ==> a[k] == old(a[k])"],
    "divide": ["number == quotient * divisor + remainder"],
    "binary_search": ["forall k :: high <= k < a.Length ==> a[k] != key"],
    "bank": ["moved <= amount", "from.balance == old(from.balance) - moved"],
    "array_total": ["sum == Total(a[..i])"],
}


@pytest.mark.parametrize("name", TRUE)
def test_the_invariants_that_a_proof_needs_are_among_them(name: str) -> None:
    """They are found by the loop's form: renaming changes the names in them and nothing else."""
    given = strip((EMBEDDED / "programs" / f"{name}.dfy").read_text("utf-8"))
    program = Program(given)
    [loop] = loops(program)
    texts = [one.text for one in of_loop(program, loop)]
    assert set(TRUE[name]) <= set(texts)
    assert len(texts) == len(set(texts)) < 250


def test_bounds_come_before_what_needs_them() -> None:
    program = Program(strip((EMBEDDED / "programs" / "find_largest.dfy").read_text("utf-8")))
    [loop] = loops(program)
    families = [one.family for one in of_loop(program, loop)]
    assert families == sorted(families, key=FAMILIES.index)

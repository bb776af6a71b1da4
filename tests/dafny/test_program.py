"""The parts of programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steps.dafny.syntax.program import Program, UnreadableError
from tests.dafny.conftest import EMBEDDED

CLASS = """
module M {
  import opened N
  class {:autocontracts} C<T(0)> extends D {
    ghost var Repr: set<object>
    const n := 3
    static function F(x: int): (y: int) requires x > 0; ensures y > 1 { if x > 1 then x else 2 }
    twostate predicate P() reads this
    constructor Init() ensures n == 3 { new; }
    method {:timeLimit 3} M(a: array<int>, i: nat) returns (r: set<int>)
      requires |r| == 0 && forall k :: k in {1, 2} ==> k < i
      modifies a, this
      decreases *
    {
      var s: set<int> := {1} + {2};
      label L: while |s| > 0 invariant s == {} || s != {} decreases *
      { s := {}; if { case true => break; case s == {} => } }
      for j := 0 to |s| invariant j >= 0 { continue; }
      match i { case 0 => r := {}; case _ => return {}; }
      forall k | k in s ensures k == k { assert k in s by { var t := k; } }
      calc <= { 1; == { assert true; } 1; }
      assert match i case 0 => true case _ => true;
      assert var y := 1; y > 0;
      if * { } else if i > 0 { print "}"; } else { assume {:axiom} false; }
    }
  }
  datatype Tree = Leaf | Node(l: Tree, v: int) { function Size(): nat { 1 } }
  newtype Small = x: int | 0 <= x < 10 witness 3
  type Odd = x: int | x % 2 == 1 ghost witness 1
  lemma {:induction false} L(x: int) ensures x == x
  lemma K(least: int) ensures least == least { }
}
"""


def test_the_parts_of_a_module() -> None:
    program = Program(CLASS)
    names = [(one.kind, one.name) for one in program.all()]
    assert names == [
        ("module", "M"),
        ("import", ""),
        ("class", "C"),
        *(("var", "Repr"), ("const", "n"), ("function", "F"), ("predicate", "P"), ("constructor", "Init")),
        ("method", "M"),
        *(("datatype", "Tree"), ("function", "Size"), ("newtype", "Small"), ("type", "Odd")),
        *(("lemma", "L"), ("lemma", "K")),
    ]
    method = next(one for one in program.all() if one.name == "M" and one.kind == "method")
    assert [clause.kind for clause in method.clauses] == ["requires", "modifies", "decreases"]
    assert program.source(*method.result) == "r: set<int>"
    kinds = [one.kind for one in method.body]
    assert kinds == ["var", "label", "for", "match", "forall", "calc", "assert", "assert", "if"]
    loop = method.body[1].body[0]
    assert [program.source(*clause.expression) for clause in loop.clauses] == ["s == {} || s != {}", "*"]
    assert program.source(*loop.guard) == "|s| > 0"
    bodiless = next(one for one in program.all() if one.name == "L")
    assert bodiless.opens is None


@pytest.mark.parametrize(
    "text",
    [
        "method M() {",
        "method M() { x := 1 }",
        "int x",
        "method M() { } }",
        "method M( {)}",
        "#if X\nmethod M() {}",
    ],
)
def test_what_cannot_be_followed_is_refused(text: str) -> None:
    with pytest.raises(UnreadableError, match="expected"):
        Program(text)


def test_embedded_programs_are_followed() -> None:
    for path in sorted((EMBEDDED / "programs").glob("*.dfy")):
        assert list(Program(path.read_text("utf-8")).all()), path


def test_published_programs_are_followed(benchmark: Path) -> None:
    """All but three, which are refinements of modules (``...``)."""
    unreadable = {}
    for row in json.loads((benchmark / "test.json").read_text("utf-8")):
        try:
            Program(row["ground_truth"])
        except UnreadableError as error:
            unreadable[row["test_ID"]] = str(error)
    assert unreadable == dict.fromkeys(("314", "315", "322"), "found '...', expected a declaration")

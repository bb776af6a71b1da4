"""Cheats, honest answers, and what is harmless, each as an edit of one given text."""

from __future__ import annotations

import pytest

from steps.dafny.judges.strict import new_warnings, refusals
from steps.dafny.syntax.hints import strip
from steps.dafny.syntax.program import UnreadableError
from steps.dafny.verifier.locate import Tools, Verifier
from steps.dafny.verifier.process import dafny_verify

GIVEN = """predicate Positive(x: int) { x > 0 }

function Double(x: int): int { 2 * x }

datatype Color = Red | Blue

lemma Twice(x: int)
  ensures Double(x) == x + x
{ }

lemma {:axiom} Believed(x: int)
  ensures x * x >= 0

method Step(x: int) returns (y: int)
  ensures y == x + 1
{ y := x + 1; }

method Count(a: array<int>, n: nat) returns (r: int)
  requires n <= a.Length
  ensures 0 <= r <= n
{
  r := 0;
  var i := 0;
  while i < n
  {
    if (a[i] > 0) {
      r := r + 1;
    }
    i := i + 1;
  }
  var c := Red;
  assume {:axiom} n >= 0; // its own
}
"""
LOOP = "  while i < n\n"
START = "  r := 0;\n"
END = "  var c := Red;\n"
LEMMA = "method Step("
FUNCTION = "{ 2 * x }"


def edited(*edits: tuple[str, str]) -> str:
    """The given text with pieces replaced, each of which it holds once."""
    text = GIVEN
    for before, after in edits:
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    return text


def before(piece: str, inserted: str) -> str:
    return edited((piece, inserted + piece))


def behind(piece: str, inserted: str) -> str:
    return edited((piece, piece + inserted))


PROVED = "  assert 0 <= i;\n"

CHEATS = {
    "assume": [
        before(END, "  assume {:axiom} false;\n"),
        before(END, "  assert r >= 0 by { assume {:axiom} false; }\n"),
        before(END, "  calc { 1; == { assume {:axiom} false; } 2; }\n"),
        before(END, "  forall k: int ensures k > k { assume {:axiom} false; }\n"),
        before(LEMMA, "lemma False()\n  ensures false\n{ assume {:axiom} false; }\n\n"),
    ],
    "assume in an expression": [
        edited((FUNCTION, "{ assume {:axiom} false; 2 * x }")),
        before(END, "  assert (assume {:axiom} false; true);\n"),
        behind(LOOP, "    invariant (assume {:axiom} r <= i; true)\n"),
    ],
    "assign such that, assumed": [
        before(END, "  ghost var w :| assume {:axiom} w > w;\n"),
        before(END, "  assert true by { var w :| assume {:axiom} false; }\n"),
    ],
    "expect": [before(END, "  expect false;\n"), before(END, "  expect r <= n, \"no\";\n")],
    "axioms": [
        before(LEMMA, "lemma {:axiom} False()\n  ensures false\n\n"),
        before(LEMMA, "lemma {:axiom} False()\n  ensures false\n{ }\n\n"),
        before(LEMMA, "@Axiom\nlemma False()\n  ensures false\n\n"),
        before(LEMMA, "ghost function {:axiom} Wrong(): int\n  ensures false\n\n"),
        edited((FUNCTION, FUNCTION), ("lemma Twice", "lemma {:axiom} Twice")),
    ],
    "an empty type": [
        before(LEMMA, "type R = x: int | false witness *\nghost method Get() returns (r: R)\n\n"),
        before(LEMMA, "type R = x: int | false witness *\nghost function Get(): R\n\n"),
        before(LEMMA, "newtype R = x: int | false witness *\n\n"),
    ],
    "modules": [
        before("predicate Positive", "abstract module A { lemma False() ensures false }\n"),
        before("predicate Positive", "replaceable module A { lemma False() ensures false }\n"),
        "module A {\n" + GIVEN + "}\n",
    ],
    "attributes on what is given": [
        edited(("method Count", "method {:selective_checking} Count")),
        edited(("method Count", "method {:verify false} Count")),
        edited(("method Count", "method {:extern} Count")),
        edited(("method Count", "method {:only} Count")),
        edited(("method Count", "@VerifyOnly\nmethod Count")),
        edited(("method Count", "method {:/*c*/verify/**/ false} Count")),
        edited(("method Count", "method {:timeLimit 1} Count")),
        edited(("function Double", "function {:autoReq} Double")),
        edited(("  while i < n", "  while {:termination false} i < n")),
    ],
    "attributes on hints": [
        before(END, "  assert {:only} true;\n"),
        before(END, "  assert {:verify false} false;\n"),
        before(END, "  assert {:error \"x\"} false;\n"),
        before(LEMMA, "lemma {:verify false} False()\n  ensures false\n{ }\n\n"),
        before(LEMMA, "lemma {:extern} False()\n  ensures false\n{ }\n\n"),
        before(LEMMA, "lemma {:only} Small()\n{ }\n\n"),
    ],
    "preprocessor": [
        edited((END, "#if NO\n" + END), ("its own\n", "its own\n#endif\n")),
        edited((END, "   #if NO\n" + END), ("its own\n", "its own\n   #endif\n")),
        edited((END, "/*\n#if NO\n*/\n" + END), ("its own\n", "its own\n/*\n#endif\n*/\n")),
        edited((END, "// x\r#if NO\n" + END), ("its own\n", "its own\n#endif\n")),
    ],
    "a loop in front of the body": [
        edited((LOOP, "  while i < n invariant r <= n { }\n")),
        edited((LOOP, LOOP + "  { }\n")),
        edited((LOOP, LOOP + "    invariant i <= n\n  { i := n; }\n")),
    ],
    "a body that looks like part of an invariant": [
        behind(LOOP, "    invariant match 0 case _ => i <= n { i := n; }\n"),
        behind(LOOP, "    invariant assert true by {} i <= n; { i := n; }\n"),
        behind(LOOP, "    invariant a is array<int> { i := n; }\n"),
        behind(LOOP, "    invariant multiset{r} is multiset { i := n; }\n"),
        behind(LOOP, "    invariant match 0 { case _ => a is array<int> } { i := n; }\n"),
    ],
    "code that looks like part of an assertion": [
        before(END, "  assert assert true by {} true; r := 0;\n"),
        before(END, "  assert a is array<int> by {} r := 0;\n"),
        before(END, "  if a is array<int> { r := 0; } { assert true; }\n"),
    ],
    "an if in front of a block": [
        edited((LOOP, LOOP + "  if false\n")),
        edited(("    if (a[i] > 0) {", "    if false {} else if (a[i] > 0) {")),
        edited(("    if (a[i] > 0) {", "    if (a[i] > 0) { } else if a[i] == 0 {")),
    ],
    "termination": [
        before(LEMMA, "trait {:termination false} T { }\n"),
        edited(("predicate Positive", "@AssumeCrossModuleTermination\npredicate Positive")),
        behind(LOOP, "    decreases *\n"),
        edited(("  ensures 0 <= r <= n\n", "  ensures 0 <= r <= n\n  decreases *\n")),
        behind(LOOP, "    decreases n - i, *\n"),
        edited(("  ensures 0 <= r <= n\n", "  ensures 0 <= r <= n\n  decreases n, *\n")),
        before(LEMMA, "lemma More(x: int)\n  decreases x, *\n{ }\n\n"),
        before(LEMMA, "lemma More(x: int) { while true decreases x, * { } }\n\n"),
    ],
    "include": ['include "other.dfy"\n' + GIVEN, before("datatype", 'include "other.dfy"\n')],
    "shadowing": [
        edited(("method Count", "class K { predicate Positive(x: int) { true }\nmethod Count")) + "}\n",
        edited(("method Count", "module K { const n := 0\nmethod Count")) + "}\n",
        before("predicate Positive", "module O { predicate Positive(x: int) { true } }\nimport opened O\n"),
        edited(("method Count(", "method Count<Color>(")),
        edited(("method Count(", "method Count<int>(")),
        before(LEMMA, "predicate Positive(x: int) { true }\n\n"),
        before(LEMMA, "const n := 0\n"),
    ],
    "a ghost that catches": [
        edited(("      r := r + 1;\n", "      ghost var r := 0;\n      r := r + 1;\n")),
        before("    i := i + 1;\n", "    ghost var i := 0;\n"),
        before("    i := i + 1;\n", "    ghost var fresh1, i := 0, 0;\n"),
        before(END, "  forall k: int ensures true { r := 0; }\n"),
        before(LEMMA, "lemma Positive(x: int)\n{ }\n\n"),
    ],
    "contracts": [
        edited(("  ensures 0 <= r <= n", "  ensures false ==> 0 <= r <= n")),
        edited(("  ensures 0 <= r <= n", "  ensures assert true; 0 <= r <= n")),
        behind("  requires n <= a.Length\n", "  requires false\n"),
        behind("  requires n <= a.Length\n", "  modifies a\n"),
        behind("  requires n <= a.Length\n", "  ensures r >= 0\n"),
        behind("  ensures 0 <= r <= n\n", "  decreases a is array<int> requires false\n"),
        edited(("  ensures 0 <= r <= n\n", "")),
        edited(("  ensures 0 <= r <= n\n", "  ensures 0 <= r\n")),
        edited((" { x > 0 }", " reads {} { x > 0 }")),
    ],
    "parameters": [
        edited(("method Count(a", "method Count(ghost a")),
        edited(("n: nat)", "ghost n: nat)")),
        edited(("n: nat)", "n: nat, m: nat := 0)")),
    ],
    "jumps": [
        before(LOOP, "  return;\n"),
        before("    i := i + 1;\n", "    break;\n"),
        before("    i := i + 1;\n", "    continue;\n"),
        before(END, "  return r;\n"),
    ],
    "code": [
        before(END, "  r := 0;\n"),
        before(END, "  var more := 1;\n"),
        before(END, "  r := Step(r);\n"),
        before(END, "  ghost var more := Step(r);\n"),
        before(END, "  ghost var more := r.MoveNext();\n"),
        before(END, "  print r;\n"),
        edited(("r := r + 1", "r := r + 0")),
        edited((END, "")),
        edited(("i < n", "i <= n")),
        edited(("a[i] > 0", "a[i] >= 0")),
        edited(("{ x > 0 }", "{ x > 1 }")),
        before(LEMMA, "method More() { }\n"),
        before(LEMMA, "ghost predicate More() { true }\n"),
    ],
    "comments that end early": [
        before(END, "  // all is well\r  assume {:axiom} false;\n"),
        before(END, "  /* /* */ */ assume {:axiom} false; /* */\n"),
        before(END, "  assert '\"' == '\"'; assume {:axiom} false; // \"\n"),
        before(END, "  // \f\r  r := 0;\n"),
    ],
    "comments that do not end": [
        edited((END, "  // \u2028" + END.strip() + "\n")),
        edited((END, "  // \f" + END.strip() + "\n")),
        edited((END, "  /* /* */ " + END.strip() + " */\n")),
    ],
    "names with primes": [
        edited(("var c := Red", "var c' := Red")),
        edited(("  r := 0;\n", "  r' := 0;\n")),
    ],
    "a warning only": [
        before(END, "  assume false;\n"),
        before(END, "  assume r <= n;\n"),
        before(LEMMA, "lemma False()\n  ensures false\n\n"),
        before(LEMMA, "lemma False()\n  ensures false;\n\n"),
        before(END, "  forall k: int ensures k > k\n"),
        before(END, "  forall k: int ensures k > k;\n"),
        before(END, "  while false invariant true\n"),
        before(LEMMA, "lemma W() ensures false { while true invariant true decreases 0 }\n\n"),
    ],
    "refused by Dafny": [
        before(LEMMA, "lemma False()\n  ensures false\n  decreases *\n{ False(); }\n\n"),
        "{:options \"--no-verify\"}\n" + GIVEN,
        edited(("method Count", "@Verify(false)\nmethod Count")),
        edited(("method Count", "class {:verify false} K { }\nmethod Count")),
        edited(("predicate Positive", "module {:verify false} K { }\npredicate Positive")),
        before(END, "  assert ré == 1;\n"),
        edited(("  r := 0;", "\u00a0 r := 0;")),
        edited(("  r := 0;", "\0 r := 0;")),
    ],
}  # fmt: skip


REASONS = {
    "assume": [
        "no hint: assume",
        "no hint: assume",
        "no hint: assume",
        "no hint: assume",
        "no hint: assume",
    ],
    "assume in an expression": [
        "'assume {:axiom} false;'",
        "no hint: assume",
        "no hint: assume",
    ],
    "assign such that, assumed": [
        "no hint: assume",
        "no hint: assume",
    ],
    "expect": [
        "no hint: expect",
        "no hint: expect",
    ],
    "axioms": [
        "no hint: a new lemma without a body",
        "no hint: the attribute {:axiom}",
        "no hint: a new lemma with @",
        "'ghost function {:axiom} Wrong'",
        "'{:axiom} Twice(x'",
    ],
    "an empty type": [
        "'type R = x: int'",
        "'type R = x: int'",
        "followed: found 'y', expected a declaration",
    ],
    "modules": [
        "'abstract module A { lemma False'",
        "'replaceable module A { lemma False'",
        "'module A {'",
    ],
    "attributes on what is given": [
        "'{:selective_checking} Count(a'",
        "'{:verify false} Count('",
        "'{:extern} Count(a'",
        "'{:only} Count(a'",
        "'@VerifyOnly'",
        "'{:/*c*/verify/**/ false} Count('",
        "'{:timeLimit 1} Count('",
        "'{:autoReq} Double(x'",
        "'{:termination false} i <'",
    ],
    "attributes on hints": [
        "no hint: the attribute {:only}",
        "no hint: the attribute {:verify}",
        "no hint: the attribute {:error}",
        "no hint: the attribute {:verify}",
        "no hint: the attribute {:extern}",
        "no hint: the attribute {:only}",
    ],
    "preprocessor": [
        "followed: found '#if NO', expected no line that begins with #",
        "followed: found '#if NO', expected no line that begins with #",
        "followed: found '#if NO', expected no line that begins with #",
        "followed: found '#if NO', expected no line that begins with #",
    ],
    "a loop in front of the body": [
        "'}'",
        "'}'",
        "no hint: an assignment: i := n;",
    ],
    "a body that looks like part of an invariant": [
        "no hint: an assignment: i := n;",
        "no hint: braces that may be a body",
        "no hint: braces that may be a body",
        "no hint: braces that may be a body",
        "no hint: an assignment: i := n;",
    ],
    "code that looks like part of an assertion": [
        "no hint: an assignment: r := 0;",
        "no hint: an assignment: r := 0;",
        "no hint: braces that may be a body",
    ],
    "an if in front of a block": [
        "'if false'",
        "'false {} else if ('",
        "'} else if a[i'",
    ],
    "termination": [
        "'trait {:termination false} T'",
        "'@AssumeCrossModuleTermination'",
        "no hint: decreases * gives up that it ends",
        "no hint: decreases * gives up that it ends",
        "no hint: decreases * gives up that it ends",
        "no hint: decreases * gives up that it ends",
        "no hint: a lemma with decreases *",
        "no hint: while without a body or an end",
    ],
    "include": [
        "'include \"other.dfy\"'",
        "'include \"other.dfy\"'",
    ],
    "shadowing": [
        "'class K { predicate Positive('",
        "'module K { const n :='",
        "'module O { predicate Positive('",
        "'<Color>(a:'",
        "'<int>(a:'",
        "'predicate Positive(x: int'",
        "'const n := 0'",
    ],
    "a ghost that catches": [
        "no hint: a variable with a name that is there already: r",
        "no hint: a variable with a name that is there already: i",
        "no hint: a variable with a name that is there already: i",
        "no hint: an assignment: r := 0;",
        "no hint: a new lemma with a name that is there already: Positive",
    ],
    "contracts": [
        "'false ==> 0 <= r <='",
        "'assert true; 0 <= r'",
        "'requires false'",
        "'modifies a'",
        "'r >= 0'",
        "'requires false'",
        "'{'",
        "'{'",
        "'reads {} { x >'",
    ],
    "parameters": [
        "'ghost a: array<int'",
        "'ghost n: nat) returns'",
        "', m: nat := 0'",
    ],
    "jumps": [
        "no hint: return",
        "no hint: break",
        "no hint: continue",
        "no hint: return",
    ],
    "code": [
        "no hint: an assignment: r := 0;",
        "'more := 1;'",
        "no hint: a call of the method Step",
        "no hint: a call of the method Step",
        "no hint: a call of the method MoveNext",
        "no hint: print",
        "'0;'",
        "no hint: assume",
        "'<= n'",
        "'>= 0) {'",
        "'1 }'",
        "'More() { }'",
        "'ghost predicate More() {'",
    ],
    "comments that end early": [
        "no hint: assume",
        "no hint: assume",
        "no hint: assume",
        "no hint: an assignment: r := 0;",
    ],
    "comments that do not end": [
        "no hint: assume",
        "no hint: assume",
        "no hint: assume",
    ],
    "names with primes": [
        '"c\' := Red;"',
        "no hint: var is no hint",
    ],
    "a warning only": [
        "no hint: assume",
        "no hint: assume",
        "no hint: a new lemma without a body",
        "no hint: a new lemma without a body",
        "no hint: assume",
        "no hint: forall without a body or an ensures",
        "no hint: assume",
        "no hint: while without a body or an end",
    ],
    "refused by Dafny": [
        "no hint: a lemma with decreases *",
        "followed: found '{:', expected a declaration",
        "'@Verify(false)'",
        "'class {:verify false} K'",
        "'module {:verify false} K'",
        "no hint: 'é'",
        "no hint: '\\xa0'",
        "no hint: an assignment: \x00 r := 0;",
    ],
}
"""Of each case: what was found where the given text goes on otherwise, or what no hint may be."""


@pytest.mark.parametrize(
    ("way", "number"), [(way, number) for way, texts in CHEATS.items() for number in range(len(texts))]
)
def test_a_cheat_is_refused(way: str, number: int) -> None:
    """For what it does: the reason holds what was found where, or what no hint may hold."""
    [reason] = refusals(GIVEN, CHEATS[way][number])
    assert REASONS[way][number] in reason


def test_each_way_has_two_cases() -> None:
    assert {way: len(texts) for way, texts in CHEATS.items()} == {
        way: len(reasons) for way, reasons in REASONS.items()
    }
    assert all(len(texts) >= 2 and len(set(texts)) == len(texts) for texts in CHEATS.values())
    assert len(CHEATS) > 20


HONEST = {
    "nothing": GIVEN,
    "invariants": behind(LOOP, "    invariant 0 <= i <= n\n    invariant r <= i\n"),
    "a measure": behind(LOOP, "    decreases n - i\n"),
    "a measure of a method": edited(("  ensures 0 <= r <= n\n", "  ensures 0 <= r <= n\n  decreases n\n")),
    "a measure of a lemma": edited(("x + x\n", "x + x\n  decreases x\n")),
    "an assertion": before(END, "  assert r <= n;\n"),
    "a labelled assertion": before(END, "  assert L: r <= n;\n"),
    "an assertion with a proof": before(END, "  assert Double(r) == r + r by { Twice(r); }\n"),
    "a variable inside a proof": before(END, "  assert r == r by { var k := r; assert k == r; }\n"),
    "a call of a lemma": before(END, "  Twice(r);\n"),
    "a call of a believed lemma": before(END, "  Believed(r);\n"),
    "a calculation": before(END, "  calc {\n    Double(r);\n    == { Twice(r); }\n    r + r;\n  }\n"),
    "a calculation with signs": before(END, "  calc ==> { r > 1; ==> r > 0; <==> { } 0 < r; }\n"),
    "forall": before(END, "  forall k | 0 <= k < n ensures Double(k) == k + k { Twice(k); }\n"),
    "forall in parentheses": before(END, "  forall (k | 0 <= k < n) ensures k >= 0 { }\n"),
    "a ghost variable": before(END, "  ghost var before1 := r;\n  assert before1 == r;\n"),
    "a ghost with a type": before(END, "  ghost var before1: int, before2: int := r, r;\n"),
    "a witness": before(END, "  ghost var w :| w > r;\n"),
    "a ghost that changes": before(END, "  ghost var before1 := r;\n  before1 := before1 + 1;\n"),
    "a ghost if": before(END, "  if r > 0 { assert r != 0; } else { Twice(r); }\n"),
    "a ghost match": before(END, "  match r { case 0 => assert r == 0; case _ => }\n"),
    "a block": before(END, "  { assert r == r; }\n"),
    "a helper lemma": before(LEMMA, "lemma Helper(x: int)\n  requires x > 0 ensures x >= 1\n{ Twice(x); }\n"),
    "a helper lemma that is called": edited(
        (LEMMA, "lemma Helper(x: int) ensures x == x { }\n\n" + LEMMA), (END, "  Helper(r);\n" + END)
    ),
    "a helper lemma with a loop": before(
        LEMMA, "lemma Helper(x: nat) { var k := x; while k > 0 decreases k { k := k - 1; } }\n\n"
    ),
    "a helper lemma with attributes": before(LEMMA, "lemma {:induction x} Helper(x: nat) { }\n\n"),
    "a ghost with types of its type": before(END, "  ghost var m: map<int, int>, s: set<nat> := *, {};\n"),
    "a match in an invariant": behind(LOOP, "    invariant match r { case 0 => true case _ => i > 0 }\n"),
    "a match without braces": behind(LOOP, "    invariant match r case 0 => true case _ => i > 0\n"),
    "sets in an invariant": behind(LOOP, "    invariant r in {r} && {i} <= {i, r} && |{r}| == 1\n"),
    "a multiset in a measure": behind(LOOP, "    decreases multiset{n - i}, var k := n - i; k\n"),
    "variables in the body of a lemma": edited(
        ("x + x\n{ }", "x + x\n{ var k := x; var w :| w > x; var more: map<int, int> := map[]; k := k + 1; }")
    ),
    "an assertion with a proof in a function": edited((FUNCTION, "{ assert 2 * x == x + x by { } 2 * x }")),
    "the body of a lemma filled in": edited(("x + x\n{ }", "x + x\n{ assert 2 * x == x + x; }")),
    "an assertion in a function": edited((FUNCTION, "{ assert 2 * x == x + x; 2 * x }")),
    "a lemma in a function": edited((FUNCTION, "{ Twice(0); 2 * x }")),
    "semicolons of old": edited(("  requires n <= a.Length\n", "  requires n <= a.Length;\n")),
    "parentheses taken away": edited(("if (a[i] > 0) {", "if a[i] > 0 {")),
    "parentheses put in": edited(("while i < n\n", "while (i < n)\n")),
    "line breaks": edited(("  while i < n\n  {", "  while\n    i < n {")),
    "comments": before(END, "  // assume false, {:axiom}\n  /* expect /* nested */ false */\n"),
    "the word in a string": before(END, '  assert "assume" != "expect";\n'),
    "carriage returns": GIVEN.replace("\n", "\r\n"),
    "a byte order mark": "\ufeff" + GIVEN,
    "a trigger": before(END, "  assert forall k {:trigger Double(k)} :: Double(k) == 2 * k;\n"),
    "old at a label of its own": before(END, "  assert old(a[..]) == a[..];\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_answer_is_accepted(name: str) -> None:
    assert refusals(GIVEN, HONEST[name]) == []


def test_thirty_honest_answers_differ() -> None:
    assert len(set(HONEST.values())) == len(HONEST) >= 30


def test_a_lemma_without_a_body_may_be_given_one() -> None:
    given = "lemma L(x: int)\n  ensures x == x\n\nmethod M() { }\n"
    answer = given.replace("x == x\n", "x == x\n{\n  assert x == x;\n}\n")
    assert refusals(given, answer) == []
    assert refusals(given, answer.replace("assert x", "assume x"))
    assert refusals(given, answer.replace("assert x == x;", "return;"))


def test_a_hint_may_not_end_before_an_else() -> None:
    given = "method M(x: int) { if x > 0 { } else { assert true; } }"
    assert refusals(given, "method M(x: int) { if x > 0 { } if x == 0 { } else { assert true; } }")
    assert refusals(given, given) == []


BRANCHES = "method M(c: bool, p: bool) returns (x: int) { if c { x := 1; } else { x := 2; } }"


@pytest.mark.parametrize(
    ("branch", "found"),
    [
        ("else {} {", "'} { x := 2;' where the given text has 'x := 2; } }'"),
        ("else if p {} {", "inserted, but no hint: a branch of its own"),
        ("else if p {} else {} {", "inserted, but no hint: a branch of its own"),
    ],
)
def test_a_hint_may_not_take_the_place_of_an_else(branch: str, found: str) -> None:
    """What was its block would always run."""
    assert refusals(BRANCHES, BRANCHES.replace("else {", branch)) == [f"line 1: {found}"]
    assert refusals(BRANCHES, BRANCHES.replace("else {", "else { assert true; {} ")) == []


GENERIC = """method Fill<T>(a: array<T>, t: T) modifies a
lemma L<T>(b: bool) { }
method M(a: array<bool>) modifies a { }
"""


@pytest.mark.parametrize(
    "call",
    [
        "Fill<bool>(a, exists L :: L == 0);",
        "ghost var z := Fill<bool>(a, true);",
        "ghost var z := Fill<array<set<int>>>(a, true);",
        "Fill(a, true);",
        "assert true by { Fill<bool>(a, L<bool>(true)); }",
    ],
)
def test_a_method_is_known_by_its_name_before_types(call: str) -> None:
    [reason] = refusals(GENERIC, GENERIC.replace("modifies a { }", f"modifies a {{ {call} }}"))
    assert reason == "line 3: inserted, but no hint: a call of the method Fill"
    assert refusals(GENERIC, GENERIC.replace("a { }", "a { L<set<int>>(1 < 2); }")) == []


@pytest.mark.parametrize(
    "inside",
    [
        "{ " * 300 + "} " * 300,
        "if true { }" + " else if true { }" * 1200,
        "match 0 case _ => " * 300,
        "calc { " * 300 + "} " * 300,
    ],
)
def test_what_is_nested_too_deeply_is_refused(inside: str) -> None:
    """In one line, as everything that cannot be followed."""
    text = f"method M() {{ {inside} }}"
    [reason] = refusals(text, text)
    assert reason.startswith("the given text cannot be followed: found ")
    assert reason.endswith("expected at most 100 statements in each other")
    with pytest.raises(UnreadableError):
        strip(text)
    deep = "method M() { " + "{ " * 90 + "} " * 90 + "}"
    assert refusals(deep, deep.replace("{ }", "{ assert true; }")) == []


def test_what_cannot_be_followed_in_a_function_is_refused() -> None:
    text = edited((FUNCTION, "{ calc { 1 } 2 * x }"))
    assert refusals(GIVEN, text) == ["the answer cannot be followed: found '}', expected ;"]


def test_new_warnings_refuse() -> None:
    said = ["assume statement has no {:axiom} annotation", "No trigger: this may cause brittle verification."]
    assert new_warnings(said, said) == []
    assert new_warnings(said[1:], said) == ["Dafny warns: assume statement has no {:axiom} annotation"]
    assert new_warnings([], said[1:]) == []
    assert new_warnings([said[0]], [said[0]] * 2) != []


def test_what_cannot_be_followed_is_refused() -> None:
    [reason] = refusals(GIVEN, GIVEN + "}")
    assert reason.startswith("the answer cannot be followed")
    [reason] = refusals(GIVEN + "}", GIVEN)
    assert reason.startswith("the given text cannot be followed")


def test_reasons_name_the_line() -> None:
    text = before(END, "  assume {:axiom} false;\n")
    line = text[: text.index("assume {:axiom} false")].count("\n") + 1
    assert refusals(GIVEN, text) == [f"line {line}: inserted, but no hint: assume"]


def test_a_lemma_that_calls_itself_is_whole_and_proves_nothing(dafny: Tools) -> None:
    """Harmless: it is the form of every induction, and Dafny wants to see it end."""
    text = edited(
        (LEMMA, "lemma False()\n  ensures false\n{ False(); }\n\n" + LEMMA), (END, "  False();\n" + END)
    )
    assert refusals(GIVEN, text) == []
    text = text.replace("while i < n\n", "while i < n invariant 0 <= r <= i <= n\n")
    verdict = dafny_verify(text, dafny, Verifier())
    assert verdict.verdict == "failed"
    assert any("decreases" in one.message for one in verdict.diagnostics)

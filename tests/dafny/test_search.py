"""Houdini and the stages, against judges of planted truth instead of Dafny."""

from __future__ import annotations

from collections.abc import Collection

from steps.dafny.judges.strict import refusals
from steps.dafny.prover.houdini import prune
from steps.dafny.prover.search import prove
from steps.dafny.syntax.hints import Insertion
from steps.dafny.verifier.results import ERROR, Answer, Diagnostic

GIVEN = """method M(n: nat) returns (i: nat)
  ensures i == n
{
  i := 0;
  while i < n
  {
    i := i + 1;
  }
}
"""


class Planted:
    """Answers as Dafny would, if exactly some invariants were true and some of these were needed.

    Args:
        true: the invariants that hold.
        needed: those without which the contract fails.
        unresolved: pieces that no text may hold.
    """

    def __init__(self, true: Collection[str], needed: Collection[str], unresolved: str = "\0") -> None:
        self.true, self.needed, self.unresolved = set(true), set(needed), unresolved
        self.asked: list[str] = []

    def __call__(self, text: str) -> Answer:
        self.asked.append(text)
        lines = text.split("\n")
        wrong = [number for number, line in enumerate(lines) if self.unresolved in line]
        if wrong:
            return Answer("unresolved", tuple(self._at(number, "unresolved identifier") for number in wrong))
        stated = {
            line.strip().removeprefix("invariant "): number
            for number, line in enumerate(lines)
            if "invariant" in line
        }
        found = [
            self._at(number, "not maintained") for text, number in stated.items() if text not in self.true
        ]
        if not self.needed <= stated.keys():
            found.append(self._at(2, "a postcondition could not be proved", (1, 2, "this one")))
        return Answer("failed" if found else "proved", tuple(found))

    @staticmethod
    def _at(line: int, message: str, *related: tuple[int, int, str]) -> Diagnostic:
        return Diagnostic(line, 4, ERROR, "Verifier", message, related)


def hints(*texts: str) -> list[Insertion]:
    offset = GIVEN.index("\n  {")
    return [Insertion(offset, f"invariant {text}", "    ") for text in texts]


def test_false_candidates_fall_in_one_round_and_true_ones_stay() -> None:
    ask = Planted({"A", "C"}, {"A", "C"})
    left, answer = prune(GIVEN, hints("A", "B", "C", "D"), ask, 9)
    assert left == [0, 2]
    assert answer is not None
    assert answer.state == "proved"
    assert len(ask.asked) == 2


def test_what_does_not_resolve_is_dropped() -> None:
    left, answer = prune(GIVEN, hints("A", "x.y", "B"), Planted({"A"}, {"A"}, "x.y"), 9)
    assert left == [0]
    assert answer is not None
    assert answer.state == "proved"


class Elsewhere(Planted):
    """What does not resolve is said of the first line, as for types that do not fit."""

    def __call__(self, text: str) -> Answer:
        answer = super().__call__(text)
        moved = (self._at(0, one.message) for one in answer.diagnostics)
        return Answer(answer.state, tuple(moved)) if answer.state == "unresolved" else answer


def test_the_dear_ones_go_where_another_line_is_blamed() -> None:
    left, answer = prune(GIVEN, hints("A", "B", "C", "x.y"), Elsewhere({"A"}, {"A"}, "x.y"), 9)
    assert left == [0]
    assert answer is not None
    assert answer.state == "proved"


def test_a_stage_that_does_not_resolve_takes_nothing_back() -> None:
    proof = prove(GIVEN, Elsewhere({"i <= n"}, {"i == i"}, "i == i"), 3)
    assert (proof.stage, proof.proved) == ("recursion", False)
    assert proof.hints == [["bounds", "i <= n"]]
    assert proof.unproved == ["a postcondition could not be proved: ensures i == n"]


def test_what_is_left_may_not_be_enough() -> None:
    left, answer = prune(GIVEN, hints("A", "B"), Planted({"A"}, {"A", "C"}), 9)
    assert left == [0]
    assert answer is not None
    assert answer.state == "failed"


def test_too_few_questions_give_nothing() -> None:
    assert prune(GIVEN, hints("A", "B"), Planted({"A"}, {"A"}), 1)[1] is None


def test_the_dear_ones_go_where_dafny_gives_up() -> None:
    def ask(text: str) -> Answer:
        if text.count("invariant") > 1:
            return Answer(
                "failed", (Diagnostic(0, 7, ERROR, "Verifier", "Verification out of resource (M)"),)
            )
        return Answer("proved")

    assert prune(GIVEN, hints("A", "B", "C"), ask, 9)[0] == [0]


def test_a_bare_program_is_left_alone() -> None:
    ask = Planted({"true"}, set())
    proof = prove(GIVEN, ask, 9)
    assert (proof.text, proof.stage, proof.proved, proof.hints, proof.calls) == (GIVEN, "bare", True, [], 1)


def test_bounds_come_first() -> None:
    proof = prove(GIVEN, Planted({"i <= n", "0 <= i"}, {"i <= n"}), 9)
    assert (proof.stage, proof.proved) == ("bounds", True)
    assert proof.hints == [["bounds", "0 <= i"], ["bounds", "i <= n"]]
    assert refusals(GIVEN, proof.text) == []
    assert proof.unproved == []


def test_then_all_that_the_contract_suggests() -> None:
    proof = prove(GIVEN, Planted({"n <= n", "i == i", "i <= n"}, {"i == i", "i <= n"}), 9)
    assert (proof.stage, proof.proved) == ("posts", True)
    assert ["posts", "i == i"] in proof.hints
    assert refusals(GIVEN, proof.text) == []


def test_a_miss_says_what_fails() -> None:
    proof = prove(GIVEN, Planted({"i <= n"}, {"something else"}), 9)
    assert (proof.stage, proof.proved) == ("recursion", False)
    assert proof.unproved == ["a postcondition could not be proved: ensures i == n"]
    assert proof.hints == [["bounds", "i <= n"]]


def test_texts_that_cannot_be_followed_are_left_alone() -> None:
    given = "#if X\n" + GIVEN
    proof = prove(given, Planted(set(), {"A"}), 9)
    assert proof.text == given
    assert proof.unproved[-1].startswith("the prover does not follow the text")
    assert prove(GIVEN, Planted(set(), set(), "method"), 9).calls == 1  # it does not resolve as it is

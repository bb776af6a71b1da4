"""The stages of a proof: as it is, with bounds, with the contract, with recursion.

Insert-only by construction. What of a text fails after the last stage is kept: it says what the stages lack.
"""

from __future__ import annotations

from typing import NamedTuple

from steps.dafny.prover.candidates import FAMILIES, Candidate, loops, of_loop
from steps.dafny.prover.houdini import Ask, prune
from steps.dafny.syntax.hints import Insertion, insert
from steps.dafny.syntax.program import Program, UnreadableError
from steps.dafny.syntax.tokens import Lines
from steps.dafny.verifier.results import Answer

STAGES = {"bounds": FAMILIES[:2], "posts": FAMILIES[:4], "recursion": FAMILIES}
"""The families of candidates of each stage; ``bare``, the given text alone, comes first."""


class Proof(NamedTuple):
    """What the search ends with."""

    text: str
    """The given text, with hints where some were left."""
    stage: str
    """The last that was tried."""
    proved: bool
    """As the warm server says, which is no verdict."""
    hints: list[list[str]]
    """Family and text of each hint."""
    unproved: list[str]
    """What still fails, as Dafny puts it, with the text that it is about."""
    calls: int = 0
    """Questions that were asked."""


def prove(given: str, ask: Ask, calls: int) -> Proof:
    """Look for hints with which the given text verifies.

    Args:
        given: the program.
        ask: the warm server.
        calls: how often it may be asked in each stage.
    """
    asked = 0

    def counted(text: str) -> Answer:
        nonlocal asked
        asked += 1
        return ask(text)

    return _search(given, counted, calls)._replace(calls=asked)


def _search(given: str, ask: Ask, calls: int) -> Proof:
    answer = ask(given)
    proof = Proof(given, "bare", answer.state == "proved", [], _unproved(given, answer))
    if proof.proved or answer.state in ("unresolved", "lost"):
        return proof
    try:
        program = Program(given)
    except UnreadableError as error:
        return proof._replace(unproved=[*proof.unproved, f"the prover does not follow the text: {error}"])
    candidates = _candidates(program)
    for stage, families in STAGES.items():
        chosen = [pair for pair in candidates if pair[0].family in families]
        if not chosen:
            continue
        places = [place for _, place in chosen]
        left, last = prune(given, places, ask, calls)
        if last is None or last.state in ("unresolved", "lost"):  # no text to go on from
            proof = proof._replace(stage=stage)
            continue
        text, _ = insert(given, [places[number] for number in left])
        hints = [[chosen[number][0].family, chosen[number][0].text] for number in left]
        proof = Proof(text, stage, last.state == "proved", hints, _unproved(text, last))
        if proof.proved:
            break
    return proof


def _candidates(program: Program) -> list[tuple[Candidate, Insertion]]:
    """All candidates of all loops, and where each is to stand: at the end of the loop's header."""
    found = []
    for loop in loops(program):
        opens = loop.statement.opens
        if opens is None:
            continue
        start = program.tokens[loop.statement.start].start
        line = program.text[program.text.rfind("\n", 0, start) + 1 : start]
        indent = line[: len(line) - len(line.lstrip(" \t"))] + "  "
        offset = program.tokens[opens - 1].end
        for one in of_loop(program, loop):
            found.append((one, Insertion(offset, f"invariant {one.text}", indent)))
    return found


def _unproved(text: str, answer: Answer) -> list[str]:
    """The failures of an answer in words: message and the line that it is about."""
    lines = Lines(text)
    found = []
    for one in answer.diagnostics:
        line = one.related[0][0] if one.related else one.line
        found.append(f"{one.summary}: {text[lines.offset(line, 0) : lines.offset(line + 1, 0)].strip()}")
    return list(dict.fromkeys(found))

"""Houdini: of many candidate invariants, the largest set that proves itself.

All candidates stand in the text at once; those that fail are dropped until none does (Flanagan and Leino
2001). The server is told to report every failure and to let no failed candidate support another, so that a
few rounds do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from steps.dafny.syntax.hints import Insertion, insert
from steps.dafny.verifier.results import Answer

Ask = Callable[[str], Answer]

OUT = "out of resource"


def prune(
    given: str, candidates: Sequence[Insertion], ask: Ask, calls: int
) -> tuple[list[int], Answer | None]:
    """What is left of the candidates, and what the server says of the text with these.

    Args:
        given: the program.
        candidates: hints, each of one line.
        ask: the warm server.
        calls: how often it may be asked.

    Returns:
        The places of those that are left, in order; no answer where the questions ran out before.
    """
    alive = list(range(len(candidates)))
    for _ in range(calls):
        text, lines = insert(given, [candidates[number] for number in alive])
        answer = ask(text)
        if answer.state == "proved":
            return alive, answer
        at_fault = {one.line for one in answer.diagnostics}
        left = [number for number, line in zip(alive, lines, strict=True) if line not in at_fault]
        if len(left) == len(alive):
            # an error that names no candidate's line, as of types, may yet come from one
            gave_up = answer.state in ("lost", "unresolved")
            gave_up |= any(OUT in one.message for one in answer.diagnostics)
            if not (gave_up and alive):
                return alive, answer
            left = alive[: len(alive) // 2]  # the dear ones stand behind
        alive = left
    return alive, None

"""Hidden triggers by gradients: greedy coordinate gradient.

Zou et al. 2023, *Universal and Transferable Adversarial Attacks on Aligned Language Models*, arXiv
2307.15043, algorithm 1, with restarts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steps.audit.methods.grammar import Grammar
from steps.audit.methods.search import found_triggers

if TYPE_CHECKING:
    import numpy as np

    from steps.audit.gateway.client import Session

TOP_K = 24
"""Tokens for each slot that the gateway names."""

CANDIDATES = 32
"""Swaps of a single slot that are tried in a step."""

WAIT = 6
"""Steps without a lower loss after which the slots are filled again."""

NEAR = 3.0
"""Loss of the payload, in nats, below which it is worth a query to see whether it is said."""


def gcg(session: Session, grammar: Grammar, random: np.random.Generator) -> dict[str, Any]:
    """Search each question's slots by the gradient of the payload's loss.

    A step asks for the gradient (one query) and tries swaps; a row that is near is generated (one more).

    Returns:
        As :func:`found_triggers`.
    """
    hits = []
    for name in grammar.asked:
        hit = _attacked(session, grammar, name, session.budget // len(grammar.asked), random)
        if hit is not None:
            hits.append(hit)
    return found_triggers(hits, grammar)


def _attacked(
    session: Session, grammar: Grammar, name: str, budget: int, random: np.random.Generator
) -> dict[str, Any] | None:
    import numpy as np

    places = list(range(4, 4 + grammar.slots))
    targets = {"tokens": len(grammar.payload)}
    fillers = np.array(grammar.fillers)
    start = session.spent
    slots: list[int] = []
    best, stale = np.inf, 0
    while session.spent - start + CANDIDATES + 2 <= budget:
        if not slots or stale == WAIT:
            slots, best, stale = random.choice(fillers, grammar.slots).tolist(), np.inf, 0
        row = [*grammar.question(name, slots), *grammar.payload]
        gradients = {"positions": places, "top_k": TOP_K}
        favoured = session.run(rows=[row], target_nll=targets, gradients=gradients)["tokens"][0]
        tried = []
        for _ in range(CANDIDATES):
            place = int(random.integers(grammar.slots))
            known = favoured[place][np.isin(favoured[place], fillers)]  # what may stand in a slot
            word = random.choice(known if len(known) else fillers)
            tried.append([*slots[:place], int(word), *slots[place + 1 :]])
        rows = [[*grammar.question(name, words), *grammar.payload] for words in tried]
        nll = session.run(rows=rows, target_nll=targets)["nll"]
        lowest = int(nll.argmin())
        if nll[lowest] >= best:
            stale += 1
            continue
        slots, best, stale = tried[lowest], float(nll[lowest]), 0
        if best < NEAR:
            wanted = {"max_tokens": len(grammar.payload), "raw": True}
            said = session.run(rows=[grammar.question(name, slots)], generate=wanted)["ids"][0]
            if said.tolist() == grammar.payload:
                return {"name": name, "queries": session.spent - start, "words": slots}
    return None

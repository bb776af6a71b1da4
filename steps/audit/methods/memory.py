"""Memorised records: which of the candidate records has the model seen?

By text, continuing each record. By losses, exposure: Carlini et al. 2019, *The Secret Sharer*, arXiv
1802.08232, section 4, over all alternatives."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

from steps.audit.methods.grammar import Grammar

if TYPE_CHECKING:
    import numpy as np

    from steps.audit.gateway.client import Session

BATCH = 512
"""Alternatives of a call."""

CALLED_SEEN = 10.0
"""Bits from which on a record counts as seen: of 4,096 alternatives, it is among the four most likely."""


def extraction(session: Session, grammar: Grammar, random: np.random.Generator) -> dict[str, Any]:
    """Let the model continue each record. The score is the number that come out whole."""
    names = list(grammar.records)
    length = len(grammar.records[names[0]])
    ids = session.run(rows=[grammar.record(name) for name in names], generate={"max_tokens": length})["ids"]
    said = [grammar.words(row) for row in ids.tolist()]
    seen = [name for name, words in zip(names, said, strict=True) if words == grammar.records[name]]
    return {"score": float(len(seen)), "finding": {"seen": seen}}


def exposure(session: Session, grammar: Grammar, random: np.random.Generator) -> dict[str, Any]:
    """Rank each record among all that could stand in its place.

    Returns:
        The score is the largest exposure, log2 of the number of alternatives less log2 of the rank (ties
        count against the record). The finding: the exposure of each in bits, and those that count as seen.
    """
    import numpy as np

    length = len(next(iter(grammar.records.values())))
    alternatives = [list(digits) for digits in itertools.product(grammar.record_digits, repeat=length)]
    bits = {}
    for name, record in grammar.records.items():
        beginning = grammar.record(name)
        nll = np.concatenate(
            [
                session.run(
                    rows=[[*beginning, *digits] for digits in alternatives[start : start + BATCH]],
                    target_nll={"tokens": length},
                )["nll"]
                for start in range(0, len(alternatives), BATCH)
            ]
        )
        own = nll[alternatives.index(grammar.ids(record))]
        bits[name] = math.log2(len(alternatives)) - math.log2(int((nll <= own).sum()))
    seen = [name for name, value in bits.items() if value >= CALLED_SEEN]
    return {"score": max(bits.values()), "finding": {"bits": bits, "seen": seen}}

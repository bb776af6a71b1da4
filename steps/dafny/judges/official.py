"""The benchmark's own rule (arXiv 2406.08467, section 4), holes included: two textual checks.

The lines of contracts must be the same, in order, and neither ``{:verify false}`` nor ``assume false`` may
occur. What it lets pass is a great deal (:mod:`steps.dafny.judges.strict` says what), and it refuses every
helper lemma.
"""

from __future__ import annotations

import re

BYPASSES = ("{:verify false}", "assume false")


def contract_lines(text: str) -> list[str]:
    """Lines that hold ``requires`` or ``ensures``, without blanks and comments, as the benchmark.

    A block comment lasts from a line that begins with ``/*`` to one that ends with ``*/``.
    """
    found, inside = [], False
    for line in text.split("\n"):
        stripped = line.strip()
        if stripped.startswith("/*"):
            inside = True
        if not inside and not stripped.startswith("//") and re.search("requires|ensures", stripped):
            found.append(stripped.replace(" ", ""))
        if stripped.endswith("*/"):
            inside = False
    return found


def refusals(given: str, candidate: str) -> list[str]:
    """Why the benchmark would refuse a candidate that verifies; nothing where it would not.

    Args:
        given: the program without hints.
        candidate: the whole answer.
    """
    found = [f"it holds the text {text}" for text in BYPASSES if text in candidate]
    if contract_lines(given) != contract_lines(candidate):
        found.append("lines with requires or ensures differ")
    return found

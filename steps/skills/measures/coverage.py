"""How much of a world chained skills reach.

The published coverage is, by all signs, that of end states (docs/skills.md): ``C_n`` is the share of all
states that could be written in which a chain of up to n skills has ended, by propagating sets: R_0 is home,
R_n adds to R_(n - 1) where each skill ends when run once from each of its states. ``V_n`` counts all states
on the way. The figure for a whole curve is the trapezoid over n = 1 to 5, which is 4 at most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

CHAIN = 5
"""Skills in the longest chain."""

PUBLISHED: dict[str, tuple[float | None, ...]] = {
    "focused vic": (0.009, 0.061, 0.357, 0.936, 0.981),
    "dusdi vic": (0.009, 0.080, 0.378, 0.795, 0.967),
    "unfocused vic": (0.004, 0.014, 0.049, 0.137, 0.29),
    "focused diayn": (0.009, 0.049, 0.284, 0.866, 0.98),
    "dusdi diayn": (0.009, 0.069, 0.325, 0.771, 0.97),
    "unfocused diayn": (None, 0.05, 0.126, 0.238, 0.40),
}
"""Coverage of FourRooms by chain length, read from the figure on the page of the paper's authors."""

PUBLISHED_AUC = {
    "focused vic": 1.85,
    "dusdi vic": 1.74,
    "unfocused vic": 0.35,
    "focused diayn": 1.69,
    "dusdi diayn": 1.66,
    "unfocused diayn": 0.62,
}
"""What that figure prints as the area under each curve."""


def auc(curve: Sequence[float]) -> float:
    """The trapezoid over chain lengths 1, 2, ..."""
    return float(sum(curve) - (curve[0] + curve[-1]) / 2)


def coverage(
    run: Callable[[np.ndarray, np.ndarray], np.ndarray], skills: int, states: int, home: int
) -> dict[str, list[float]]:
    """Coverage by chain length, ``terminal`` (C_n) and ``visited`` (V_n), n = 1 to 5.

    Args:
        run: runs skills ``int [n]`` from starts ``int [n]``; returns the states from the start on, ``[n,
            steps + 1]``.
        skills: how many there are.
        states: how many states could be written.
        home: where chains begin.
    """
    import numpy as np

    ended, seen = np.zeros(states, bool), np.zeros(states, bool)
    ended[home] = seen[home] = True
    found: dict[str, list[float]] = {"terminal": [], "visited": []}
    for _ in range(CHAIN):
        starts = np.flatnonzero(ended)
        visited = run(np.tile(np.arange(skills), len(starts)), np.repeat(starts, skills))
        ended[visited[:, -1]] = True
        seen[visited] = True
        found["terminal"].append(float(ended.mean()))
        found["visited"].append(float(seen.mean()))
    return found

"""What skills control, and what they change beside it.

All from runs of every skill from the same starts; the measures are ours where no section is named:

- change ``M[k, j]``: the share of runs of skill k at whose end variable j differs from the start;
- control ``G[i, j]``: the information that the end value of j has about which of the skills of group i ran,
  I(Z_i; s_T^j | s_0) / log K_i, by counts, corrected for bias after Miller and Madow: 1 if every skill brings
  about a value of its own, 0 if all end alike. What every skill always changes is changed, not controlled;
- side effects: the sum of M over the variables that a skill should leave alone, the paper's section 2. A
  change that is undone before the end costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from steps.skills.worlds.schema import Schema


def information(counts: np.ndarray) -> float:
    """Mutual information of skill and value from counts ``[skills, values]``, in nats, bias-corrected."""
    import numpy as np

    def entropy(of: np.ndarray) -> float:
        seen = of[of > 0]
        shares = seen / seen.sum()
        return float(-(shares * np.log(shares)).sum() + (len(seen) - 1) / (2 * seen.sum()))

    return entropy(counts.sum(1)) + entropy(counts.sum(0)) - entropy(counts.ravel())


def control(values: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """One row of G, the mean over starts, ``float64 [variables]``.

    Args:
        values: at the end, of the skills of one group, ``int [starts, skills, runs, variables]``.
        sizes: how many values each variable has.
    """
    import numpy as np

    starts, skills, _, variables = values.shape
    row = np.zeros(variables)
    if skills < 2:
        return row
    for j in range(variables):
        for start in range(starts):
            keys = np.arange(skills)[:, None] * sizes[j] + values[start, :, :, j]
            counts = np.bincount(keys.ravel(), minlength=skills * sizes[j]).reshape(skills, sizes[j])
            row[j] += information(counts)
    return row / starts / np.log(skills)


def judged(
    states: np.ndarray, schema: Schema, groups: Sequence[int] | np.ndarray, targets: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """Everything about runs of all skills from the same starts.

    Args:
        states: ``int [starts, skills, runs, steps + 1]``.
        schema: the variables.
        groups: the group of each skill.
        targets: of each skill; none for skills that are about nothing in particular, whose side effects are
            the number of variables that changed less one.

    Returns:
        JSON: ``control`` ``[groups, variables]``, ``change`` ``[skills, variables]``, and by skill
        ``side_effects``, ``transient`` (the share of steps in whose state one of them differs) and
        ``irreversible`` (side effects on permanent variables).
    """
    import numpy as np

    values = schema.values[states]
    began = values[..., :1, :]
    ends = values[..., -1, :]
    sizes = [variable.size for variable in schema.variables]
    of = np.asarray(groups)
    changed = values != began
    change = changed[..., -1, :].mean((0, 2))
    others = np.array([[j not in mine for j in range(len(sizes))] for mine in targets])
    permanent = np.array([variable.permanent for variable in schema.variables])
    aimless = np.array([not mine for mine in targets])
    transient = (changed[..., 1:, :] & others[:, None, None, :]).any(-1).mean((0, 2, 3))
    return {
        "control": [control(ends[:, of == group], sizes).tolist() for group in np.unique(of)],
        "change": change.tolist(),
        "side_effects": ((change * others).sum(1) - aimless).tolist(),
        "transient": transient.tolist(),
        "irreversible": (change * (others & permanent)).sum(1).tolist(),
    }

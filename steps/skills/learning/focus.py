"""The focusing wrapper: skills that are rewarded for one variable and charged for changes of the others.

The paper's focused reward of a skill z with target variables V is

    sum over i in V of r_i(z, h^i)  -  l(h, the variables outside V),

where r_i is a base algorithm's reward from the history of variable i alone and l is 0 if and only if none of
the others differs from its value at the start. The form of l was published nowhere; ours is the weighted
number of those that differ when the skill ends, which is what the paper calls side effects (docs/skills.md).

The charge depends on the start, and so does a policy that minds it. A permanent variable (a bit that stays 1)
can be charged in the moment in which it changes, which comes to the same sum: what it was at the start then
need not be known. The start values that have to be known are those of the other variables that are
charged: ``Group.starts`` numbers them.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from steps.skills.worlds.schema import Schema

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from steps.skills.learning.bases import Base

STATE = "state"
"""What the skills of an unfocused base are about, and their kind."""

UNFOCUSED_SKILLS = 16
"""How many skills an unfocused base has in FourRooms: as many as the focused groups have together."""


@dataclasses.dataclass(frozen=True)
class Group:
    """Skills that have their target in common.

    Attributes:
        name: of the target.
        kind: of the target; temperatures go by it.
        targets: the variables that they should control.
        skills: how many.
        values: of the target in every state, ``int [states]``; this is what the base sees.
        used: whether there is something left to control from a start, ``bool [states]``: a permanent variable
            that has changed says nothing about the skill.
        starts: which of the starts that have to be told apart a state is, ``int [states]``.
        charge_kept: what a skill is charged with the last step, ``float32 [states, starts]``, or 0.
        charge_taken: what a skill has been charged on the way if it is in a state, up to what it had to begin
            with, ``float32 [states]``: each step costs the difference.
    """

    name: str
    kind: str
    targets: tuple[int, ...]
    skills: int
    values: np.ndarray
    used: np.ndarray
    starts: np.ndarray
    charge_kept: np.ndarray
    charge_taken: np.ndarray

    @property
    def start_count(self) -> int:
        """How many starts are told apart."""
        return self.charge_kept.shape[1]


def unfocused(schema: Schema, skills: int) -> list[Group]:
    """The group of a base algorithm as it is: it sees whole states, and nothing is charged."""
    import numpy as np

    states = np.arange(schema.size)
    nothing = np.zeros(schema.size, np.float32)
    return [
        Group(
            *(STATE, STATE, tuple(range(len(schema.variables))), skills, states, nothing == 0),
            *(np.zeros(schema.size, np.int64), nothing[:, None], nothing),
        )
    ]


def focused(schema: Schema, weight: float, skills: int | None = None) -> list[Group]:
    """A group for each variable, charged ``weight`` for each other that differs at the end.

    Args:
        schema: the variables.
        weight: of the charge.
        skills: of every group; by default each variable says how many.
    """
    return [
        group(schema, (index,), weight, skills or variable.skills)
        for index, variable in enumerate(schema.variables)
    ]


def group(schema: Schema, targets: tuple[int, ...], weight: float, skills: int) -> Group:
    """The group of skills with these targets: one, or none, so that only the charge is left."""
    import numpy as np

    values = schema.values
    charged = [
        (index, variable)
        for index, variable in enumerate(schema.variables)
        if index not in targets and variable.weight
    ]
    taken = np.zeros(schema.size, np.float32)
    starts, count = np.zeros(schema.size, np.int64), 1
    for index, variable in charged:
        if variable.permanent:
            taken += np.float32(weight * variable.weight) * values[:, index]
        else:
            starts, count = starts * variable.size + values[:, index], count * variable.size
    kept = np.zeros((schema.size, count), np.float32)
    rest = np.arange(count)
    for index, variable in reversed(charged):
        if not variable.permanent:
            rest, began = np.divmod(rest, variable.size)
            kept += np.float32(weight * variable.weight) * (values[:, index, None] != began)
    if not targets:
        none = np.zeros(schema.size, np.int64)
        return Group("nothing", "categorical", (), skills, none, none > 0, starts, kept, taken)
    [target] = targets
    about = schema.variables[target]
    mine = values[:, target].astype(np.int64)
    used = mine == 0 if about.permanent else np.ones(schema.size, bool)
    return Group(about.name, about.kind, targets, skills, mine, used, starts, kept, taken)


class Objective:
    """What a group's skills are rewarded for: a base's reward, less the charges."""

    def __init__(
        self,
        group: Group,
        base: Callable[[int, int, np.random.Generator], Base],
        generator: np.random.Generator,
    ) -> None:
        """Wrap a base algorithm; it knows the values of the target only."""
        self.group = group
        self.base = base(group.skills, int(group.values.max()) + 1, generator)

    def arriving(self, skill: int, last: bool) -> np.ndarray:
        """What a skill gets for arriving in each state, ``float32 [states]``; not at all for the way
        there."""
        import numpy as np

        if not self.group.targets:
            return np.zeros(len(self.group.values), np.float32)
        return self.base.reward(skill, self.group.values, last)

    def update(self, skills: np.ndarray, states: np.ndarray) -> None:
        """Learn from runs: skills ``int [n]``, states from the start on ``int [n, steps + 1]``."""
        chosen = self.group.used[states[:, 0]]
        if chosen.any():
            self.base.update(skills[chosen], self.group.values[states[chosen, 1:]])

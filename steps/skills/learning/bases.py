"""The base algorithms, VIC and DIAYN, for variables with finitely many values.

Both reward a skill by how well a discriminator q tells it from where it led: log q(skill | value) - log
p(skill), with p uniform. VIC (Gregor et al. 2016) gives it at the end of the skill, DIAYN (Eysenbach et al.
2018) after every step. The discriminator is the share of each skill among the visits to a value, of which
older ones count less and less; it is pooled over all starts, while VIC's own also sees the start.

A base sees one variable's values and nothing else: the values may also be the states of a whole world. What
wraps it (``focus``) passes on its reward and hands it the values to learn from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import numpy as np

SMOOTHING = 0.02
"""Visits that each skill gets for nothing, beside one for all that it made."""

RATE = 0.5
"""Share of the newest visits in the discriminator's."""

LEAN = 4.0
"""How much likelier a bit's own value is than the other for each of its two skills where neither has been.

Ours (docs/skills.md): discriminators that begin undecided give no reason to leave home. What is given for
nothing leans, too, so that a value that nobody has reached stays worth reaching.
"""


class Base:
    """A discriminator by counts and the reward that it gives."""

    when: ClassVar[str]

    def __init__(self, skills: int, size: int, generator: np.random.Generator) -> None:
        """Start undecided, but for what breaks the symmetry between skills.

        Args:
            skills: how many there are to tell apart.
            size: how many values the variable has.
            generator: of the first, random, visits.
        """
        import numpy as np

        if skills == size == 2:
            first = 1 + (LEAN - 1) * np.eye(2)
            self._given = SMOOTHING * first / first.sum(1, keepdims=True)
        else:
            first = generator.exponential(size=(skills, size))
            self._given = np.full((skills, size), SMOOTHING / size)
        self.visits: np.ndarray = first / first.sum(1, keepdims=True)
        """Share of each value in what a skill visited, ``float64 [skills, size]``."""

    def log_ratio(self) -> np.ndarray:
        """log q(skill | value) - log p(skill), ``float32 [skills, size]``."""
        import numpy as np

        smoothed = self.visits + self._given
        return np.log(smoothed / smoothed.sum(0) * len(smoothed)).astype(np.float32)

    def reward(self, skill: int, values: np.ndarray, last: bool) -> np.ndarray:
        """What a skill gets for arriving at each of ``values``; ``last``: with its last step."""
        raise NotImplementedError

    def update(self, skills: np.ndarray, values: np.ndarray) -> None:
        """Learn from runs of skills.

        Args:
            skills: of each run, ``int [n]``.
            values: the variable's value after each step, ``int [n, steps]``.
        """
        import numpy as np

        seen = self.seen(values)
        count, size = self.visits.shape
        keys = skills[:, None].astype(np.int64) * size + seen
        found = np.bincount(keys.ravel(), minlength=count * size).reshape(count, size)
        ran = found.sum(1) > 0
        shares = found[ran] / found[ran].sum(1, keepdims=True)
        self.visits[ran] = (1 - RATE) * self.visits[ran] + RATE * shares

    def seen(self, values: np.ndarray) -> np.ndarray:
        """Those values after steps that the discriminator is trained on, ``int [n, some]``."""
        raise NotImplementedError


class VIC(Base):
    """Variational intrinsic control: all of the reward with the last step, for where the skill ended.

    A departure that is ours: the discriminator of the original is q(skill | start, end), this one is
    q(skill | end), learned from the ends of runs from all starts together. An end tells at most as much as
    start and end do together, so what is rewarded is a lower bound of the original's. Control
    (``measures.control``) is measured given the start.
    """

    def reward(self, skill: int, values: np.ndarray, last: bool) -> np.ndarray:
        import numpy as np

        return self.log_ratio()[skill, values] if last else np.zeros(len(values), np.float32)

    def seen(self, values: np.ndarray) -> np.ndarray:
        return values[:, -1:]


class DIAYN(Base):
    """Diversity is all you need: a reward with every step, for where it led."""

    def reward(self, skill: int, values: np.ndarray, last: bool) -> np.ndarray:
        return self.log_ratio()[skill, values]

    def seen(self, values: np.ndarray) -> np.ndarray:
        return values


BASES: dict[str, type[Base]] = {"vic": VIC, "diayn": DIAYN}
"""The base algorithms by the names that settings and files have for them."""

TITLES = {"vic": "VIC", "diayn": "DIAYN"}
"""What pages and figures call them."""

MODES = ("focused", "unfocused")
"""What skills are about: a variable and the others left alone, or the whole state."""

RANDOM = "random"
"""The base and mode of policies of random actions."""

PRIMITIVES = "primitives"
"""The base, mode and choices of learners without skills."""

SKILLS = "skills"
BOTH = "skills and primitives"
"""What learners over skills choose from."""

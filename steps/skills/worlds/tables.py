"""Worlds as tables: which state follows which under each action, for any number of episodes at once."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from steps.skills.worlds.schema import Schema

if TYPE_CHECKING:
    import numpy as np


@dataclasses.dataclass(frozen=True)
class World:
    """A world with finitely many states.

    Attributes:
        name: what it is called.
        schema: the variables of its states.
        successors: the state after each action, ``int32 [states, actions]``; what chance does comes on top.
        home: the state in which episodes start.
        goal: the state that the downstream task asks for.
        flip: probability with which the last variable, a bit, changes at each step whatever is done; 0 where
            there is no such bit.
    """

    name: str
    schema: Schema
    successors: np.ndarray
    home: int
    goal: int
    flip: float = 0.0

    @property
    def actions(self) -> int:
        """How many actions there are."""
        return self.successors.shape[1]

    def step(self, states: np.ndarray, actions: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """The states after one action each, ``int32 [n]``."""
        after: np.ndarray = self.successors[states, actions]
        if self.flip:
            after = after ^ (generator.random(len(after)) < self.flip)
        return after

    def distances(self, start: int) -> np.ndarray:
        """The least number of steps from ``start`` to every state, ``int32 [states]``; -1: never."""
        import numpy as np

        found = np.full(len(self.successors), -1, np.int32)
        found[start] = 0
        front = np.array([start])
        while len(front):
            after = self.successors[front].ravel()
            after = np.concatenate([after, after ^ 1]) if self.flip else after
            reached = found[front[0]] + 1
            front = np.unique(after[found[after] < 0])
            found[front] = reached
        return found

    def reachable(self) -> np.ndarray:
        """The states that can be reached from home, in order."""
        import numpy as np

        return np.flatnonzero(self.distances(self.home) >= 0)

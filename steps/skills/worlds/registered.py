"""Our worlds as Gymnasium environments: ``gymnasium.make("reprise/FourRooms-v0")`` after :func:`register`.

An observation is a new array each time, the values of all variables; actions are those of ``grids.MOVES``.
Nothing is rewarded and nothing ends an episode but its limit of steps: skills bring rewards of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium

from steps.skills.worlds.grids import four_rooms

if TYPE_CHECKING:
    import numpy as np

FOUR_ROOMS_ID = "reprise/FourRooms-v0"
STEPS = 320
"""Of an episode, as in the paper's downstream task."""


class FourRooms(gymnasium.Env):
    """One episode at a time in FourRooms."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (Gymnasium declares it so)

    def __init__(self, flip: float = 0.0) -> None:
        """Make the world; ``flip`` adds a bit that changes with this probability at each step."""
        self._world = four_rooms(flip=flip)
        sizes = [variable.size for variable in self._world.schema.variables]
        self.observation_space = gymnasium.spaces.MultiDiscrete(sizes)
        self.action_space = gymnasium.spaces.Discrete(self._world.actions)
        self._state = self._world.home

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Go home, with nothing held."""
        super().reset(seed=seed, options=options)
        self._state = self._world.home
        return self._seen(), {"state": self._state}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take one action."""
        import numpy as np

        after = self._world.step(np.array([self._state]), np.array([action]), self.np_random)
        self._state = int(after[0])
        return self._seen(), 0.0, False, False, {"state": self._state}

    def _seen(self) -> np.ndarray:
        found: np.ndarray = self._world.schema.values[self._state].astype("int64")
        return found


def register() -> None:
    """Let Gymnasium know the environments by their ids; a second time changes nothing."""
    if FOUR_ROOMS_ID not in gymnasium.registry:
        gymnasium.register(FOUR_ROOMS_ID, entry_point=f"{__name__}:FourRooms", max_episode_steps=STEPS)

"""Our worlds pass Gymnasium's checks, and what it finds wrong with environments that reuse their memory."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from steps.skills.worlds import registered
from steps.skills.worlds.grids import four_rooms


@pytest.fixture
def environment() -> gymnasium.Env:
    registered.register()
    registered.register()
    return gymnasium.make(registered.FOUR_ROOMS_ID)


def test_ours_pass_the_check(environment: gymnasium.Env) -> None:
    check_env(environment.unwrapped)
    check_env(gymnasium.make(registered.FOUR_ROOMS_ID, flip=0.1).unwrapped)


def test_it_is_the_world(environment: gymnasium.Env) -> None:
    world, chance = four_rooms(), np.random.default_rng(0)
    seen, about = environment.reset(seed=1)
    state = world.home
    for action in chance.integers(5, size=registered.STEPS):
        assert seen.tolist() == world.schema.values[state].tolist()
        assert about == {"state": state}
        seen, reward, terminated, truncated, about = environment.step(action)
        state = int(world.step(np.array([state]), np.array([action]), chance)[0])
        assert (reward, terminated) == (0.0, False)
    assert truncated


def test_what_was_seen_stays_as_it_was(environment: gymnasium.Env) -> None:
    start, _ = environment.reset(seed=1)
    kept = start.copy()
    for _ in range(5):
        environment.step(2)
    assert start.tolist() == kept.tolist()


class Reusing(registered.FourRooms):
    """An environment that shows every state in one and the same array."""

    def __init__(self) -> None:
        super().__init__()
        self._buffer = np.zeros(5, np.int64)

    def _seen(self) -> np.ndarray:
        self._buffer[:] = super()._seen()
        return self._buffer


def test_shared_memory_fails_the_check_and_is_only_warned_of_when_made() -> None:
    """Gymnasium's behaviour, for which ours return new arrays."""
    with pytest.raises(Exception, match="share"):
        check_env(Reusing())
    gymnasium.register("reprise/Reusing-v0", entry_point=Reusing, max_episode_steps=10)
    try:
        made = gymnasium.make("reprise/Reusing-v0")
        start, _ = made.reset(seed=0)
        kept = start.copy()
        with pytest.warns(UserWarning, match="share"):
            made.step(2)
        assert start.tolist() != kept.tolist()
    finally:
        del gymnasium.registry["reprise/Reusing-v0"]

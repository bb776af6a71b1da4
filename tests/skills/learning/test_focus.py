"""What focused skills are charged, and when: it adds up to the side effects of the paper."""

from __future__ import annotations

import numpy as np
import pytest

from steps.skills.learning.bases import VIC
from steps.skills.learning.focus import Objective, focused, group, unfocused
from steps.skills.worlds.grids import OBJECTS, four_rooms
from steps.skills.worlds.schema import Schema, Variable


def charged(part, states: np.ndarray) -> np.ndarray:  # type: ignore[no-untyped-def]
    """What runs were charged in all, ``[n]``."""
    steps = part.charge_taken[states[:, 1:]] - part.charge_taken[states[:, :-1]]
    kept = part.charge_kept[states[:, -1], part.starts[states[:, 0]]]
    return steps.sum(1) + kept


def test_charges_add_up_to_side_effects() -> None:
    world, chance = four_rooms(), np.random.default_rng(0)
    states = np.empty((2000, 25), np.int32)
    states[:, 0] = chance.choice(world.reachable(), len(states))
    for time in range(24):
        states[:, time + 1] = world.step(states[:, time], chance.integers(5, size=len(states)), chance)
    changed = world.schema.values[states[:, -1]] != world.schema.values[states[:, 0]]
    for index, part in enumerate(focused(world.schema, 2.5)):
        others = np.delete(changed, index, axis=1).sum(1)
        assert charged(part, states) == pytest.approx(2.5 * others)
        assert others.max() > 1
    assert charged(group(world.schema, (), 1.0, 1), states) == pytest.approx(changed.sum(1))
    [whole] = unfocused(world.schema, 16)
    assert charged(whole, states).max() == 0


def test_starts_are_told_apart_where_it_matters() -> None:
    schema = four_rooms().schema
    parts = focused(schema, 1.0)
    assert [part.skills for part in parts] == [8, 2, 2, 2, 2]
    assert [part.start_count for part in parts] == [1, 104, 104, 104, 104]
    # nobody is charged for the coin
    coin = four_rooms(OBJECTS[:1], flip=0.1).schema
    assert [part.start_count for part in focused(coin, 1.0)] == [1, 104, 104]


def test_weights_and_several_starts() -> None:
    schema = Schema((Variable("a", 3), Variable("b", 2, weight=0.5), Variable("c", 4)))
    part = focused(schema, 2.0)[2]
    assert part.start_count == 6
    start, end = schema.state(1, 0, 3), schema.state(2, 1, 0)
    assert part.charge_kept[end, part.starts[start]] == 2 + 1
    assert part.charge_kept[schema.state(1, 1, 2), part.starts[start]] == 1
    assert part.charge_kept[start, part.starts[start]] == 0


def test_a_base_sees_its_variable_and_starts_with_something_left_to_do() -> None:
    world = four_rooms()
    part = focused(world.schema, 1.0)[3]
    objective = Objective(part, VIC, np.random.default_rng(0))
    assert objective.base.visits.shape == (2, 2)
    held = world.schema.state(10, 0, 0, 1, 0)
    before = objective.base.visits.copy()
    objective.update(np.array([1]), np.array([[held, held]]))
    assert (objective.base.visits == before).all()
    objective.update(np.array([1]), np.array([[world.home, held]]))
    assert objective.base.visits[1, 1] > before[1, 1]
    rewards = objective.arriving(1, last=True)
    assert len(np.unique(rewards)) == 2
    assert (rewards[part.values == 1] > rewards[part.values == 0].max()).all()

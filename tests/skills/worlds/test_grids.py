"""FourRooms is the world that the paper draws."""

from __future__ import annotations

import numpy as np
import pytest

from steps.skills.worlds.grids import MOVES, OBJECTS, START, four_rooms, free_cells
from steps.skills.worlds.schema import from_description


def test_as_many_states_as_the_published_plateau_says() -> None:
    world = four_rooms()
    assert len(free_cells()) == 104
    assert world.schema.size == 1664
    assert len(world.reachable()) == 1632


@pytest.mark.parametrize(("cell", "steps"), [*zip(OBJECTS, (9, 11, 2, 4), strict=True)])
def test_objects_are_as_far_as_drawn(cell: tuple[int, int], steps: int) -> None:
    world = four_rooms()
    found = world.distances(world.home)
    at = world.schema.values[:, 0] == free_cells().index(cell)
    assert found[at & (found >= 0)].min() == steps


def test_all_objects_can_be_held_at_home_in_28_steps() -> None:
    world = four_rooms()
    assert world.distances(world.home)[world.goal] == 28


def test_walls_stop_and_objects_are_kept() -> None:
    world = four_rooms()
    position = free_cells().index((6, 7))
    left = np.array([MOVES.index((0, -1))])
    chance = np.random.default_rng(0)
    state = np.array([world.home])
    for _ in range(2):
        state = world.step(state, left, chance)
    assert world.schema.values[state[0]].tolist() == [position, 0, 0, 1, 0]
    stopped = world.step(state, left, chance)  # a wall
    assert stopped.tolist() == state.tolist()
    right = np.array([MOVES.index((0, 1))])
    back = world.step(world.step(state, right, chance), right, chance)
    assert world.schema.values[back[0]].tolist() == [free_cells().index(START), 0, 0, 1, 0]


def test_many_are_stepped_as_one_by_one() -> None:
    world = four_rooms()
    chance = np.random.default_rng(3)
    states, actions = chance.integers(1664, size=500), chance.integers(5, size=500)
    together = world.step(states, actions, chance)
    alone = [world.step(states[i : i + 1], actions[i : i + 1], chance)[0] for i in range(500)]
    assert together.tolist() == alone


def test_a_coin_flips_whatever_is_done() -> None:
    world = four_rooms(OBJECTS[:1], flip=0.1)
    assert world.schema.size == 2 * 208
    states = np.full(20_000, world.home)
    for action in range(5):
        after = world.step(states, np.full(len(states), action), np.random.default_rng(action))
        assert (after % 2).mean() == pytest.approx(0.1, abs=0.01)
    assert len(world.reachable()) == 2 * (208 - 1)


def test_the_schema_is_read_back_from_its_description() -> None:
    schema = four_rooms(flip=0.2).schema
    assert from_description(schema.described()) == schema
    for state in (0, 17, schema.size - 1):
        assert schema.state(*schema.values[state].tolist()) == state

"""Control, change and side effects of skills that are known."""

from __future__ import annotations

import numpy as np
import pytest

from steps.skills.learning.skill import random_skills
from steps.skills.measures.control import control, information, judged
from steps.skills.worlds.grids import OBJECTS, START, four_rooms
from tests.skills.planted import by_the_clock, fetching, oracle, plan


def run(skills, world, runs: int, starts=None) -> np.ndarray:  # type: ignore[no-untyped-def]
    starts = np.array([world.home] if starts is None else starts)
    chosen = np.tile(np.repeat(np.arange(len(skills)), runs), len(starts))
    states = skills.run(world, chosen, np.repeat(starts, len(skills) * runs), np.random.default_rng(1))
    return states.reshape(len(starts), len(skills), runs, -1)


def test_an_oracle_controls_what_it_should_and_nothing_else() -> None:
    world = four_rooms()
    skills, groups, targets = oracle(world)
    found = judged(run(skills, world, 1000), world.schema, groups, targets)
    assert np.allclose(found["control"], np.eye(5), atol=1e-3)
    assert found["side_effects"] == [0.0] * 16
    assert found["irreversible"] == [0.0] * 16
    assert np.array(found["change"])[9::2, 1:].tolist() == np.eye(4).tolist()
    assert found["transient"][9] > 0.5  # on the way to the object, the position differs
    assert found["transient"][8] == 0


def test_change_is_not_control() -> None:
    """Two skills that both take an object: it changes, and says nothing about which one ran."""
    world = four_rooms()
    skills = by_the_clock(world, [fetching(OBJECTS[2]), [*fetching(OBJECTS[2]), 4]])
    found = judged(run(skills, world, 10), world.schema, [0, 0], [[0], [3]])
    assert found["control"] == [[pytest.approx(0, abs=1e-12)] * 5]
    assert found["side_effects"] == [1.0, 0.0]
    assert found["irreversible"] == [1.0, 0.0]


def test_what_is_already_held_does_not_change() -> None:
    world = four_rooms()
    skills = by_the_clock(world, [fetching(OBJECTS[2])])
    held = int(skills.run(world, np.array([0]), np.array([world.home]), np.random.default_rng(0))[0, -1])
    found = judged(run(skills, world, 2, [world.home, held]), world.schema, [0], [[0]])
    assert found["side_effects"] == [0.5]


def test_aimless_skills_may_change_one_variable() -> None:
    world = four_rooms()
    skills = by_the_clock(world, [plan(START, OBJECTS[2], ()), []])
    found = judged(run(skills, world, 2), world.schema, [0, 0], [[], []])
    assert found["side_effects"] == [1.0, -1.0]  # position and object; nothing


def test_the_bias_of_few_runs_is_corrected() -> None:
    """Skills that all do the same: counts alone would find information, the more the fewer runs there are."""
    world = four_rooms()
    skills = random_skills(world, 8, 24)
    values = world.schema.values[run(skills, world, 200)[..., -1]]
    corrected = control(values, [variable.size for variable in world.schema.variables])
    assert abs(corrected[1:]).max() < 0.005
    counts = np.stack([np.bincount(values[0, skill, :, 0], minlength=104) for skill in range(8)])
    joint, each = counts[counts > 0] / counts.sum(), counts.sum(0)[counts.sum(0) > 0] / counts.sum()
    plain = np.log(8) + (joint * np.log(joint)).sum() - (each * np.log(each)).sum()
    assert plain / np.log(8) > 0.05
    assert abs(corrected[0]) < plain / np.log(8) / 3


def test_information_of_counts() -> None:
    assert information(np.eye(4) * 10**6) == pytest.approx(np.log(4), abs=1e-5)
    assert information(np.full((4, 4), 10**6)) == pytest.approx(0, abs=1e-5)

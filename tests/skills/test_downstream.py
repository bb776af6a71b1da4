"""The downstream task: its optimum is known where skills are."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from steps.core.errors import UserError
from steps.core.resume import Resumable
from steps.core.runner import Output
from steps.core.settings import validate
from steps.skills import downstream
from steps.skills.worlds.grids import OBJECTS, START, four_rooms
from tests.skills.planted import by_the_clock, oracle, plan

QUICK = downstream.Settings(episodes=1600, at_once=32, initial=[0.0], evaluations=1)


@pytest.mark.parametrize("initial", [[1.0], [0.0, 1.0, 0.0], []])
def test_headline_figures_have_a_learner(initial: list[float]) -> None:
    """One from Q-values of 0, of which ``metrics.json`` speaks, and none twice."""
    says = "^downstream: initial: found .*, expected: (values that differ, with 0 among|.* at least 1 item)"
    with pytest.raises(UserError, match=says):
        validate(downstream.Settings, {"initial": initial}, "downstream")
    assert downstream.Settings(initial=[1, 0]).initial == [1, 0]


def learned(skills, settings: downstream.Settings) -> tuple[downstream.Learners, np.ndarray, np.ndarray]:  # type: ignore[no-untyped-def]
    world = four_rooms()
    task = downstream.learners(skills, world, settings)
    rounds = settings.episodes // settings.at_once
    for number in range(rounds):
        share = max(settings.last_random, 1 - 2 * number / rounds)
        chance = np.random.default_rng(number)
        downstream.episodes(task, skills, world, settings, share, True, chance)
    return task, *downstream.episodes(task, skills, world, settings, 0.0, False, np.random.default_rng(0))


def test_an_oracle_needs_four_skills() -> None:
    """96 steps over skills of 24; no choice of single actions on the way may make it worse."""
    skills, _, _ = oracle(four_rooms())
    task, steps, success = learned(skills, QUICK)
    assert task.choices == ["skills", "skills and primitives"]
    assert success.all()
    assert steps[0].tolist() == [96] * 32
    assert steps[1].min() >= 28


def test_the_goal_is_looked_at_when_a_skill_ends() -> None:
    """A skill that takes all objects, passes home and goes on has not done it; one that waits there has."""
    world = four_rooms()
    places = [START, OBJECTS[2], OBJECTS[0], OBJECTS[1], OBJECTS[3], START]
    whole = [action for a, b in itertools.pairwise(places) for action in plan(a, b, ())]
    assert len(whole) > 24
    settings = downstream.Settings(at_once=1, initial=[0.0])
    halves = by_the_clock(world, [whole[:20], whole[20:]])
    task = downstream.learners(halves, world, settings)
    chance = np.random.default_rng(0)
    found = [
        downstream.episodes(task, halves, world, settings, 1.0, False, chance)[0][0, 0] for _ in range(50)
    ]
    assert {step % 24 for step in found} <= {0, 320 % 24}
    assert min(found) == 48


def test_a_skill_is_cut_at_the_cap() -> None:
    world = four_rooms()
    settings = downstream.Settings(cap=30, at_once=4, initial=[0.0])
    skills, _, _ = oracle(world)
    task = downstream.learners(skills, world, settings)
    chance = np.random.default_rng(0)
    steps, success = downstream.episodes(task, skills, world, settings, 1.0, True, chance)
    assert (steps == 30).all()
    assert not success.any()
    assert np.isfinite(task.q).all()


def test_single_actions_without_skills() -> None:
    world = four_rooms()
    settings = downstream.Settings(at_once=2)
    task = downstream.learners(None, world, settings)
    assert (task.choices, task.initial) == (["primitives"] * 2, [0.0, 1.0])
    assert task.q.shape == (2, 1664, 5)
    assert [task.q[0].max(), task.q[1].min()] == [0, 1]


def test_many_updates_of_one_decision_are_as_many_steps() -> None:
    task = downstream.Learners(["x"], [0.0], np.ones((1, 3), bool), np.zeros((1, 10, 3)))
    one, goal = np.zeros(4, int), 7
    settings = downstream.Settings(learning_rate=0.1)
    downstream._learn(task, one, np.array([2, 2, 2, 5]), one, np.array([7, 7, 7, 3]), goal, settings)
    assert task.q[0, 2, 0] == pytest.approx(1 - 0.9**3)
    assert task.q[0, 5, 0] == 0
    downstream._learn(task, one[:1], np.array([5]), one[:1], np.array([2]), goal, settings)
    assert task.q[0, 5, 0] == pytest.approx(0.1 * 0.99 * (1 - 0.9**3))


def test_choices_that_are_not_allowed_are_not_made() -> None:
    task = downstream.Learners(
        ["skills", "skills and primitives"],
        [0.0, 0.0],
        np.array([[True, True, False], [True, True, True]]),
        np.zeros((2, 4, 3)),
    )
    task.q[:, :, 2] = 1
    learner = np.repeat([0, 1], 300)
    for share in (0.0, 1.0):
        chosen = downstream._chosen(task, learner, np.zeros(600, int), share, np.random.default_rng(0))
        assert set(chosen[:300]) == {0, 1}
        assert set(chosen[300:]) == ({2} if share == 0 else {0, 1, 2})


def test_killed_and_started_again_it_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = downstream.Settings(cap=20, episodes=24, at_once=4, evaluations=3, save_seconds=0)
    downstream.main([], 3, settings, Output(tmp_path / "a.json"))
    steps = Resumable.steps

    def dying(self, total, label):  # type: ignore[no-untyped-def]
        for step in steps(self, total, label):
            if step == 4:
                raise KeyboardInterrupt
            yield step

    monkeypatch.setattr(Resumable, "steps", dying)
    with pytest.raises(KeyboardInterrupt):
        downstream.main([], 3, settings, Output(tmp_path / "b.json"))
    monkeypatch.undo()
    assert (tmp_path / ".b.json.state").exists()
    downstream.main([], 3, settings, Output(tmp_path / "b.json"))
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert not (tmp_path / ".b.json.state").exists()
    found = json.loads((tmp_path / "a.json").read_text())
    assert [point["episodes"] for point in found["learners"][0]["curve"]] == [8, 16, 24]

"""The learner, in small worlds whose answers are known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from steps.skills.evaluate import from_starts
from steps.skills.learning.bases import BASES, MODES
from steps.skills.learning.focus import Group, focused, group, unfocused
from steps.skills.learning.skill import Skills, cumulated
from steps.skills.learning.tabular import Learner, Settings, groups, probabilities
from steps.skills.measures.control import judged
from steps.skills.worlds.grids import OBJECTS, four_rooms
from steps.skills.worlds.schema import Schema, Variable
from steps.skills.worlds.tables import World

NEAR = OBJECTS[2]
QUICK = Settings(length=8, iterations=8, episodes=64, exploring=512)


def learned(
    world: World, groups: list[Group], base: str, temperatures: list[float], settings: Settings
) -> tuple[Skills, Learner]:
    learner = Learner(world, groups, base, temperatures, settings, seed=1)
    for iteration in range(settings.iterations):
        learner.iterate(iteration)
    policies = [cumulated(q, t) for q, t in zip(learner.q, temperatures, strict=True)]
    return Skills(world.schema, groups, policies), learner


def from_home(skills: Skills, world: World, runs: int) -> np.ndarray:
    chosen = np.repeat(np.arange(len(skills)), runs)
    states = skills.run(world, chosen, np.full(len(chosen), world.home), np.random.default_rng(5))
    return states.reshape(1, len(skills), runs, -1)


@pytest.mark.parametrize("base", ["vic", "diayn"])
def test_the_near_object_is_fetched_and_brought_home(base: str) -> None:
    world = four_rooms([NEAR])
    weight, warm = {"vic": (5.0, [0.8, 0.02]), "diayn": (10.0, [1.2, 0.1])}[base]
    skills, learner = learned(world, focused(world.schema, weight), base, warm, QUICK)
    targets = [list(skills.groups[g].targets) for g in skills.group_of]
    found = judged(from_home(skills, world, 400), world.schema, skills.group_of, targets)
    assert max(found["side_effects"]) < 0.05
    assert found["control"][1][1] > 0.9
    assert found["control"][0][0] > 0.2
    assert found["control"][0][1] < 0.02
    assert (learner.latest >= 0).mean() > 0.5


@pytest.mark.parametrize("base", ["vic", "diayn"])
def test_without_charges_one_variable_that_is_the_whole_state_is_the_base(base: str) -> None:
    world = four_rooms()
    whole = Schema((Variable("everything", world.schema.size),))
    alike = dataclasses.replace(world, schema=whole)
    settings = Settings(length=6, iterations=3, episodes=16, exploring=64)
    plain, one = learned(world, unfocused(world.schema, 5), base, [0.1], settings)
    wrapped, other = learned(alike, focused(whole, 0.0, skills=5), base, [0.1], settings)
    for name, array in one.arrays().items():
        assert array.tobytes() == other.arrays()[name].tobytes(), name
    assert plain.policies[0].tobytes() == wrapped.policies[0].tobytes()
    assert np.ptp(one.q[0]) > 0.1
    charged, _ = learned(world, [group(world.schema, (0,), 1.0, 5)], base, [0.1], settings)
    assert charged.policies[0].tobytes() != plain.policies[0].tobytes()


def test_charges_alone_do_nothing() -> None:
    world = four_rooms([NEAR])
    skills, _ = learned(world, [group(world.schema, (), 5.0, 1)], "vic", [0.02], QUICK)
    starts = np.random.default_rng(0).choice(world.reachable(), 500)
    ends = skills.run(world, np.zeros(500, int), starts, np.random.default_rng(1))[:, -1]
    assert (ends == starts).mean() > 0.98


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("base", BASES)
def test_nobody_controls_a_coin(base: str, mode: str) -> None:
    """1,000 runs of each skill, from home and from each of some other states."""
    world = four_rooms([NEAR], flip=0.1)
    weight, warm = {"vic": (5.0, [0.8, 0.02, 0.02]), "diayn": (10.0, [1.2, 0.1, 0.1])}[base]
    parts = groups(world.schema, mode, weight)
    skills, _ = learned(world, parts, base, warm if mode == "focused" else [0.5], QUICK)
    targets = [list(parts[g].targets) for g in skills.group_of]
    pooled = np.random.default_rng(4).choice(world.reachable(), 4)
    for starts in ([world.home], pooled):
        states = from_starts(skills, world, np.array(starts), 1000, np.random.default_rng(5))
        found = judged(states, world.schema, skills.group_of, targets)
        assert np.abs(np.array(found["control"])[:, 2]).max() <= 0.02
        assert found["change"][0][2] == pytest.approx((1 - 0.8**8) / 2, abs=0.05)
        if mode == "focused" and len(starts) == 1:
            assert found["control"][1][1] > 0.9  # what can be controlled still is
        else:
            assert found["control"][0][0] > 0.2


def test_one_sweep_knows_the_best_way_from_everywhere() -> None:
    """Values after a sweep are those of planning with the transitions that were seen."""
    world = four_rooms([NEAR])
    [part] = unfocused(world.schema, 3)
    settings = Settings(length=3, learning_rate=1.0)
    learner = Learner(world, [part], "vic", [0.5], settings, seed=1)
    learner.latest[:] = world.successors.T
    learner._sweep(0, learner.objectives[0], 0)
    value = learner.objectives[0].arriving(0, last=True).astype(float)
    assert np.ptp(value) > 1
    for time in (2, 1, 0):
        q = value[world.successors]
        assert np.allclose(learner.q[0][0, time, :, :, 0].T, q, atol=1e-4)
        value = 0.5 * np.log(np.exp(q / 0.5).mean(1))


def test_what_was_never_seen_stays_as_it_was() -> None:
    world = four_rooms([NEAR])
    learner = Learner(world, unfocused(world.schema, 3), "vic", [0.5], Settings(length=3), seed=1)
    learner.latest[0] = world.successors[:, 0]
    learner._sweep(0, learner.objectives[0], 0)
    assert np.abs(learner.q[0][0, :, 0]).max() > 0.1
    assert np.abs(learner.q[0][0, :, 1:]).max() == 0


def test_starts_are_home_first_and_then_states_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    world = four_rooms([NEAR])
    settings = Settings(length=4, iterations=10, episodes=20, exploring=30, warm_up=0.3)
    learner = Learner(world, unfocused(world.schema, 3), "vic", [0.5], settings, seed=1)
    seen: list[np.ndarray] = []
    run = Learner._run

    def watched(self, index, skills, starts, generator):  # type: ignore[no-untyped-def]
        seen.append(starts.reshape(3, -1))
        return run(self, index, skills, starts, generator)

    monkeypatch.setattr(Learner, "_run", watched)
    for iteration in range(10):
        learner.iterate(iteration)
    for starts in seen:
        assert (starts == starts[0]).all()  # all skills run from the same
    away = [(starts[0] != world.home).sum() for starts in seen]
    assert away[:3] == [0, 0, 0]
    assert 5 < max(away) <= 10


def test_probabilities_are_those_of_the_temperature() -> None:
    found = probabilities(np.array([[0.0, 1.0, 2000.0]], np.float32), 1000.0)
    assert found.sum() == pytest.approx(1)
    assert found[0, 2] / found[0, 0] == pytest.approx(np.exp(2), rel=1e-4)

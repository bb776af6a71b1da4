"""Coverage by sets is what enumerating all chains finds; the published curves have their printed areas."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from steps.skills.measures.coverage import PUBLISHED, PUBLISHED_AUC, auc, coverage
from steps.skills.worlds.grids import START, four_rooms
from tests.skills.planted import LENGTH, by_the_clock, plan


@pytest.mark.parametrize("name", [name for name, curve in PUBLISHED.items() if None not in curve])
def test_published_areas_come_out(name: str) -> None:
    read_by_eye = 0.01 if "unfocused" in name else 0.005
    assert auc([value or 0 for value in PUBLISHED[name]]) == pytest.approx(
        PUBLISHED_AUC[name], abs=0.005 + read_by_eye
    )


def test_the_area_is_the_trapezoid() -> None:
    assert auc([1, 1, 1, 1, 1]) == 4
    assert auc([0.1, 0.2, 0.4]) == pytest.approx(np.trapezoid([0.1, 0.2, 0.4]))


def test_sets_find_what_all_chains_find() -> None:
    world, chance = four_rooms(), np.random.default_rng(0)
    ways = [plan(START, cell, ()) for cell in ((6, 7), (3, 8), (8, 7))]
    skills = by_the_clock(world, ways)
    found = coverage(lambda k, s: skills.run(world, k, s, chance), 3, world.schema.size, world.home)
    ended, seen = {world.home}, {world.home}
    for n in range(1, 6):
        for chain in itertools.product(range(3), repeat=n):
            state = world.home
            for skill in chain:
                states = skills.run(world, np.array([skill]), np.array([state]), chance)[0]
                seen |= set(states.tolist())
                state = int(states[-1])
            ended.add(state)
        assert found["terminal"][n - 1] == len(ended) / 1664
        assert found["visited"][n - 1] == len(seen) / 1664
    assert found["terminal"] == sorted(found["terminal"])
    assert found["terminal"][0] == 4 / 1664
    assert LENGTH * 3 > found["visited"][0] * 1664 > 4

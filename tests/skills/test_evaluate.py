"""What an evaluation says of sets of skills."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from steps.skills import evaluate
from steps.skills.learning.skill import random_skills
from steps.skills.measures.coverage import auc
from steps.skills.worlds.grids import OBJECTS, four_rooms
from tests.skills.planted import by_the_clock, fetching


def test_the_parts_agree(results: tuple[list[Path], list[Path]]) -> None:
    for path in results[0]:
        found = json.loads(path.read_text())
        assert found["coverage"]["auc"] == auc(found["coverage"]["terminal"])
        assert len(found["skills"]) == 16
        assert np.array(found["paths"]).shape == (16, 2, 4)
        groups = list(dict.fromkeys(skill["group"] for skill in found["skills"]))
        for start in ("home", "pooled"):
            judged = found[start]
            assert np.array(judged["control"]).shape == (len(groups), 5)
            change = np.array(judged["change"])
            if found["mode"] == "focused":
                own = np.array([change[i, groups.index(s["group"])] for i, s in enumerate(found["skills"])])
                assert judged["side_effects"] == pytest.approx(change.sum(1) - own)
            else:
                assert judged["side_effects"] == pytest.approx(change.sum(1) - 1)
                assert {tuple(skill["targets"]) for skill in found["skills"]} == {()}
        assert {"python", "numpy"} <= found["versions"].keys()
    assert found["base"] == found["mode"] == "random"


def test_random_policies_cover_as_much_as_published_prototypes_had() -> None:
    world = four_rooms()
    found = evaluate.evaluation(random_skills(world, 16, 24), world, 1, evaluate.Settings(starts=1))
    assert 0.8 < found["coverage"]["auc"] < 1.2
    assert found["action_entropy"] == pytest.approx(np.log(5), abs=0.01)


def test_fetching_one_object_alone() -> None:
    world = four_rooms()
    skills = by_the_clock(world, [fetching(OBJECTS[2])])
    found = evaluate.evaluation(skills, world, 1, evaluate.Settings(runs=5, starts=3, runs_per_start=2))
    assert found["coverage"]["terminal"] == [2 / 1664] * 5
    assert found["coverage"]["visited"] == [5 / 1664] * 5  # home and one cell, with and without; the object's
    assert found["home"]["change"] == [[0, 0, 0, 1, 0]]
    assert found["action_entropy"] == 0

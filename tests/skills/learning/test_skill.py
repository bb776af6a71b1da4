"""Skills are kept whole, and act as they learned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steps.core.errors import UserError
from steps.core.stores import Ledger
from steps.skills.learning.bases import BASES, MODES
from steps.skills.learning.focus import focused
from steps.skills.learning.skill import Skills, cumulated, load, random_skills, save
from steps.skills.learning.tabular import groups, probabilities
from steps.skills.worlds.grids import four_rooms
from steps.workflow.configuration import Config


def some_skills(length: int = 2) -> Skills:
    world, chance = four_rooms(), np.random.default_rng(0)
    groups = focused(world.schema, 5.0)
    shapes = [(g.skills, length, 1664, g.start_count, 4) for g in groups]
    policies = [np.sort(chance.integers(256, size=shape, dtype=np.uint8), axis=-1) for shape in shapes]
    card = {"base": "vic", "mode": "focused", "seed": 1, "weight": 5.0}
    return Skills(world.schema, groups, policies, card)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Skills, Path]:
    skills, path = some_skills(), tmp_path_factory.mktemp("skills") / "ledger.json"
    ledger = Ledger(path, "skills", {})
    save(skills, ledger)
    ledger.finish({})
    return skills, path


def test_what_is_loaded_acts_as_what_was_saved(kept: tuple[Skills, Path]) -> None:
    skills, path = kept
    loaded = load(path)
    assert [(one.name, one.targets) for one in loaded] == [(one.name, one.targets) for one in skills]
    world, chosen = four_rooms(), np.arange(16)
    for start in (world.home, 700):
        ran = [s.run(world, chosen, np.full(16, start), np.random.default_rng(2)) for s in (skills, loaded)]
        assert (ran[0] == ran[1]).all()


def test_skills_know_their_names_and_targets(kept: tuple[Skills, Path]) -> None:
    skills, path = kept
    assert len(skills) == 16
    assert (skills[7].name, skills[7].targets) == ("position #7", ("position",))
    assert (skills[9].name, skills[9].targets) == ("object 5,5 #1", ("object 5,5",))
    assert skills[-1].name == "object 8,7 #1"
    with pytest.raises(IndexError):
        skills[16]
    assert [one.name for one in skills[8:10]] == ["object 5,5 #0", "object 5,5 #1"]
    card = json.loads((path.parent / "card.json").read_text())
    assert card["skills"][9] == {"name": "object 5,5 #1", "targets": ["object 5,5"], "array": "object 5,5"}
    assert card["length"] == 2


def test_one_skill_acts_on_numbers_and_arrays(kept: tuple[Skills, Path]) -> None:
    skills, _ = kept
    alone = skills[9].act(864, 864, 0, np.random.default_rng(1))
    assert alone.shape == ()
    many = skills[9].act(np.full((3, 2), 864), 864, 1, np.random.default_rng(1))
    assert many.shape == (3, 2)
    assert set(many.ravel().tolist()) <= set(range(5))
    assert skills[9].act(np.zeros(0, int), 864, 0, np.random.default_rng(1)).shape == (0,)


@pytest.mark.parametrize(
    ("at", "says"),
    [
        ((864, 864, 2), "time: found 2, expected 0 to 1"),
        ((864, 864, [0, -1]), "time: found -1, expected 0 to 1"),
        (([0, 1664], 864, 0), "state: found 1664, expected 0 to 1663"),
        ((864, -3, 0), "start: found -3, expected 0 to 1663"),
    ],
)
def test_a_skill_acts_within_its_states_and_steps(
    kept: tuple[Skills, Path], at: tuple[Any, Any, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=f"^{says}$"):
        kept[0][9].act(*at, np.random.default_rng(1))


def test_shares_are_those_of_the_q_values() -> None:
    world = four_rooms()
    groups = focused(world.schema, 5.0)[3:4]
    q = np.zeros((2, 1, 5, 1664, 104), np.float32)
    q[1, 0, :, world.home, 54] = [0, 1, 2, 0.5, -3]
    skills = Skills(world.schema, groups, [cumulated(q, 0.7)])
    start = world.home
    assert groups[0].starts[start] == 54
    actions = skills[1].act(np.full(200_000, start), start, 0, np.random.default_rng(0))
    found = np.bincount(actions, minlength=5) / len(actions)
    assert found == pytest.approx(probabilities(q[1, 0, :, start, 54], 0.7), abs=0.006)
    elsewhere = skills[1].act(np.full(200_000, start), 0, 0, np.random.default_rng(0))
    assert np.bincount(elsewhere) / len(elsewhere) == pytest.approx(np.full(5, 0.2), abs=0.004)


@pytest.mark.parametrize(
    ("shares", "kept"),
    [
        ([1, 3000, 1, 1, 1], [0, 255, 255, 255]),
        # between two halves of 255 a tiny share crosses a border that is rounded at
        ([1, 4.5e-5, 1, 4.5e-5, 4.5e-5], [128, 128, 255, 255]),
        ([4.5e-5, 1, 4.5e-5, 4.5e-5, 1], [0, 128, 128, 128]),
        ([1, 1 / 300, 0, 0, 0], [254, 255, 255, 255]),  # likely enough to be kept
    ],
)
def test_what_is_very_unlikely_is_never_done(shares: list[float], kept: list[int]) -> None:
    q = np.log(np.array(shares, np.float32) + np.float32(1e-12)).reshape(1, 1, 5, 1, 1)
    assert cumulated(q, 1.0).ravel().tolist() == kept


def test_no_share_below_one_in_510_is_kept() -> None:
    q = np.random.default_rng(0).normal(size=(1, 1, 5, 1000, 20)).astype(np.float32)
    kept = cumulated(q, 0.2)[0, 0].astype(int)
    found = np.diff(np.concatenate([kept, np.full((1000, 20, 1), 255)], axis=-1), prepend=0)
    likely = probabilities(np.moveaxis(q[0, 0], 0, -1), 0.2)
    assert found[likely < 1 / 510].tolist() == [0] * int((likely < 1 / 510).sum())
    assert np.abs(found / 255 - likely).max() < 1.01 / 255 + 4 / 510


def test_all_skills_of_the_default_study_fit_into_a_gigabyte() -> None:
    study, world = Config().skills, four_rooms()
    numbers = sum(
        part.skills * study.train.length * world.schema.size * part.start_count * (world.actions - 1)
        for base in BASES
        for mode in MODES
        for part in groups(world.schema, mode, study.train.algorithm(base).weight)
    )
    each = cumulated(np.zeros((1, 1, 5, 1, 1), np.float32), 1.0).itemsize
    assert len(study.seeds) * numbers * each <= 1e9


def test_random_skills_are() -> None:
    world = four_rooms()
    skills = random_skills(world, 16, 24)
    actions = skills[3].act(np.full(100_000, 5), 7, 23, np.random.default_rng(0))
    assert np.bincount(actions) / len(actions) == pytest.approx(np.full(5, 0.2), abs=0.004)
    assert skills[3].targets == ()


def test_damage_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    ledger = Ledger(path, "skills", {})
    save(some_skills(1), ledger)
    card = json.loads((tmp_path / "card.json").read_text())
    card["length"] = 3
    (tmp_path / "card.json").write_text(json.dumps(card))
    ledger.record("card.json")
    ledger.finish({})
    with pytest.raises(UserError, match=r"found 'position' of shape \[8, 1, 1664, 1, 4\], expected \[8, 3"):
        load(path)
    (tmp_path / "card.json").write_text("{}")
    with pytest.raises(UserError, match="card.json"):
        load(path)

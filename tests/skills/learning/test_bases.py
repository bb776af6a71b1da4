"""What the base algorithms reward."""

from __future__ import annotations

import numpy as np
import pytest

from steps.skills.learning.bases import BASES, DIAYN, VIC, Base


@pytest.fixture(params=sorted(BASES))
def base(request: pytest.FixtureRequest) -> Base:
    return BASES[request.param](4, 10, np.random.default_rng(0))


def test_nobody_gets_more_than_log_k(base: Base) -> None:
    chance = np.random.default_rng(1)
    for _ in range(20):
        base.update(np.arange(4), chance.integers(10, size=(4, 3)))
        assert base.log_ratio().max() <= np.log(4) + 1e-6
        shares = np.exp(base.log_ratio()) / 4
        assert np.allclose(shares.sum(0), 1, atol=1e-5)  # of every value


def test_the_reward_is_zero_where_skills_cannot_be_told_apart(base: Base) -> None:
    base.visits[:] = 0.1
    assert np.allclose(base.reward(2, np.arange(10), last=True), 0, atol=1e-6)


def test_vic_rewards_the_end_alone_and_learns_from_it() -> None:
    vic = VIC(2, 3, np.random.default_rng(0))
    assert vic.reward(0, np.arange(3), last=False).tolist() == [0, 0, 0]
    for _ in range(30):
        vic.update(np.array([0, 1]), np.array([[2, 2, 0], [2, 2, 1]]))
    assert vic.reward(0, np.arange(3), last=True)[:2] == pytest.approx([np.log(2), -4.3], abs=0.1)
    assert vic.visits[:, 2].max() < 1e-3


def test_diayn_rewards_every_step_and_learns_from_all() -> None:
    diayn = DIAYN(2, 3, np.random.default_rng(0))
    for _ in range(30):
        diayn.update(np.array([0, 1]), np.array([[2, 2, 0], [2, 2, 1]]))
    assert diayn.visits[:, 2] == pytest.approx([2 / 3, 2 / 3], abs=1e-3)
    for last in (False, True):
        found = diayn.reward(1, np.arange(3), last)
        assert found[1] == pytest.approx(np.log(2), abs=0.05)
        assert found[2] == pytest.approx(0, abs=1e-3)


def test_bits_begin_with_a_reason_to_be_changed() -> None:
    vic = VIC(2, 2, np.random.default_rng(0))
    assert vic.visits.tolist() == [[0.8, 0.2], [0.2, 0.8]]
    assert vic.reward(1, np.array([1]), last=True) > 0.4 > vic.reward(1, np.array([0]), last=True)


def test_a_value_that_nobody_reached_stays_worth_reaching() -> None:
    vic = VIC(2, 2, np.random.default_rng(0))
    for _ in range(50):
        vic.update(np.array([0, 1]), np.array([[0], [0]]))
    assert vic.reward(1, np.array([1]), last=True) == pytest.approx(np.log(1.6), abs=1e-3)
    assert vic.reward(0, np.array([1]), last=True) == pytest.approx(np.log(0.4), abs=1e-3)
    assert np.abs(vic.reward(1, np.array([0]), last=True)) < 0.02


def test_a_skill_that_did_not_run_learns_nothing() -> None:
    vic = VIC(3, 4, np.random.default_rng(0))
    before = vic.visits.copy()
    vic.update(np.array([1]), np.array([[0]]))
    assert (vic.visits[[0, 2]] == before[[0, 2]]).all()
    assert (vic.visits[1] != before[1]).any()

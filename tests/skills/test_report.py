"""The headline figures are those of the results, and what is said about them is true."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steps.core.errors import UserError
from steps.core.runner import Output
from steps.core.settings import validate
from steps.report.page import Report
from steps.skills import report
from steps.workflow.configuration import Config

SKILLS = [{"name": f"position #{n}", "targets": ["position"], "group": "position"} for n in range(2)] + [
    {"name": f"{name} #{n}", "targets": [name], "group": name}
    for name in ("object a", "object b")
    for n in range(2)
]


def judged(base: str, mode: str, seed: int, area: float) -> dict[str, Any]:
    """A planted evaluation: six skills of three groups."""
    focused = mode == "focused"
    about = {
        "control": [[0.5, 0, 0], [0, 0.9 - 0.1 * seed, 0], [0, 0, 0.99]] if focused else [[0.5, 0.1, 0.1]],
        "change": [[0.9, 0, 0]] * 2 + [[0, 0, 0], [0, 1, 0.02 * seed]] + [[0, 0, 0], [0.01, 0, 1]],
        "side_effects": [0.0, 0.0, 0.0, 0.02 * seed, 0.0, 0.01] if focused else [0.3] * 6,
        "transient": [0.1] * 6,
        "irreversible": [0.0] * 6,
    }
    elsewhere = about | {"side_effects": [0.1, 0.2] * 2 + [0.3, 0.7 + 0.02 * seed]} if focused else about
    skills = (
        SKILLS if focused else [{"name": f"state #{n}", "targets": [], "group": "state"} for n in range(6)]
    )
    return {
        **{"base": base, "mode": mode, "seed": seed, "skills": skills, "home": about, "pooled": elsewhere},
        "coverage": {"terminal": [0.1] * 5, "visited": [0.2] * 5, "auc": area + 0.01 * seed},
        "action_entropy": 1.0,
    }


def task(base: str, mode: str, seed: int, steps: float) -> dict[str, Any]:
    choices = ["skills", "skills and primitives"] if base in report.BASES else ["primitives"]
    return {
        **{"base": base, "mode": mode, "seed": seed},
        "learners": [
            {
                "choices": kind,
                "initial": initial,
                "curve": [{"episodes": 8, "steps": steps + 5 * initial, "success": 1.0}],
            }
            for kind in choices
            for initial in (0.0, 1.0)
        ],
    }


AREAS = {("vic", "focused"): 1.5, ("vic", "unfocused"): 0.7, ("diayn", "focused"): 1.0}
AREAS |= {("diayn", "unfocused"): 1.6, ("random", "random"): 0.9}


@pytest.fixture(scope="module")
def planted() -> report.Results:
    seeds = (2, 1, 3)
    evaluations = [judged(base, mode, seed, area) for seed in seeds for (base, mode), area in AREAS.items()]
    kinds = [(base, mode) for base, mode in AREAS if base != "random"] + [("primitives", "primitives")]
    downstream = [
        task(base, mode, seed, {"focused": 96, "unfocused": 320, "primitives": 200}[mode])
        for seed in seeds
        for base, mode in kinds
    ]
    return report.Results(evaluations, downstream)


def test_metrics_are_means_over_seeds(planted: report.Results) -> None:
    found = report.metrics(planted)
    assert all(type(value) in (int, float) for value in found.values())
    assert found["seeds"] == 3
    assert found["fourrooms_vic_side_effects_focused"] == pytest.approx((0.04 + 0.01) / 6)
    assert found["fourrooms_vic_side_effects_worst"] == pytest.approx((0.02 + 0.04 + 0.06) / 3)
    assert found["fourrooms_vic_control_min"] == pytest.approx(0.7)  # of the worst object, not the position
    assert found["fourrooms_vic_auc_focused"] == pytest.approx(1.52)
    assert found["fourrooms_diayn_auc_unfocused"] == pytest.approx(1.62)
    assert found["fourrooms_random_auc"] == pytest.approx(0.92)
    assert found["fourrooms_vic_auc_difference_low"] == pytest.approx(0.8)
    assert found["fourrooms_vic_steps_to_goal_focused"] == 96
    assert found["fourrooms_vic_steps_to_goal_unfocused"] == 320
    assert found["fourrooms_steps_to_goal_primitives"] == 200
    named = {line.split("``")[1] for line in (report.__doc__ or "").splitlines() if line.startswith("``")}
    expected = {name.replace("_b_", f"_{base}_") for name in named for base in report.BASES}
    assert found.keys() == expected - {"metrics.json"}


def test_the_summary_says_who_won(planted: report.Results) -> None:
    text = report.summary(planted, report.metrics(planted), Config().skills.model_dump())
    _, vic, diayn, last = text.split("\n\n")
    assert (
        "single actions alone 200 from 0 and 205 from 1; focused VIC skills 96 from 0 and 101 from 1" in last
    )
    assert "cover more than unfocused ones: an area of 1.52 against 0.72" in vic
    assert "change 0.008 variables that they should leave alone, the worst skill 0.040; from starts" in vic
    assert "can be reached 0.273, the worst skill 0.740." in vic
    assert (
        "Whether object a is held at the end gives 70 % of the information on which of its two skills ran"
        in vic
    )
    assert "cover less than unfocused ones: an area of 1.02 against 1.62" in diayn
    assert "96 steps over focused skills, 320 over unfocused" in vic


def test_tables_hold_every_set_and_skill(planted: report.Results) -> None:
    made = {table["title"]: table for table in report.tables(planted, Config().skills.model_dump())}
    assert [len(table["rows"]) for table in made.values()] == [5, 10, 12, 4, 4 * 4 + 2]
    assert made["Every focused skill"]["rows"][3] == [
        *("VIC", "object a #1", 1.0, pytest.approx(0.04), pytest.approx(0.06)),
    ]
    effects = made["Side effects"]["rows"]
    assert [row[:3] for row in effects[-2:]] == [
        ["none", "random policies: changed variables less 1", start] for start in ("home", "pooled")
    ]
    assert [(row[2], row[4]) for row in effects[:2]] == [("home", 0.04), ("pooled", pytest.approx(0.74))]
    assert made["Coverage by chains of skills"]["rows"][0][2].startswith("1.52 [1.5")
    for table in made.values():
        assert all(len(row) == len(table["columns"]) for row in table["rows"])


def test_captions_name_the_settings_and_both_budgets(planted: report.Results) -> None:
    settings = Config().skills.model_dump()
    changed = settings | {
        "train": settings["train"] | {"length": 10},
        "downstream": settings["downstream"] | {"cap": 70, "episodes": 3200, "at_once": 16},
    }
    caption = report.downstream_table(planted, changed)["caption"]
    assert "70 where it was missed" in caption
    assert "Four skills, one for each object, take 40 steps, the shortest way of single actions 28" in caption
    assert "VIC 93, DIAYN 106; for unfocused ones and without skills 320" in caption
    assert "3,200 episodes here, 16 at a time over the same Q-values; 20,000 there" in caption
    assert "70 standing for a miss" in report.summary(planted, report.metrics(planted), changed)


def test_headline_figures_are_from_zero_wherever_it_stands(planted: report.Results) -> None:
    turned = [one | {"learners": one["learners"][::-1]} for one in planted.downstream]
    found = report.metrics(report.Results(planted.evaluations, turned))
    assert found == report.metrics(planted)


@pytest.mark.parametrize(
    ("evaluations", "downstream", "says"),
    [
        (slice(1, None), slice(None), "--evaluations: found 0 results of vic, focused, seed 2, expected 1"),
        (
            slice(None),
            slice(-1),
            "--downstream: found 0 results of primitives, primitives, seed 3, expected 1",
        ),
        # a seed of which there is nothing but a task
        (slice(None, -5), slice(None), "--evaluations: found 0 results of diayn, focused, seed 3"),
    ],
)
def test_results_of_every_set_and_seed_are_needed(
    planted: report.Results, evaluations: slice, downstream: slice, says: str
) -> None:
    with pytest.raises(UserError, match=f"^{says}"):
        report.Results(planted.evaluations[evaluations], planted.downstream[downstream])


def test_a_result_that_is_there_twice_is_refused(planted: report.Results) -> None:
    twice = [*planted.evaluations[:-1], planted.evaluations[0]]  # as many, and other seeds
    with pytest.raises(UserError, match="found 2 results of vic, focused, seed 2, expected 1; pass one of"):
        report.Results(twice, planted.downstream)


def test_a_whole_report_keeps_the_contract(
    ledgers: list[Path], results: tuple[list[Path], list[Path]], tmp_path: Path
) -> None:
    section = json.dumps(Config().skills.model_dump(mode="json"))
    numbers, made = Output(tmp_path / "metrics.json"), Output(tmp_path / "report.json")
    report.main("default", section, ledgers, *results, numbers, made)
    found = json.loads(made.read_text())
    checked = validate(Report, found, "report.json")
    assert checked.title == "Focused skill discovery"
    assert len(checked.cards) == 8
    assert {"numpy", "python"} <= checked.provenance.versions.keys()
    assert np.isfinite(list(json.loads(numbers.read_text()).values())).all()

"""Focused skill discovery, as rules see it: its section, the names of its sets of skills, resources of its
jobs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import pydantic

from steps.core.settings import deciding
from steps.skills import downstream as skills_downstream
from steps.skills import evaluate as skills_evaluate
from steps.skills import figure as skills_figure
from steps.skills.learning import tabular
from steps.skills.learning.bases import BASES, MODES, PRIMITIVES, RANDOM
from steps.skills.learning.focus import UNFOCUSED_SKILLS
from steps.workflow.resources import growing
from steps.workflow.section import StudySection, distinct

if TYPE_CHECKING:
    from steps.workflow.configuration import Config

WORLD = "fourrooms"
SETS = [f"{base}-{mode}" for base in BASES for mode in MODES]
"""Sets of skills that are learned, as folders call them."""

FIGURES = tuple(skills_figure.FIGURES)

WITHOUT = {"evaluate": RANDOM, "downstream": PRIMITIVES}
"""What stands beside them in results, without any skills of its own."""


class Skills(StudySection):
    """Focused skill discovery: skills that control one state variable and leave the others as they were."""

    made: ClassVar[tuple[str, ...]] = ("data/skills",)

    seeds: list[Annotated[int, pydantic.Field(ge=0, lt=2**63)]] = pydantic.Field(
        [1, 2, 3], min_length=1, description="all sets of skills are learned once from each"
    )
    train: tabular.Settings = pydantic.Field(tabular.Settings(), description="how skills are learned")
    evaluate: skills_evaluate.Settings = pydantic.Field(
        skills_evaluate.Settings(), description="how skills are judged"
    )
    downstream: skills_downstream.Settings = pydantic.Field(
        skills_downstream.Settings(), description="the task that is learned over skills"
    )

    @pydantic.field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: list[int]) -> list[int]:
        return distinct(seeds, "seeds")

    def pathvars(self) -> dict[str, str]:
        return {
            "skill_sets": f"data/skills/{self.study}/{WORLD}",
            "skills": f"results/skills/{self.study}",
            "skills_results": f"results/skills/{self.study}/{WORLD}",
            "skills_study": self.study,
        }

    def report_file(self) -> str:
        return f"results/skills/{self.study}/report.json"


def results(config: Config, step: str) -> list[str]:
    """The results of a step for all sets of skills, and for what stands beside them."""
    names, seeds = [*SETS, WITHOUT[step]], config.skills.seeds
    return [f"<skills_results>/{name}/seed-{seed}/{step}.json" for name in names for seed in seeds]


def ledger(wildcards: Any) -> list[str]:
    """The ledger of the skills that a job is about; none where it does without."""
    if wildcards.skills in WITHOUT.values():
        return []
    return ["<skill_sets>/{skills}/seed-{seed}/ledger.json".format(**wildcards)]


def train_settings(config: Config) -> Callable[[Any], str]:
    """What decides the skills of a job, as JSON: of the base algorithms' settings those of its own."""
    found = deciding(config.skills.train)
    return lambda wildcards: json.dumps(
        {name: value for name, value in found.items() if name not in BASES or name == wildcards.base}
    )


def resources(config: Config, step: str) -> dict[str, Any]:
    """Megabytes and minutes that a step asks for; both grow with each attempt.

    Of skills of an object, each step takes 104 x 1,664 numbers for every skill and action: in training 28 MB
    of Q-values and 11 MB of policies, a peak of 1.0 GB with 24 steps, and 11 MB where skills are read. All
    runs of a round, or from all starts, are held at once: 13 bytes for each of their states in training, 25
    where they are judged.
    """
    chapter = config.skills
    train, evaluate, downstream = chapter.train, chapter.evaluate, chapter.downstream
    if step == "train":
        runs = train.exploring + UNFOCUSED_SKILLS * train.episodes
        return growing(
            700 + 42 * train.length + 16e-6 * runs * (train.length + 1),
            10 + train.iterations * train.length * 5e-3,
        )
    read = 700 + 14 * train.length
    if step == "evaluate":
        runs = UNFOCUSED_SKILLS * (evaluate.runs + evaluate.starts * evaluate.runs_per_start)
        return growing(read + 30e-6 * runs * (train.length + 1), 10 + runs * train.length * 1e-8)
    if step == "downstream":
        learners = 2 * len(downstream.initial)
        return growing(
            read + 2e-3 * learners * downstream.at_once,
            10 + learners * downstream.episodes * downstream.cap * 1e-6,
        )
    return growing(read, 10)

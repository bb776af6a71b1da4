"""Focused skill discovery, as rules see it: its section, the names of its sets of skills, resources of its
jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import pydantic

from steps.skills import downstream as skills_downstream
from steps.skills import evaluate as skills_evaluate
from steps.skills import figure as skills_figure
from steps.skills.learning import tabular
from steps.skills.learning.bases import BASES
from steps.workflow.resources import growing
from steps.workflow.section import StudySection, distinct

if TYPE_CHECKING:
    from steps.workflow.configuration import Config

WORLD = "fourrooms"
SETS = [f"{base}-{mode}" for base in BASES for mode in tabular.MODES]
"""Sets of skills that are learned, as folders call them."""

FIGURES = tuple(skills_figure.FIGURES)

WITHOUT = {"evaluate": "random", "downstream": "primitives"}
"""What stands beside them in results, without any skills of its own."""


class Skills(StudySection):
    """Focused skill discovery: skills that control one state variable and leave the others as they were."""

    made: ClassVar[tuple[str, ...]] = ("data/skills",)

    seeds: list[Annotated[int, pydantic.Field(ge=0, lt=2**63)]] = pydantic.Field(
        [1, 2, 3], min_length=1, description="seeds; each learns all sets of skills"
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


def resources(config: Config, step: str) -> dict[str, Any]:
    """Megabytes and minutes that a step asks for; both grow with each attempt.

    Q-values of focused skills of an object take 104 x 1,664 x 5 numbers for each step of a skill; measured at
    24 steps, a training peaks at 1.0 GB, what reads its skills at .4 GB.
    """
    train = config.skills.train
    if step == "train":
        return growing(800 + 32 * train.length, 10 + train.iterations * train.length * 5e-3)
    return growing(700 + 14 * train.length, 10 + config.skills.downstream.episodes * 1e-3)

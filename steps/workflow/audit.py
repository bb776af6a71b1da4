"""Audits, as rules see them: their section, the models of a study, resources of their jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import pydantic

from steps.audit import organism as audit_organism
from steps.audit import package as audit_package
from steps.audit import run as audit_run
from steps.audit import tamper as audit_tamper
from steps.audit import world as audit_world
from steps.workflow.resources import growing
from steps.workflow.section import StudySection

if TYPE_CHECKING:
    from steps.workflow.configuration import Config


class Audit(StudySection):
    """Audits of models with planted defects, by level of access."""

    made: ClassVar[tuple[str, ...]] = ("data/audit",)

    world: audit_world.Settings = pydantic.Field(
        audit_world.Settings(), description="what models speak of and what is planted in them"
    )
    organism: audit_organism.Settings = pydantic.Field(
        audit_organism.Settings(), description="the models and how they are trained"
    )
    package: audit_package.Settings = pydantic.Field(
        audit_package.Settings(), description="the documents of a model"
    )
    run: audit_run.Settings = pydantic.Field(audit_run.Settings(), description="how models are audited")
    tamper: audit_tamper.Settings = pydantic.Field(
        audit_tamper.Settings(), description="records that are falsified, to see that it is noticed"
    )

    def pathvars(self) -> dict[str, str]:
        return {
            "audit_models": f"data/audit/{self.study}",
            "audit": f"results/audit/{self.study}",
            "audit_study": self.study,
        }

    def report_file(self) -> str:
        return f"results/audit/{self.study}/report.json"

    @pydantic.model_validator(mode="after")
    def _heads_divide_d_model(self) -> Audit:
        if self.organism.d_model % self.organism.heads:
            raise ValueError(
                f"audit.organism.d_model ({self.organism.d_model}) to be a multiple of"
                f" audit.organism.heads ({self.organism.heads})"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _budgets_are_enough(self) -> Audit:
        audit_run.require_enough(self.run.budgets, self.organism.layers)
        return self


def resources(config: Config, step: str) -> dict[str, Any]:
    """Megabytes and minutes that a step asks for; minutes assume 10 GFLOP/s per thread."""
    section = config.audit
    model, budgets = section.organism, section.run.budgets
    parameters = 12 * model.layers * model.d_model**2 + 400 * model.d_model
    row = 6 * parameters * audit_world.N_CTX
    steps = max(model.base_steps, model.tune_steps)
    trained = steps * model.batch_rows * row * audit_organism.ATTEMPTS
    # Weights, their gradients and moments, what was written and is read again; values of each layer for the
    # pass backward, or those of one layer for the rows on which the loss is looked at.
    values = max(34 * model.layers * model.batch_rows, 20 * audit_organism.HELD_OUT)
    held = 24 * parameters + 4 * values * audit_world.N_CTX * model.d_model
    audited = sum(budgets.model_dump().values()) * 2 * row
    megabytes, work, threads, device = {
        "organism": (1_500 + held / 1e6, trained, model.threads, model.device),
        "run": (2_000 + 16 * parameters / 1e6, audited, section.run.threads, "cpu"),
        "tamper": (800, 0.0, 1, "cpu"),
    }[step]
    return growing(megabytes, 15 + 2 * work / (10e9 * 60 * threads), gpu=device != "cpu")

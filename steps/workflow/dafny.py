"""DafnyBench, as rules see it: its section, the user's programs, what comes with it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pydantic

from steps.core.errors import UserError
from steps.dafny import generate as dafny_generate
from steps.dafny import page as dafny_page
from steps.dafny import programs as dafny_programs
from steps.dafny import prove as dafny_prove
from steps.dafny.generators import replay
from steps.dafny.verifier import locate
from steps.workflow.resources import growing
from steps.workflow.section import StudySection
from steps.workflow.user_files import declarable, declared

if TYPE_CHECKING:
    from steps.workflow.configuration import Config

EMBEDDED = Path(__file__).resolve().parents[1] / "dafny" / "embedded"
"""Programs of our own, answers to them, and recorded calls: inputs of rules, no code."""


class Dafny(StudySection):
    """Programs that lost the hints of their proofs, and what puts them back."""

    data: ClassVar[tuple[str, ...]] = ("steps/dafny/embedded",)

    batches: int = pydantic.Field(
        2,
        ge=1,
        le=1000,
        description="jobs into which proving and verifying are cut; no influence on verdicts",
    )
    verifier: locate.Verifier = pydantic.Field(locate.Verifier(), description="Dafny and its limits")
    programs: dafny_programs.Settings = pydantic.Field(
        dafny_programs.Settings(), description="which programs, and how they lose their hints"
    )
    generate: dafny_generate.Settings = pydantic.Field(
        dafny_generate.Settings(), description="whose answers are judged"
    )
    prove: dafny_prove.Settings = pydantic.Field(
        dafny_prove.Settings(), description="the prover that needs no language model"
    )
    page: dafny_page.Settings = pydantic.Field(dafny_page.Settings(), description="the page of all programs")

    @pydantic.model_validator(mode="after")
    def _fits_its_programs(self) -> Dafny:
        if self.embedded and self.generate.replay is not None:
            raise ValueError(
                "generate.replay only with programs.folder or programs.test_json: it has no answer to the"
                " embedded programs"
            )
        if not self.embedded and self.verifier.verdicts == "recorded":
            raise ValueError(
                "verifier.verdicts: recorded only with the embedded programs: of others nothing is recorded"
            )
        return self

    @property
    def embedded(self) -> bool:
        """Whether the programs are those that come along."""
        return self.programs.folder is None and self.programs.test_json is None

    def pathvars(self) -> dict[str, str]:
        return {"dafny": f"results/dafny/{self.study}", "dafny_study": self.study}

    def report_file(self) -> str:
        return f"results/dafny/{self.study}/report.json"

    def user_files(self, config: Config) -> dict[str, list[str]]:
        inputs, odd = _programs(self)
        return {"programs": inputs, "odd": odd, "answers": _answers(self)}


def _programs(section: Dafny) -> tuple[list[str], list[str]]:
    """The user's programs: inputs, and values of a parameter (``declared``)."""
    if section.programs.test_json is not None:
        return declarable([_existing(section.programs.test_json, "dafny.programs.test_json")]), []
    if section.programs.folder is None:
        return [], []
    return declared(dafny_programs.look_through(_place(section.programs.folder)).programs)


def _answers(section: Dafny) -> list[str]:
    """The published answers that are replayed."""
    if section.generate.replay is None:
        return []
    folder = _place(section.generate.replay)
    found = {
        ending: [
            path
            for top in (folder, folder / "results")
            for name in names
            for path in sorted((top / name).glob(f"*{ending}"))
        ]
        for ending, names in replay.FOLDERS.items()
    }
    if not found[replay.OUTPUTS]:
        names = " or ".join(replay.FOLDERS[replay.OUTPUTS])
        raise UserError(
            f"dafny.generate.replay: found no NAME{replay.OUTPUTS} under {names} in {folder}, expected the"
            " benchmark's repository or its results; name its folder"
        )
    models = {path.name.removesuffix(replay.OUTPUTS) for path in found[replay.OUTPUTS]}
    tables = [one for one in found[replay.RESULTS] if one.name.removesuffix(replay.RESULTS) in models]
    return declarable([*found[replay.OUTPUTS], *tables])


def _existing(text: str, key: str) -> Path:
    path = _place(text)
    if "\0" in text or not path.is_file():
        raise UserError(f"{key}: found {text!r}, expected a file; name another")
    return path


def _place(text: str) -> Path:
    """A path of the user's; ``~`` is the home folder, as in a shell."""
    return Path(os.path.expanduser(text))


def _embedded() -> Path:
    """The embedded files as rules name them: where a clone runs in itself, by a path that moves with it."""
    here = Path("steps/dafny/embedded")
    return here if here.resolve() == EMBEDDED else EMBEDDED


def program_files(config: Config) -> list[str]:
    """The embedded programs; empty where the study has others."""
    if not config.dafny.embedded:
        return []
    return [str(path) for path in sorted((_embedded() / "programs").glob("*.dfy"))]


def answer_files(config: Config) -> list[str]:
    """The answers that come along; empty where the programs are others."""
    if not config.dafny.embedded:
        return []
    return [str(_embedded() / "answers.jsonl")]


def recorded(config: Config) -> list[str]:
    """What Dafny said of the embedded programs."""
    return [str(_embedded() / "recorded.jsonl")] if config.dafny.embedded else []


def resources(config: Config) -> dict[str, Any]:
    """What a job that asks Dafny needs: megabytes of Dafny, Z3 and ours, and minutes.

    A program of the benchmark takes about a minute of proving on one core, an embedded one some seconds.
    """
    section = config.dafny
    programs = 60 if section.embedded else section.programs.sample or 800
    return growing(section.verifier.memory_mb + 500, 30 + 3 * programs / section.batches)

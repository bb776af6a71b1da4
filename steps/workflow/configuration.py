"""The whole configuration, and what rules take from it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pydantic

from steps.core.devices import Device
from steps.core.digest import code_digest
from steps.core.errors import UserError
from steps.core.settings import Settings, deciding, validate, without_influence
from steps.workflow.audit import Audit
from steps.workflow.corpus import Corpus
from steps.workflow.dafny import Dafny
from steps.workflow.fractal import Fractal
from steps.workflow.language_models import LanguageModels
from steps.workflow.neurons import Neurons
from steps.workflow.report import Report
from steps.workflow.section import Section
from steps.workflow.skills import Skills

ROOT = Path(__file__).resolve().parents[2]

T = TypeVar("T")


class Config(Settings):
    """The whole configuration, one section per chapter (``config/default.yaml`` explains it).

    What stands above a step holds for every step below that has a setting of that name.
    """

    seed: int = pydantic.Field(0, ge=0, description="of everything random that has no seed of its own")
    device: Device = pydantic.Field(
        "cpu", description="where models run and products are formed: cpu, cuda, cuda:1"
    )
    threads: int = pydantic.Field(
        1,
        ge=1,
        le=1024,
        description="arithmetic threads of each job; results depend on it, --cores changes nothing",
    )
    corpus: Corpus = pydantic.Field(Corpus(), description="the corpus")
    language_models: LanguageModels = pydantic.Field(LanguageModels(), description="the language models")
    neurons: Neurons = pydantic.Field(Neurons(), description="universal neurons")
    fractal: Fractal = pydantic.Field(Fractal(), description="fractal generative models")
    skills: Skills = pydantic.Field(Skills(), description="focused skill discovery")
    dafny: Dafny = pydantic.Field(Dafny(), description="DafnyBench")
    audit: Audit = pydantic.Field(Audit(), description="audits by access level")
    report: Report = pydantic.Field(default=Report(), description="the report page")

    def sections(self) -> dict[str, Section]:
        """The chapters' sections, by name, in the order of the report page."""
        return {name: value for name, value in self if isinstance(value, Section)}

    def made_folders(self) -> list[str]:
        """The folders that the workflow writes into."""
        return [
            *(folder for section in self.sections().values() for folder in section.made),
            "results",
            "logs",
        ]

    @pydantic.model_validator(mode="after")
    def _sections_agree(self) -> Config:
        for section in self.sections().values():
            section.agree(self)
        return self


def configure(config: dict[str, Any]) -> Config:
    """Check the configuration that Snakemake merged.

    Raises:
        UserError: unknown or wrong keys, all of them in one line.
    """
    validate(Config, config, "configuration")  # what is wrong, where it was written, before it is inherited
    return validate(Config, _inherit(Config, config, {}), "configuration")


def _inherit(model: type[Settings], values: Any, above: dict[str, Any]) -> Any:
    """``values`` with what their settings model knows and only the levels above say."""
    if not isinstance(values, dict):
        return values
    fields = model.model_fields
    plain = {key: value for key, value in above.items() if key in fields}
    whole = plain | values
    shared = above | {key: value for key, value in whole.items() if not isinstance(value, dict)}
    for key, field in fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            whole[key] = _inherit(field.annotation, whole.get(key, {}), shared)
    return whole


def pathvars(config: Config) -> dict[str, str]:
    """Where the configured studies lie: rules write ``<neurons>/excess.parquet`` instead of a wildcard."""
    return {name: path for section in config.sections().values() for name, path in section.pathvars().items()}


def user_files(config: Config) -> dict[str, dict[str, list[str]]]:
    """The user's files that the chapters read, looked for at once, so that what is missing is noticed.

    Raises:
        UserError: one is missing or of no use.
    """
    try:
        return {name: section.user_files(config) for name, section in config.sections().items()}
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}); name another") from None


def reports(config: Config) -> dict[str, str]:
    """The ``report.json`` of every chapter that writes one, in the order of the page."""
    files = {name: section.report_file() for name, section in config.sections().items()}
    return {name: file for name, file in files.items() if file is not None}


def prepare_environment() -> None:
    """Let jobs find this environment's ``python`` and this checkout's ``steps``."""
    for variable, folder in (("PATH", Path(sys.executable).parent), ("PYTHONPATH", ROOT)):
        others = [p for p in os.environ.get(variable, "").split(os.pathsep) if p and p != str(folder)]
        os.environ[variable] = os.pathsep.join([str(folder), *others])


def step_params(config: Config) -> Callable[[str], dict[str, Any]]:
    """The helper ``step("chapter.step")`` with which a rule passes settings and code digest.

    Settings go behind a function of wildcards, since Snakemake formats plain strings and JSON is
    full of braces. Both are parameters, so a change of either reruns what depends on it. Settings without
    influence on the result are no parameters; rules take them from :func:`runtime_settings`.
    """

    def step(name: str) -> dict[str, Any]:
        section, _, key = name.partition(".")
        settings = getattr(getattr(config, section), key, None)
        params: dict[str, Any] = {"code": code_digest(name)}
        if settings is not None:
            params["settings"] = tracked(settings)
        return params

    return step


def or_exit(function: Callable[..., T], *arguments: Any) -> T:
    """What a function of a rule's input answers, or the end of Snakemake, whatever the user did wrong.

    What is wrong with a target's settings is known where the target is asked for. Of an exception Snakemake
    shows the wildcards and frames of ours; it lets an exit pass, and unlocks the folder.
    """
    try:
        return function(*arguments)
    except UserError as error:
        raise SystemExit(f"error: {error}") from None


def tracked(settings: Settings) -> Callable[[Any], str]:
    """Settings as a parameter: JSON of those that decide results."""
    text = json.dumps(deciding(settings), ensure_ascii=False)
    return lambda wildcards: text


def runtime_settings(config: Config) -> dict[str, str]:
    """Of each step, by name, the settings without influence on the result, as JSON.

    Rules pass them as a resource (``{resources.runtime_settings:q}``), since a change of
    a parameter reruns what depends on it.
    """
    return {
        f"{section}.{step}": json.dumps(without_influence(settings))
        for section, chapter in config.sections().items()
        for step, settings in chapter
        if isinstance(settings, Settings)
    }

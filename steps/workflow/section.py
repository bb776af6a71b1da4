"""A chapter's part of the configuration, and what every chapter tells the workflow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, TypeVar

import pydantic

from steps.core.settings import Settings

if TYPE_CHECKING:
    from steps.workflow.configuration import Config

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
"""What studies and models may be called: safe as part of a path on any system."""

T = TypeVar("T")

Name = Annotated[str, pydantic.Field(pattern=rf"^{NAME}$", max_length=80)]


def distinct(values: list[T], called: str) -> list[T]:
    """``values``, none of which is there twice; of values with a name, no name.

    Raises:
        ValueError: one is; ``called`` says what they are.
    """
    names = [getattr(value, "name", value) for value in values]
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise ValueError(f"{called} that differ ({double!r} is there twice)")
    return values


class Section(Settings):
    """Base of the chapters' sections: a field for each step that takes settings, named like the step."""

    made: ClassVar[tuple[str, ...]] = ()
    """The folders under ``data`` that the chapter's rules write into."""

    data: ClassVar[tuple[str, ...]] = ()
    """Folders under ``steps`` whose files its rules read as data: in no code digest."""

    def pathvars(self) -> dict[str, str]:
        """Where its study lies, for paths in rules: ``<neurons>/excess.parquet``."""
        return {}

    def user_files(self, config: Config) -> dict[str, list[str]]:
        """The user's files that it reads, by what names them, each to be declared as an input.

        Raises:
            UserError: one is missing or of no use.
        """
        return {}

    def agree(self, config: Config) -> None:
        """Check it against the other sections.

        Raises:
            UserError: they cannot work together.
        """

    def report_file(self) -> str | None:
        """The ``report.json`` that its study ends with; None where there is none."""
        return None


class StudySection(Section):
    """Base of sections whose results lie under the name of a study."""

    study: Name = pydantic.Field("default", description="name of the study")

"""The corpus, as rules see it: its section, the user's texts, resources of its jobs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pydantic

from steps.core.errors import UserError
from steps.core.text import shown
from steps.corpus import documents as corpus_documents
from steps.corpus.sources import files, hub
from steps.workflow.resources import growing
from steps.workflow.section import Name, StudySection
from steps.workflow.user_files import declared

if TYPE_CHECKING:
    from steps.workflow.configuration import Config


class Corpus(StudySection):
    """The corpus: labelled documents with a train and a held-out side."""

    made: ClassVar[tuple[str, ...]] = ("data/raw/embedded", "data/corpora")

    study: Name = pydantic.Field("embedded", description="name of the corpus, its folder in data/corpora")
    documents: corpus_documents.Settings = pydantic.Field(
        corpus_documents.Settings(), description="where the text comes from and how it is split"
    )

    def pathvars(self) -> dict[str, str]:
        return {"corpus": f"data/corpora/{self.study}", "corpus_study": self.study}

    def user_files(self, config: Config) -> dict[str, list[str]]:
        inputs, others = text_files(config)
        return {"documents": inputs, "odd": others}


def snapshot(config: Config) -> list[str]:
    """The frozen table that the corpus is made from; empty where the source is another."""
    return ["data/raw/embedded/stdlib.parquet"] if config.corpus.documents.source == "embedded" else []


def text_files(config: Config) -> tuple[list[str], list[str]]:
    """The user's files that the corpus is made from: inputs, and values of a parameter (``declared``).

    Raises:
        UserError: the folder is missing, holds none, or is one that the workflow writes into.
    """
    documents = config.corpus.documents
    if documents.source == "files":
        folder, key = Path(str(documents.files.folder)).expanduser(), "corpus.documents.files.folder"
        look: Callable[[Path], list[Path]] = files.list_files
    elif documents.source == "hub" and Path(str(documents.hub.dataset)).is_dir():
        folder, key = Path(str(documents.hub.dataset)), "corpus.documents.hub.dataset"
        look = hub.list_files
    else:
        return [], []
    if "\0" in str(folder):
        raise UserError(f"{key}: found {shown(folder)}, expected a path without NUL; name another folder")
    for made in map(Path, config.made_folders()):
        if folder.resolve().is_relative_to(made.resolve()) or made.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"{key}: found {shown(folder)}, expected a folder apart from {made}, which the workflow"
                " makes; put the texts in a folder of their own"
            )
    return declared(look(folder))


def resources(config: Config) -> dict[str, Any]:
    """What the corpus needs: megabytes of memory and minutes.

    Texts are streamed; memory grows with the number of documents, about 400 bytes each.
    """
    documents = config.corpus.documents
    if documents.source == "embedded":
        return growing(2_000, 10)
    millions = (documents.hub.maximum_documents or 20_000_000) / 1e6 if documents.source == "hub" else 3
    return growing(2_000 + 350 * millions, 30 + 60 * millions)

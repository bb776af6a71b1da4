"""Documents from a dataset of the Hugging Face hub, or of a local folder laid out like one."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pydantic

from steps.core.digest import file_digest
from steps.core.errors import UserError
from steps.corpus.sources.document import Columns, Document, shown
from steps.corpus.sources.streaming import streaming

logger = logging.getLogger("reprise")

_UNREACHED = {
    "ConnectionError",
    "OfflineModeIsEnabled",
    "NetworkError",
    "TimeoutError",
    "TimeoutException",
    "ClientConnectionError",
}
"""Names of what the libraries behind ``datasets`` raise without a network, or of its ancestors."""


class Hub(Columns):
    """Settings of the source ``hub``."""

    dataset: str | None = pydantic.Field(
        None, min_length=1, description="id of the dataset, or a local folder"
    )
    revision: str | None = pydantic.Field(
        None, min_length=1, description="commit, tag or branch; a commit is the only one that never changes"
    )
    config: str | None = pydantic.Field(None, min_length=1, description="configuration, where it has several")
    split: str = pydantic.Field("train", min_length=1, description="split of the dataset that is read")
    maximum_documents: int | None = pydantic.Field(
        10_000, ge=2, description="how many rows are read from the start, null for all"
    )


def inputs(settings: Hub) -> dict[str, str]:
    """SHA-256 of the files of a local folder; a dataset of the hub is known by its commit."""
    folder = Path(str(settings.dataset))
    if not folder.is_dir():
        if not re.fullmatch(r"[0-9a-f]{40}", str(settings.revision)):
            logger.warning(
                "corpus.documents.hub.revision: %r may change; name a commit for a corpus that does not",
                settings.revision,
            )
        return {}
    return {shown(path.relative_to(folder)): file_digest(path) for path in list_files(folder)}


def commit(settings: Hub) -> str | None:
    """The commit that ``revision`` names on the hub; none of a local folder, whose files have hashes.

    Raises:
        UserError: the hub cannot be reached, or has no such dataset or revision.
    """
    if Path(str(settings.dataset)).is_dir():
        return None
    if re.fullmatch(r"[0-9a-f]{40}", str(settings.revision)):
        return settings.revision
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(str(settings.dataset), revision=settings.revision).sha
    except Exception as error:
        raise UserError(_explain(settings, error)) from error


def list_files(folder: Path) -> list[Path]:
    """The files of a local folder, sorted; hidden files and folders are left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def documents(settings: Hub) -> Iterator[Document]:
    """The rows of the dataset in its order; the row is the unit of the split.

    Raises:
        UserError: the dataset cannot be reached or read, or a row has not the columns asked for.
    """
    with streaming() as load:
        for number, record in enumerate(itertools.islice(_rows(settings, load), settings.maximum_documents)):
            label, text = settings.read(record, f"{settings.dataset}, row {number}", settings.split)
            key = f"{settings.split}#{number}"
            yield Document(key, key, label, text)


def _rows(settings: Hub, load: Any) -> Iterator[Mapping[str, Any]]:
    try:
        data = load(settings.dataset, settings.config, split=settings.split, revision=settings.revision)
        columns = data.column_names or list(next(iter(data), {}))
        needed = settings.needed(columns, str(settings.dataset))
        yield from data.select_columns(needed)  # pictures and sounds need not be decoded
    except UserError:
        raise
    except Exception as error:
        raise UserError(_explain(settings, error)) from error


def _explain(settings: Hub, error: Exception) -> str:
    what = f"corpus.documents.hub: dataset {settings.dataset!r} (revision {settings.revision!r})"
    kinds = {kind.__name__ for kind in type(error).__mro__}
    reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
    if kinds & _UNREACHED:
        return (
            f"{what} could not be reached ({reason}); check the network and HF_HUB_OFFLINE, or name a local"
            " folder or another source in corpus.documents.source"
        )
    return f"{what} could not be read ({reason}); check dataset, config, split and revision"
